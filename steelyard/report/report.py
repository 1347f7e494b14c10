"""The report: one HTML file that says what was chosen, why, and what that rests on.

It loads nothing from anywhere, so that it opens offline and in a sandboxed frame (Kubeflow's UI), and needs no
JavaScript except to look at candidates other than the winner.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import steelyard
from steelyard.contract import Contract, Preference
from steelyard.evaluation.answers import Answers, Split, SplitOutputs
from steelyard.evaluation.measurement import Measurement
from steelyard.evaluation.mistakes import LONGEST_SIDE
from steelyard.evaluation.roc import roc_curves
from steelyard.evaluation.scorecard import Scorecard
from steelyard.metrics import CHIEF, METRICS, metric
from steelyard.page import environment
from steelyard.report.charts import (
    Curves,
    Matrix,
    Panel,
    Reliability,
    Roc,
    confusion_matrix,
    panel,
    reliability,
    roc,
    training_curves,
)
from steelyard.report.classes import ClassRates, class_rates, confused
from steelyard.report.pareto import pareto
from steelyard.report.reasons import formulas, misses, needs, turning_points, weight_space
from steelyard.selection.selection import Selection
from steelyard.selection.why import chance, nearest, preferred, sensitivity

if TYPE_CHECKING:
    from jinja2 import Environment

log = logging.getLogger(__name__)

TEMPLATE = "report.html.jinja"
SIDE_BY_SIDE = (
    "accuracy", "macro_recall", "macro_f1", "mean_iou", "mean_dice", "pixel_accuracy", "log_loss", "latency_p95_ms",
    "macro_false_positive_rate",
)  # fmt: skip
MOST_SIDE_BY_SIDE = 16  # candidates in a panel, and whose training is shown at once
MOST_CELLS = 12_000  # of all confusion matrices: about 2 MB
_SHORT = {
    "roc_auc": "ROC AUC", "f1": "F1", "macro_f1": "macro F1", "mean_iou": "mean IoU", "iou": "IoU", "dice": "Dice",
    "mean_dice": "mean Dice", "throughput_images_per_s": "throughput",
}  # fmt: skip


def write_report(selection: Selection, scorecards: Sequence[Scorecard], file: Path) -> None:
    """Write the report.

    Args:
        selection: what was decided.
        scorecards: what it was decided over, the failed ones included; whatever else they tell is shown too.
        file: the HTML file.
    """
    template = _environment().get_template(TEMPLATE)
    file.write_text(template.render(_facts(selection, scorecards)), encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A metric of the contract, as the head of a column."""

    name: str
    preference: Preference
    share: float  # of all weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """One candidate's answers, class by class."""

    candidate: str
    split: Split
    matrix: Matrix
    rates: list[ClassRates]  # weakest first


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One metric of the winner: chosen on validation, published on test."""

    name: str
    validation: Measurement
    test: Measurement
    optimism: float | None
    holds: bool | None  # the contract's hard limit, on test; None where there is no limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """An image with what it shows, and what was said of it instead."""

    picture: str  # a data URI
    true: str
    said: str
    probability: float
    tiny: bool  # scaled up, so that its pixels show


def _facts(selection: Selection, scorecards: Sequence[Scorecard]) -> dict[str, object]:
    place = {ranked.candidate: place for place, ranked in enumerate(selection.ranking)}
    cards = sorted(scorecards, key=lambda card: place.get(card.candidate, len(place)))
    contract = Contract.model_validate(selection.contract)
    published = list(_published(selection, cards, contract))
    told = {rejected.candidate for rejected in selection.rejected}
    return {
        "selection": selection,
        "contract": contract,
        "columns": (columns := _columns(contract)),
        "weighted": [column for column in columns if column.share],
        "tied": [ranked.candidate for ranked in selection.ranking if ranked.tied],
        "winner": next((r for r in selection.ranking if r.candidate == selection.winner), None),
        "headline": _headline(selection, cards),
        "preferred": preferred(selection),
        "sensitivity": sensitivity(selection),
        "turning_points": turning_points(selection),
        "weight_space": weight_space(selection),
        "needs": needs(selection),
        "formulas": formulas(selection),
        "misses": misses(selection, contract),
        "failed": [(r.candidate, r.reason) for r in selection.rejected if not r.violations]
        + [(c.candidate, c.index.failure) for c in cards if c.index.failure and c.candidate not in told],
        "published": published,
        "broken_on_test": [one.name for one in published if one.holds is False],
        "pareto": pareto(selection, contract, {card.candidate: _measured(card, selection) for card in cards}),
        "cards": cards,
        "version": steelyard.__version__,
        **_charts(selection, contract, [card for card in cards if card.index.failure is None]),
    }


def _charts(selection: Selection, contract: Contract, scored: Sequence[Scorecard]) -> dict[str, object]:
    """Lay out what was measured of each candidate, the winner first, or else the one nearest to it."""
    missed = [one for one in selection.rejected if one.violations]
    wanted = selection.winner or (nearest(missed, contract).candidate if missed else None)
    first = next((card for card in scored if card.candidate == wanted), scored[0] if scored else None)
    ordered = sorted(scored, key=lambda card: card is not first)
    winner = first if first and first.candidate == selection.winner else None
    test = _published_answers(winner, selection)
    return {
        "task": scored[0].index.task if scored else None,
        "curves": _curves(ordered),
        "side_by_side": MOST_SIDE_BY_SIDE,
        "scored": len(scored),
        "details": list(_details(ordered, winner, test)),
        "panels": _panels(ordered[:MOST_SIDE_BY_SIDE], contract, selection),
        "roc": _roc(first),
        "reliability": _reliability(first, test),
        "mistakes": _mistakes(winner),
    }


def _columns(contract: Contract) -> list[Column]:
    total = sum(preference.weight for preference in contract.metrics.values())
    return [
        Column(name=name, preference=preference, share=preference.weight / total)
        for name, preference in contract.metrics.items()
    ]


def _published_answers(winner: Scorecard | None, selection: Selection) -> Answers | None:
    """Return what the winner answered for test: nobody else's is looked at, and that it was goes to the log."""
    answers = winner.answered("test") if winner else None
    if winner and answers:
        log.info("test split read: %s, for the report to %s", winner.candidate, selection.client)
    return answers


