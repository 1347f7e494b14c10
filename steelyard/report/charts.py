"""Geometry of the report's charts: measurements in, coordinates and shades out; the template draws them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from steelyard.bundle import BundleIndex, Epoch
from steelyard.evaluation.answers import SplitOutputs
from steelyard.evaluation.bounds import proportion_bound
from steelyard.evaluation.measurement import Measurement
from steelyard.evaluation.roc import RocCurve
from steelyard.evaluation.scorecard import ScorecardIndex
from steelyard.metrics import metric
from steelyard.page import NARROW_SPACE

SHADES = 9  # above 0, for each of the two hues
MOST_LABELS = 40  # that fit beside a confusion matrix
BINS = 10  # of confidence
MOST_POINTS = 120  # of a curve: more than its pixels tell
LEFT, RIGHT, TOP, BOTTOM = 38.0, 312.0, 8.0, 128.0  # of a plot, in a view box of 320 x 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell of a confusion matrix that is not empty."""

    row: int
    column: int
    text: str
    shade: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """A confusion matrix: a row for each true class, a column for each predicted one."""

    total: int  # images, or pixels
    classes: tuple[str, ...]
    side: float  # of a cell
    every: int  # how many classes share one label
    written: bool  # whether a cell has room for its text
    cells: list[Cell]
    mistaken: list[str]  # the most frequent confusions, in words


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Training and validation over the epochs."""

    what: str
    train: str
    validation: str
    ticks: list[tuple[float, str]]
    best: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """The training of one candidate."""

    candidate: str
    epochs: tuple[int, int]
    best_epoch: int | None
    charts: tuple[Chart, Chart]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One candidate's measurement on a panel's axis, in percent of its length."""

    candidate: str
    measurement: Measurement
    at: float
    bound_at: float
    wins: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One metric of all candidates side by side.

    Amounts are bars from zero. Fractions, which mostly lie close to 1, are dots on an axis that says where it begins;
    times and sizes are dots on a logarithmic one, because ratios of them are what counts.
    """

    name: str
    low: float
    high: float
    scale: Literal["from zero", "from here", "logarithmic"]
    limit_at: float | None
    marks: list[Mark]


@dataclass(frozen=True, slots=True, kw_only=True)
class Roc:
    """One-vs-rest ROC curves of a candidate."""

    candidate: str
    lines: list[tuple[str, str]]  # class and points


@dataclass(frozen=True, slots=True, kw_only=True)
class Confidence:
    """Answers of like confidence."""

    x: float  # how sure they are
    y: float  # how often they are right
    reach: tuple[float, float]  # exact one-sided 95 % bounds of that
    radius: float
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Whether a candidate is right as often as it is sure."""

    candidate: str
    split: str
    points: list[Confidence]


def confusion_matrix(counts_CC: NDArray[np.int64], classes: Sequence[str], what: str = "images") -> Matrix:
    """Lay out a confusion matrix; a cell's shade is the square root of its share of the row, so that errors show.

    Args:
        counts_CC: by true class and predicted class.
        classes: their names.
        what: was counted. Images are written as such, pixels as percent of their row.
    """
    cells, mistakes = [], []
    for row, column in np.argwhere(counts_CC).tolist():
        count, of = int(counts_CC[row, column]), int(counts_CC[row].sum())
        share = count / of
        title = f"{classes[row]} → {classes[column]}: {count:,} of {of:,} ({100 * share:.1f} %)".replace(
            ",", NARROW_SPACE
        )
        hue = "b" if row == column else "o"
        cells.append(
            Cell(
                row=row,
                column=column,
                text=str(count) if what == "images" else f"{100 * share:.0f}",
                shade=f"{hue}{math.ceil(SHADES * math.sqrt(share))}",
                title=title,
            )
        )
        if row != column:
            mistakes.append((count, share, title))
    size = len(classes)
    return Matrix(
        total=int(counts_CC.sum()),
        classes=tuple(classes),
        side=max(6.0, min(64.0, 460 / size)),
        every=math.ceil(size / MOST_LABELS),
        written=size <= 25,
        cells=cells,
        mistaken=[title for *_, title in sorted(mistakes, key=lambda m: (-m[0], -m[1]))[:5]],
    )


def training_curves(trained: Sequence[ScorecardIndex | BundleIndex]) -> list[Curves]:
    """Lay out the training of each candidate on common axes."""
    epochs = [epoch for index in trained for epoch in index.history]
    if not epochs:
        return []
    told = [index.history for index in trained if index.history]
    worst_start = max(max(h[0].train_loss, min(e.validation_loss for e in h)) for h in told)  # validation may explode
    lowest = min(min(e.train_accuracy, e.validation_accuracy) for e in epochs)
    least = min(min(e.train_loss, e.validation_loss) for e in epochs)
    axes = (
        (min(0.0, least), _round(worst_start if worst_start > 0 else 1.0, up=True)),
        (math.floor(10 * lowest) / 10 if lowest < 1 else 0.9, 1.0),
    )
    return [
        Curves(
            candidate=index.candidate,
            epochs=(index.history[0].epoch, index.history[-1].epoch),
            best_epoch=index.best_epoch,
            charts=(
                _chart("loss", index.history, index.best_epoch, axes[0]),
                _chart("accuracy", index.history, index.best_epoch, axes[1]),
            ),
        )
        for index in trained
    ]


