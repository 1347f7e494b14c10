"""What stands behind a choice, in the rows of the report's tables: sensitivity, what others lack, other formulas."""

from collections.abc import Iterator
from dataclasses import dataclass

from steelyard.contract import Contract
from steelyard.metrics import metric
from steelyard.selection.selection import Range, Ranked, Selection, Violation
from steelyard.selection.why import preferred

FORMULAS = {
    "max_normalised": "x / max x, as in the reference project for CIFAR-100",
    "min_max": "min-max",
    "topsis": "TOPSIS",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TurningPoint:
    """How much of all weight a metric may have before another candidate wins."""

    metric: str
    share: float
    range: Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptability:
    """The shares of weights under which a candidate wins."""

    candidate: str
    anywhere: float
    near: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a candidate would have needed, by metric."""

    ranked: Ranked
    by_metric: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """A hard limit that a candidate misses."""

    candidate: str
    violation: Violation
    gap: float  # in the metric's unit; for times, sizes and counts the ratio of the worse to the better
    ratio: bool
    unproven: bool  # the measured value meets it, and only its bound does not


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """Whom another formula would have chosen."""

    name: str
    chosen: str
    score: float
    place_of_winner: int


def turning_points(selection: Selection) -> list[TurningPoint]:
    """Return one for each metric that has a weight."""
    if selection.robustness is None or len(selection.ranking) < 2:
        return []
    return [
        TurningPoint(metric=name, share=share, range=selection.robustness.ranges[name])
        for name, share in selection.weights.items()
        if share
    ]


def weight_space(selection: Selection) -> list[Acceptability]:
    """Return whoever wins under some weights, most often first."""
    if selection.robustness is None or len(selection.ranking) < 2:
        return []
    anywhere, near = selection.robustness.all_weights, selection.robustness.near_weights
    found = [Acceptability(candidate=who, anywhere=share, near=near[who]) for who, share in anywhere.items()]
    return sorted((one for one in found if one.anywhere or one.near), key=lambda one: (-one.near, -one.anywhere))


def needs(selection: Selection) -> list[Need]:
    """Return what everybody else would have needed, but for whom a champion's right to stay alone holds back."""
    if selection.robustness is None:
        return []
    return [
        Need(ranked=ranked, by_metric=selection.robustness.needed.get(ranked.candidate, {}))
        for ranked in selection.ranking
        if ranked.candidate not in (selection.winner, preferred(selection))
    ]


def misses(selection: Selection, contract: Contract) -> list[Miss]:
    """Return every hard limit that is missed, and by how much."""
    return list(_misses(selection, contract))


def _misses(selection: Selection, contract: Contract) -> Iterator[Miss]:
    for rejected in selection.rejected:
        for violation in rejected.violations:
            preference = contract.metrics[violation.metric]
            limit, bound = preference.limit or 0.0, violation.bound
            ratio = metric(violation.metric).scale == "log" and min(limit, bound) > 0
            yield Miss(
                candidate=rejected.candidate,
                violation=violation,
                gap=max(limit, bound) / min(limit, bound) if ratio else abs(limit - bound),
                ratio=ratio,
                unproven=preference.met_by(violation.value),
            )


def formulas(selection: Selection) -> list[Formula]:
    """Return whom the formulas would choose that weigh candidates against each other."""
    found = []
    for name, scores in selection.other_formulas.items():
        order = sorted(scores, key=lambda who: -scores[who])
        found.append(
            Formula(
                name=FORMULAS.get(name, name),
                chosen=order[0],
                score=scores[order[0]],
                place_of_winner=1 + sum(score > scores[str(selection.winner)] for score in scores.values()),
            )
        )
    return found