def _curves(ordered: Sequence[Scorecard]) -> list[Curves]:
    return training_curves([card.index for card in ordered if card.index.history])


def _details(ordered: Sequence[Scorecard], winner: Scorecard | None, test: Answers | None) -> Iterator[Detail]:
    """Yield the winner's answers on test, then everybody's on validation as far as there is room."""
    if winner and test is not None:
        yield _detail(winner, "test", test)
    cells = 0
    for card in ordered:
        if cells > MOST_CELLS:
            return
        if (answers := card.answered("validation")) is not None:
            yield (detail := _detail(card, "validation", answers))
            cells += max(len(detail.matrix.cells), len(card.index.classes) ** 2 // 2)


def _detail(card: Scorecard, split: Split, answers: Answers) -> Detail:
    counts_CC, classes = confused(answers), card.index.classes
    what = "images" if isinstance(answers, SplitOutputs) else "pixels"
    return Detail(
        candidate=card.candidate,
        split=split,
        matrix=confusion_matrix(counts_CC, classes, what),
        rates=class_rates(counts_CC, classes),
    )


def _panels(shown: Sequence[Scorecard], contract: Contract, selection: Selection) -> list[Panel]:
    panels = []
    for name in dict.fromkeys((*SIDE_BY_SIDE, *contract.metrics)):
        measured = {card.candidate: m for card in shown if (m := _measured(card, selection).get(name))}
        if measured:
            preference = contract.metrics.get(name)
            panels.append(panel(name, measured, preference.limit if preference else None, selection.winner))
    return panels


def _measured(card: Scorecard, selection: Selection) -> Mapping[str, Measurement]:
    """Return what a candidate was chosen by: on validation, and of the model itself."""
    ranked = next((r for r in selection.ranking if r.candidate == card.candidate), None)
    return {**card.index.validation, **card.index.model, **(ranked.measured if ranked else {})}


def _roc(first: Scorecard | None) -> Roc | None:
    answers = first.answered("validation") if first else None
    if first is None or not isinstance(answers, SplitOutputs):
        return None
    curves = roc_curves(answers, first.index.classes)
    return roc(first.candidate, curves) if curves else None


def _reliability(first: Scorecard | None, test: Answers | None) -> Reliability | None:
    if first is None:
        return None
    if isinstance(test, SplitOutputs):
        return reliability(first.candidate, "test", test)
    answers = first.answered("validation")
    return reliability(first.candidate, "validation", answers) if isinstance(answers, SplitOutputs) else None


def _mistakes(winner: Scorecard | None) -> list[Mistake] | None:
    """Return the winner's surest wrong answers on validation; None where they were not kept."""
    kept = winner.worst_mistakes() if winner else None
    if winner is None or kept is None:
        return None
    from steelyard.data.pictures import TINY, picture  # JPEG, without which a report of no images does

    classes = winner.index.classes
    return [
        Mistake(
            picture=picture(image_HWC, LONGEST_SIDE),
            true=classes[true],
            said=classes[said],
            probability=float(probability),
            tiny=max(image_HWC.shape) <= TINY,
        )
        for image_HWC, true, said, probability in zip(*kept, strict=True)
    ]


def _headline(selection: Selection, cards: Sequence[Scorecard]) -> tuple[str, Measurement] | None:
    """Return the winner's chief figure on test, whether or not the contract names it."""
    card = next((card for card in cards if card.candidate == selection.winner), None)
    if card is None:
        return None
    name = CHIEF[card.index.task]
    found = selection.test.get(name) or card.index.test.get(name)
    return (name, found) if found else None


def _published(selection: Selection, cards: Sequence[Scorecard], contract: Contract) -> Iterator[Published]:
    card = next((card for card in cards if card.candidate == selection.winner), None)
    validation = _measured(card, selection) if card else {}
    for name, test in selection.test.items():
        if name not in validation or not (name in METRICS or name in contract.metrics):
            continue
        preference = contract.metrics.get(name)
        yield Published(
            name=name,
            validation=validation[name],
            test=test,
            optimism=selection.optimism.get(name),
            holds=preference.met_by(test.bound) if preference and preference.must else None,
        )


def _environment() -> "Environment":
    made = environment(Path(__file__).parent)
    made.filters |= {
        "label": _label,
        "unit": _unit,
        "full_unit": lambda name: metric(name).unit,
        "limit": _limit,
        "where": _where,
        "chance": chance,
        "clipped": _clipped,
    }
    made.globals |= {
        "worse_side": lambda name: "≥" if metric(name).higher_is_better else "≤",
        "better_when": lambda name: "higher" if metric(name).higher_is_better else "lower",
    }
    return made


def _label(name: str) -> str:
    """Return a metric's name for people."""
    rate, bracket, rest = name.partition("[")
    words = _SHORT.get(rate) or rate.removesuffix("_ms").removesuffix("_mib").replace("_", " ")
    return f"{words} of {rest[:-1]}" if bracket else words


def _unit(name: str) -> str:
    """Return a metric's unit where it says more than its name."""
    unit = metric(name).unit
    return "" if unit in ("fraction", "count") else unit


def _where(name: str) -> str:
    """Say where a quality was measured, so that it is not taken for a test figure."""
    return "on validation, " if metric(name).quality else ""


def _clipped(name: str) -> str:
    """Return a class's name, short enough to stand beside a matrix; names often differ at their ends."""
    return name if len(name) <= 14 else f"{name[:7]}…{name[-6:]}"


def _limit(must: str) -> str:
    return must.replace(">=", "≥").replace("<=", "≤")
