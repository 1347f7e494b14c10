"""The report: one HTML file that says what was chosen, why, and what that rests on.

It loads nothing from anywhere, so that it opens offline and in a sandboxed frame (Kubeflow's UI), and needs no
JavaScript except to look at candidates other than the winner.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.contract import Contract, Preference
from steelyard.evaluation.answers import Split, SplitOutputs
from steelyard.evaluation.measurement import Measurement
from steelyard.evaluation.metrics import confusion
from steelyard.evaluation.roc import roc_curves
from steelyard.evaluation.scorecard import Scorecard
from steelyard.metrics import METRICS, metric
from steelyard.page import environment
from steelyard.selection.charts import Curves, Matrix, Panel, Roc, confusion_matrix, panel, roc, training_curves
from steelyard.selection.selection import Selection

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATE = "report.html.jinja"
SIDE_BY_SIDE = (
    "accuracy", "macro_recall", "macro_f1", "log_loss", "latency_p95_ms", "macro_false_positive_rate",
)  # fmt: skip
MOST_CLASSES_TO_SWITCH = 30  # beyond, the matrices of all candidates would make a file of megabytes
_SHORT = {"roc_auc": "ROC AUC", "f1": "F1", "macro_f1": "macro F1", "throughput_images_per_s": "throughput"}


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
class ClassRates:
    """How one class fares; None where there is nothing to divide by."""

    name: str
    images: int
    precision: float | None
    recall: float | None
    f1: float | None
    false_positive_rate: float | None


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


def _facts(selection: Selection, scorecards: Sequence[Scorecard]) -> dict[str, object]:
    contract = Contract.model_validate(selection.contract)
    place = {ranked.candidate: place for place, ranked in enumerate(selection.ranking)}
    cards = sorted(scorecards, key=lambda card: place.get(card.candidate, len(place)))
    scored = [card for card in cards if card.index.failure is None]
    first = selection.winner or (scored[0].candidate if scored else None)
    told = {rejected.candidate for rejected in selection.rejected}
    columns = _columns(contract)
    return {
        "selection": selection,
        "flip": selection.robustness.flip if selection.robustness else None,
        "contract": contract,
        "columns": columns,
        "weighted": [column for column in columns if column.share],
        "tied": [ranked.candidate for ranked in selection.ranking if ranked.tied],
        "winner": next((r for r in selection.ranking if r.candidate == selection.winner), None),
        "test_accuracy": _test_accuracy(selection, scored),
        "broken": [rejected for rejected in selection.rejected if rejected.violations],
        "failed": [(r.candidate, r.reason) for r in selection.rejected if not r.violations]
        + [(c.candidate, c.index.failure) for c in cards if c.index.failure and c.candidate not in told],
        "curves": _curves(scored, first),
        "details": _details(scored, first, selection.winner),
        "panels": _panels(scored, contract, selection.winner),
        "roc": _roc(scored, first),
        "published": list(_published(selection, scored, contract)),
        "cards": cards,
    }


def _columns(contract: Contract) -> list[Column]:
    total = sum(preference.weight for preference in contract.metrics.values())
    return [
        Column(name=name, preference=preference, share=preference.weight / total)
        for name, preference in contract.metrics.items()
    ]


def _curves(scored: Sequence[Scorecard], first: str | None) -> list[Curves]:
    recorded = [card.index for card in scored if card.index.history]
    return training_curves(sorted(recorded, key=lambda index: index.candidate != first))


def _details(scored: Sequence[Scorecard], first: str | None, winner: str | None) -> list[Detail]:
    """Return the winner's answers on test, and those of the others on validation: test is for publishing only."""
    details = []
    for card in sorted(scored, key=lambda card: card.candidate != first):
        index = card.index
        splits: tuple[Split, ...] = ("test", "validation") if card.candidate == winner else ("validation",)
        answered = ((split, card.answered(split)) for split in splits)
        kept = next(((split, answers) for split, answers in answered if isinstance(answers, SplitOutputs)), None)
        if kept is None or (len(index.classes) > MOST_CLASSES_TO_SWITCH and card.candidate != first):
            continue
        split, answers = kept
        counts = confusion(answers).tolist()
        details.append(
            Detail(
                candidate=card.candidate,
                split=split,
                matrix=confusion_matrix(counts, index.classes),
                rates=_class_rates(counts, index.classes),
            )
        )
    return details


def _class_rates(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> list[ClassRates]:
    total = sum(map(sum, counts))
    rates = []
    for c, name in enumerate(classes):
        hits, actual, predicted = counts[c][c], sum(counts[c]), sum(row[c] for row in counts)
        rates.append(
            ClassRates(
                name=name,
                images=actual,
                precision=_ratio(hits, predicted),
                recall=_ratio(hits, actual),
                f1=_ratio(2 * hits, actual + predicted),
                false_positive_rate=_ratio(predicted - hits, total - actual),
            )
        )
    return sorted(rates, key=lambda rate: 2.0 if rate.f1 is None else rate.f1)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _panels(scored: Sequence[Scorecard], contract: Contract, winner: str | None) -> list[Panel]:
    panels = []
    for name in dict.fromkeys((*SIDE_BY_SIDE, *contract.metrics)):
        measured = {card.candidate: m for card in scored if (m := _chosen_on(card).get(name))}
        if measured:
            preference = contract.metrics.get(name)
            panels.append(panel(name, measured, preference.limit if preference else None, winner))
    return panels


def _chosen_on(card: Scorecard) -> Mapping[str, Measurement]:
    return {**card.index.validation, **card.index.model}


def _roc(scored: Sequence[Scorecard], first: str | None) -> Roc | None:
    card = next((card for card in scored if card.candidate == first), None)
    answers = card.answered("validation") if card else None
    if card is None or not isinstance(answers, SplitOutputs):
        return None
    curves = roc_curves(answers, card.index.classes)
    return roc(card.candidate, curves) if curves else None


def _test_accuracy(selection: Selection, scored: Sequence[Scorecard]) -> Measurement | None:
    """Return the winner's, whether or not the contract names it."""
    card = next((card for card in scored if card.candidate == selection.winner), None)
    return selection.test.get("accuracy") or (card.index.test.get("accuracy") if card else None)


def _published(selection: Selection, scored: Sequence[Scorecard], contract: Contract) -> Iterator[Published]:
    card = next((card for card in scored if card.candidate == selection.winner), None)
    validation = _chosen_on(card) if card else {}
    for name, test in selection.test.items():
        if name not in validation or not (name in METRICS or name in contract.metrics):
            continue
        preference = contract.metrics.get(name)
        yield Published(
            name=name,
            validation=validation[name],
            test=test,
            optimism=selection.optimism.get(name),
            holds=_holds(name, test.bound, preference.limit if preference else None),
        )


def _holds(name: str, bound: float, limit: float | None) -> bool | None:
    if limit is None:
        return None
    return bound >= limit if metric(name).higher_is_better else bound <= limit


def _environment() -> "Environment":
    made = environment(Path(__file__).parent)
    made.filters |= {
        "label": _label,
        "unit": _unit,
        "full_unit": lambda name: metric(name).unit,
        "limit": _limit,
        "where": _where,
    }
    made.globals["worse_side"] = lambda name: "≥" if metric(name).higher_is_better else "≤"
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


def _limit(must: str) -> str:
    return must.replace(">=", "≥").replace("<=", "≤")