def learning_rate_chart(history: Sequence[Epoch]) -> Chart:
    """Lay out the learning rate with which each epoch began."""
    rates, epochs = [epoch.learning_rate for epoch in history], max(1, len(history) - 1)
    top = _round(max(rates), up=True)
    exponent = math.floor(math.log10(top))
    return Chart(
        what=f"learning rate (1e{exponent})",
        train="",
        validation=_points(
            (LEFT + (RIGHT - LEFT) * number / epochs, BOTTOM - (BOTTOM - TOP) * rate / top)
            for number, rate in enumerate(rates)
        ),
        ticks=[(BOTTOM - (BOTTOM - TOP) * i / 2, f"{top * i / 2 / 10**exponent:.2g}") for i in range(3)],
        best=None,
    )


def panel(name: str, measured: Mapping[str, Measurement], limit: float | None, winner: str | None) -> Panel:
    """Lay out one metric of several candidates."""
    reading = metric(name)
    ends = [end for m in measured.values() for end in (m.value, m.bound)] + ([] if limit is None else [limit])
    low, high = 0.0, max(ends) * 1.04 or 1.0
    scale: Literal["from zero", "from here", "logarithmic"] = "from zero"
    if reading.scale == "log" and min(ends) > 0:
        scale, low, high = "logarithmic", _round(min(ends), up=False), _round(2 * max(ends), up=True)
    elif reading.unit == "fraction" and reading.higher_is_better:
        scale, low, high = "from here", max(0.0, math.floor(20 * min(ends) - 0.2) / 20), 1.0

    def at(value: float) -> float:
        part = math.log(value / low) / math.log(high / low) if scale == "logarithmic" else (value - low) / (high - low)
        return round(100 * part, 2)

    return Panel(
        name=name,
        low=low,
        high=high,
        scale=scale,
        limit_at=None if limit is None else at(limit),
        marks=[
            Mark(candidate=who, measurement=m, at=at(m.value), bound_at=at(m.bound), wins=who == winner)
            for who, m in measured.items()
        ],
    )


def roc(candidate: str, curves: Mapping[str, RocCurve]) -> Roc:
    """Lay out ROC curves in a square of 200."""
    return Roc(
        candidate=candidate,
        lines=[
            (
                name,
                _points(
                    (200 * x, 200 - 200 * y)
                    for x, y in zip(curve.false_positive_rate, curve.true_positive_rate, strict=True)
                ),
            )
            for name, curve in curves.items()
        ],
    )


def reliability(candidate: str, split: str, outputs: SplitOutputs) -> Reliability:
    """Lay out, in a square of 200, how often answers of like confidence were right."""
    confidence_N = outputs.probabilities_NC.max(1)
    right_N = outputs.probabilities_NC.argmax(1) == outputs.labels_N
    bin_N = np.clip(np.ceil(confidence_N * BINS) - 1, 0, BINS - 1).astype(int)
    points = []
    for members_N in (bin_N == number for number in range(BINS)):
        answers, right = int(members_N.sum()), int(right_N[members_N].sum())
        if not answers:
            continue
        sure, rate = float(confidence_N[members_N].mean()), right / answers
        low, high = (proportion_bound(right, answers, upper) for upper in (False, True))
        points.append(
            Confidence(
                x=round(200 * sure, 1),
                y=round(200 - 200 * rate, 1),
                reach=(round(200 - 200 * low, 1), round(200 - 200 * high, 1)),
                radius=round(2 + 6 * math.sqrt(answers / len(bin_N)), 1),
                title=f"{answers} answers, {100 * sure:.1f} % sure, {100 * rate:.1f} % right",
            )
        )
    return Reliability(candidate=candidate, split=split, points=points)


def _chart(what: str, history: Sequence[Epoch], best_epoch: int | None, axis: tuple[float, float]) -> Chart:
    low, high = axis
    first, last = history[0].epoch, history[-1].epoch

    def point(epoch: Epoch, split: str) -> tuple[float, float]:
        along = (epoch.epoch - first) / (last - first) if last > first else 0.5
        up = (getattr(epoch, f"{split}_{what}") - low) / (high - low)
        return LEFT + (RIGHT - LEFT) * along, BOTTOM - (BOTTOM - TOP) * min(1.0, max(0.0, up))

    kept = history[:: math.ceil(len(history) / MOST_POINTS)]
    best = next((epoch for epoch in history if epoch.epoch == best_epoch), None)
    return Chart(
        what=what,
        train=_points(point(epoch, "train") for epoch in kept),
        validation=_points(point(epoch, "validation") for epoch in kept),
        ticks=[(BOTTOM - (BOTTOM - TOP) * i / 2, f"{low + (high - low) * i / 2:.3g}") for i in range(3)],
        best=point(best, "validation") if best else None,
    )


def _round(value: float, up: bool) -> float:
    """Return the next number, up or down, that is 1, 2, 3, 4, 5, 6 or 8 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    steps = [float(f"{step * power:.6g}") for step in (1, 2, 3, 4, 5, 6, 8, 10)]
    return min(step for step in steps if step >= value) if up else max(step for step in steps if step <= value)


def _points(pairs: Iterator[tuple[float, float]]) -> str:
    return " ".join(f"{x:.4g},{y:.4g}" for x, y in pairs)
