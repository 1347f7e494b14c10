"""Metrics of all candidates over the same resampled images and rounds."""

from collections.abc import Iterator, Mapping, Sequence
from math import exp, factorial

import numpy as np
from numpy.typing import NDArray

from steelyard.contract import Contract
from steelyard.evaluation.answers import Answers
from steelyard.evaluation.metrics import Columns, Contributions, Floats, Sums, combine, contributions
from steelyard.evaluation.times import THROUGHPUT, TIMED, Times, time_metric
from steelyard.selection.utility import IMAGES_PER_DOLLAR, images_per_dollar

RESAMPLES = 2000
CHUNK = 2**22  # weights, or sums within classes, at a time: 16 MiB
WIDEST = 2**24  # numbers of all candidates' contributions at a time: 64 MiB
_SHARES = np.cumsum([exp(-1) / factorial(draws) for draws in range(9)])
_POISSON = np.searchsorted(_SHARES, (np.arange(2**16) + 0.5) / 2**16).astype(np.float32)  # by 16 random bits

RESAMPLED_TIMES = (*TIMED, IMAGES_PER_DOLLAR)


def resample_quality(
    answers_K: Iterator[Answers], classes: Sequence[str], names: Sequence[str], seed: int
) -> dict[str, NDArray[np.floating]]:
    """Return for each metric its values (resamples, candidates), all over the same draws of the images.

    Each image is drawn a Poisson number of times, once on average (Hanley & MacGibbon 2006): the bootstrap without the
    condition that all draws add up to the number of images, which no ratio of sums depends on. The draws depend on the
    number of images and the seed alone, so that no candidate changes another's. Every sum over images is one matrix
    product for all candidates.

    Args:
        answers_K: of each candidate to the same images in the same order; read one at a time.
        classes: names.
        names: quality metrics; only what these need is resampled.
        seed: of the draws.
    """
    parts: list[dict[str, NDArray[np.float32]]] = []
    group: list[Contributions] = []
    labels_N = np.empty(0, np.int64)
    for answers in answers_K:
        labels_N = answers.labels_N
        made = contributions(answers, names)
        if group and _width([*group, made]) * len(labels_N) > WIDEST:
            parts.append(_resample(group, labels_N, classes, names, seed))
            group = []
        group.append(made)
    parts.append(_resample(group, labels_N, classes, names, seed))
    return {name: np.concatenate([part[name] for part in parts], axis=1) for name in names}


def resample_times(
    times_K: Sequence[Times], names: Sequence[str], contract: Contract, seed: int
) -> dict[str, NDArray[np.floating]]:
    """Return for each timed metric its values (resamples, candidates).

    Whole rounds are drawn, the same ones for all candidates, as what disturbs one answer disturbs the next. Of how much
    the pace changes from one session of timing to another, which remembered times come from, the draws say nothing.
    """
    values: dict[str, list[Floats]] = {name: [] for name in names}
    drawn: dict[int, Columns] = {}
    for times in times_K:
        rounds = len(times.throughput_R)
        if rounds not in drawn:
            random = np.random.default_rng(seed)
            drawn[rounds] = _counts(random.integers(rounds, size=(RESAMPLES, rounds)), rounds)
        for name in names:
            values[name].append(_of_rounds(name, times, drawn[rounds], contract))
    return {name: np.stack(columns, 1) for name, columns in values.items()}


def _of_rounds(name: str, times: Times, counts_BR: Columns, contract: Contract) -> Floats:
    if name == IMAGES_PER_DOLLAR:
        return images_per_dollar(time_metric(THROUGHPUT, times, counts_BR), contract)
    return time_metric(name, times, counts_BR)


def _resample(
    group: Sequence[Contributions], labels_N: NDArray[np.int64], classes: Sequence[str], names: Sequence[str], seed: int
) -> dict[str, NDArray[np.float32]]:
    images = len(labels_N)
    order_N = np.argsort(labels_N, kind="stable")
    ends_C = np.bincount(labels_N, minlength=len(classes)).cumsum()
    by_class = {key: np.stack([one.by_class[key][order_N] for one in group], 1) for key in group[0].by_class}
    overall = {key: np.concatenate([one.overall[key][order_N] for one in group], 1) for key in group[0].overall}
    values = {name: np.empty((RESAMPLES, len(group)), np.float32) for name in names}
    start = 0
    step = max(1, CHUNK // (len(classes) * len(group)))
    for drawn_BN in _weights(images, seed):
        for weights_BN in (drawn_BN[row : row + step] for row in range(0, len(drawn_BN), step)):
            rows = slice(start, start + len(weights_BN))
            start = rows.stop
            for position, sums in enumerate(_sums(weights_BN, ends_C, by_class, overall, len(group))):
                for name in names:
                    values[name][rows, position] = combine(name, sums, classes)
    return values


def _sums(
    weights_BN: Columns,
    ends_C: NDArray[np.int64],
    by_class: Mapping[str, Columns],
    overall: Mapping[str, Columns],
    candidates: int,
) -> Iterator[Sums]:
    """Yield the sums of one candidate after the other; rows are sorted by class, each of which ends at `ends_C`."""
    classes = [slice(start, end) for start, end in zip([0, *ends_C[:-1]], ends_C, strict=True)]
    images_BC = np.stack([weights_BN[:, one].sum(1) for one in classes], 1).astype(np.float64)
    inner = {
        key: np.stack([weights_BN[:, one] @ column_NK[one] for one in classes], 1)
        for key, column_NK in by_class.items()
    }
    outer = {key: weights_BN @ column_NJ for key, column_NJ in overall.items()}
    for k in range(candidates):
        yield Sums(
            images_BC=images_BC,
            by_class={key: sum_BCK[:, :, k].astype(np.float64) for key, sum_BCK in inner.items()},
            overall={key: np.split(sum_BJ, candidates, 1)[k].astype(np.float64) for key, sum_BJ in outer.items()},
        )


def _weights(images: int, seed: int) -> Iterator[Columns]:
    """Yield, some resamples at a time, how often each image was drawn."""
    random = np.random.default_rng(seed)
    step = max(1, CHUNK // images)
    for start in range(0, RESAMPLES, step):
        count = min(step, RESAMPLES - start)
        yield _POISSON[random.integers(len(_POISSON), size=(count, images), dtype=np.uint16)]


def _counts(drawn_BN: NDArray[np.integer], of: int) -> Columns:
    """Return how often each of `of` things was drawn in each row."""
    rows = len(drawn_BN)
    flat = (drawn_BN + (np.arange(rows) * of)[:, None]).ravel()
    return np.bincount(flat, minlength=rows * of).reshape(rows, of).astype(np.float32)


def _width(group: Sequence[Contributions]) -> int:
    return sum(len(one.by_class) + sum(column.shape[1] for column in one.overall.values()) for one in group)
