"""Why: the choice, and what would change it, in sentences that a client understands."""

from collections.abc import Mapping, Sequence

from steelyard.contract import Contract
from steelyard.metrics import metric
from steelyard.page import NARROW_SPACE
from steelyard.selection.selection import Cost, Flip, Ranked, Rejected, Robustness, Selection, Violation

TOOK_NO_PART = " The model that serves now is not among those measured on these images and took no part."


def why_this_one(chosen: Ranked, ranking: Sequence[Ranked], contract: Contract, champion: str | None) -> str:
    """Say why the winner won."""
    winner = chosen.candidate
    praise = f"{winner} is the choice for {contract.client}, with a utility of {chosen.utility:.3f} out of 1"
    rivals = [ranked for ranked in ranking if ranked.candidate != winner]
    if not rivals:
        return f"{praise}: no other candidate is eligible."
    tied = [ranked for ranked in rivals if ranked.tied]
    challenger = min((r for r in ranking if r.tied), key=lambda r: r.cost.order(r.candidate))
    if winner == champion and challenger.candidate != winner:
        ahead = challenger.utility - chosen.utility
        instead = f"better by {ahead:.3f}" if ahead > 0 else f"cheaper but no better ({challenger.utility:.3f})"
        return (
            f"{praise}: it serves now, and {challenger.candidate}, which would be chosen otherwise, is {instead}; "
            f"it has to be better by more than the switching margin of {contract.switching_margin:g}."
        )
    if tied and chosen.tied:
        others = " and ".join(f"{ranked.candidate} ({ranked.utility:.3f})" for ranked in tied)
        return (
            f"{praise}: {others} {'are' if len(tied) > 1 else 'is'} within the {contract.epsilon:g} "
            f"that makes no difference to the client, and {winner} {_cheapest(chosen.cost)}."
        )
    rival = rivals[0]
    gain = {name: chosen.contribution[name] - rival.contribution[name] for name in contract.metrics}
    decisive = max(gain, key=lambda name: gain[name])
    return (
        f"{praise}, {chosen.utility - rival.utility:.3f} ahead of {rival.candidate}, mostly for its {decisive}: "
        f"{value(decisive, chosen.measured[decisive].value)} against "
        f"{value(decisive, rival.measured[decisive].value)}."
    )


def _cheapest(cost: Cost) -> str:
    if cost.dollars_per_million is not None:
        return f"is the cheapest of them (${cost.dollars_per_million:.3g} per million images)"
    if cost.ms_per_image is not None:
        return f"is the cheapest of them to run ({cost.ms_per_image:.2f} ms per image)"
    return "is the smallest of them, or the first by name"


def why_nobody(rejected: Sequence[Rejected], contract: Contract) -> str:
    """Say why nobody may be chosen."""
    missed = [one for one in rejected if one.violations]
    counts = f"{len(missed)} of {len(rejected)} candidates miss a hard limit"
    if failed := len(rejected) - len(missed):
        counts += f" and {failed} failed"
    verdict = f"Nobody is eligible for {contract.client}, so nothing is deployed: {counts}"
    if not missed:
        return f"{verdict}."
    closest = nearest(missed, contract)
    return f"{verdict}; the nearest is {closest.candidate}: {closest.reason}."


def nearest(missed: Sequence[Rejected], contract: Contract) -> Rejected:
    """Return whoever misses the fewest hard limits and, of those, by the least, as shares of these."""

    def gap(one: Rejected) -> float:
        limits = [(contract.metrics[missing.metric].limit or 0.0, missing.bound) for missing in one.violations]
        return sum(abs(limit - bound) / max(limit, bound, 1e-12) for limit, bound in limits)

    return min(missed, key=lambda one: (len(one.violations), gap(one), one.candidate))


def preferred(selection: Selection) -> str | None:
    """Return whom the weights alone choose: the winner, unless a champion was kept in its place."""
    tied = [ranked for ranked in selection.ranking if ranked.tied]
    return min(tied, key=lambda ranked: ranked.cost.order(ranked.candidate)).candidate if tied else None


def sensitivity(selection: Selection) -> list[str]:
    """Say how far the weights may be wrong before another candidate wins."""
    found, choice = selection.robustness, preferred(selection)
    if found is None or choice is None:
        return []
    if len(selection.ranking) == 1:
        return ["Only one candidate is eligible: no weights can change the choice, only other limits could."]
    return [
        *_kept(selection, choice),
        *_turning_points(found, selection.weights),
        _smallest_change(found.flip, selection.weights),
        f"{choice} wins under {percent(found.all_weights[choice])} of all possible weights, and under "
        f"{percent(found.near_weights[choice])} of those within 20 % of the client's.",
    ]


def _kept(selection: Selection, choice: str) -> list[str]:
    if selection.winner != selection.champion:
        return []
    alone = f": by the weights alone {choice} would win" if choice != selection.winner else ""
    return [
        f"{selection.winner} serves now, and stays unless another is better by more than the switching margin. "
        f"What follows leaves that right out{alone}."
    ]


def _turning_points(found: Robustness, shares: Mapping[str, float]) -> list[str]:
    told = []
    for name, reach in found.ranges.items():
        now = f"(now {percent(shares[name])})"
        if reach.above is not None:
            told.append(f"The winner changes if {name} weighs more than {percent(reach.high)} {now}, to {reach.above}.")
        if reach.below is not None:
            told.append(f"The winner changes if {name} weighs less than {percent(reach.low)} {now}, to {reach.below}.")
    return told or ["No weight of any one metric changes the winner, with the others in proportion."]


def _smallest_change(flip: Flip | None, shares: Mapping[str, float]) -> str:
    if flip is None:
        return "No change of the weights makes another eligible candidate win."
    moved = [
        f"{name} from {percent(shares[name])} to {percent(share)}"
        for name, share in flip.weights.items()
        if abs(share - shares[name]) > 0.0005
    ]
    return (
        f"The smallest change that makes another win, {flip.to}, moves {percent(flip.change)} of the weight: "
        f"{', '.join(moved)}."
    )


def percent(share: float) -> str:
    """Write a share with three digits, so that nothing that counts is rounded away."""
    if 0 < share < 0.001:
        return f"less than 0.1{NARROW_SPACE}%"
    if 0.999 < share < 1:
        return f"more than 99.9{NARROW_SPACE}%"
    return f"{100 * share:.3g}{NARROW_SPACE}%"


def chance(probability: float) -> str:
    """Write a probability that was estimated from draws: never as certain where it is not."""
    nearest = min(0.99, max(0.01, probability))
    sign = ">" if probability > nearest else "<" if probability < nearest else ""
    return f"{sign}{NARROW_SPACE if sign else ''}{100 * nearest:.0f}{NARROW_SPACE}%"


def in_words(violation: Violation) -> str:
    """Say which hard limit is not met, and by how much."""
    side = "at least" if metric(violation.metric).higher_is_better else "at most"
    if violation.bound == violation.value:
        return f"{violation.metric} must be {violation.must}, and is {value(violation.metric, violation.value)}"
    return (
        f"{violation.metric} must be {violation.must}, but with 95 % certainty it is only {side} "
        f"{value(violation.metric, violation.bound)} (measured {value(violation.metric, violation.value)})"
    )


def value(name: str, number: float) -> str:
    """Write a metric's value with its unit."""
    unit = metric(name).unit
    return f"{number:.4g}" if unit in ("fraction", "nats") else f"{number:,.4g} {unit}"
