"""Scorecards + Contract -> Selection."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from steelyard.contract import Contract
from steelyard.errors import ArtifactError, InputError, MetricNotMeasured
from steelyard.evaluation.metrics import Floats
from steelyard.evaluation.scorecard import Measurement, Scorecard
from steelyard.metrics import metric
from steelyard.selection.selection import Ranked, Rejected, Selection, Violation
from steelyard.selection.sensitivity import Cost, smallest_flip, winner_of
from steelyard.selection.uncertainty import loss_bounds, probability_best, resampled_utilities
from steelyard.selection.utility import desirability, weight_shares
from steelyard.selection.why import in_words, why_nobody, why_this_one


def select(scorecards: Sequence[Scorecard], contract: Contract, seed: int = 0) -> Selection:
    """Name the candidate that serves this client best, or nobody.

    A candidate is eligible if the 95 % bound of each metric with a `must` meets it. Eligible candidates are ranked by
    utility on the validation split; among those at most epsilon below the leader the cheapest is chosen. The test
    split is read for the winner only, after the choice.

    Args:
        scorecards: of one data set; failed ones are listed as rejected.
        contract: what the client needs.
        seed: of the resampling that says how sure the ranking is.

    Raises:
        MetricNotMeasured: the contract names a metric that a scorecard lacks.
        InputError: scorecards of different data or hardware, or two of one name.
    """
    _refuse_incomparable(scorecards, contract)
    eligible, rejected = _admit(scorecards, contract)
    shares = weight_shares(contract)
    costs = _costs(eligible)
    worth_KM = np.array([_desirabilities(scorecard, contract) for scorecard in eligible])
    ranking: tuple[Ranked, ...] = ()
    winner, flip = None, None
    if eligible:
        ranking = _rank(eligible, worth_KM, contract, seed)
        winner = eligible[winner_of(worth_KM @ list(shares.values()), costs, contract.epsilon)]
        names = [scorecard.candidate for scorecard in eligible]
        flip = smallest_flip(names, costs, worth_KM, shares, contract.epsilon)
    return Selection(
        client=contract.client,
        winner=winner.candidate if winner else None,
        why=why_this_one(winner.candidate, ranking, contract) if winner else why_nobody(rejected, contract),
        utility=next((ranked.utility for ranked in ranking if winner and ranked.candidate == winner.candidate), None),
        winner_run_key=winner.index.run_key if winner else None,
        epsilon=contract.epsilon,
        weights=shares,
        ranking=ranking,
        rejected=tuple(rejected),
        flip=flip,
        test=_published(winner, contract) if winner else {},
        optimism=_optimism(winner, contract) if winner else {},
        hardware_class=next((s.index.hardware.hardware_class for s in scorecards if s.index.hardware), None),
        dataset=scorecards[0].index.dataset,
        contract=contract.model_dump(mode="json", exclude_none=True),
    )


def read_scorecards(folders: Iterable[Path]) -> list[Scorecard]:
    """Read scorecards; their order does not matter to the choice.

    Raises:
        ArtifactError: a folder is no scorecard, or there are none at all.
    """
    scorecards = [Scorecard.read(folder) for folder in folders]
    if not scorecards:
        raise ArtifactError("there are no scorecards to choose from")
    return sorted(scorecards, key=lambda scorecard: scorecard.candidate)


def _refuse_incomparable(scorecards: Sequence[Scorecard], contract: Contract) -> None:
    names = [scorecard.candidate for scorecard in scorecards]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"two scorecards are named {min(twice)!r}")
    first = scorecards[0]
    for other in scorecards[1:]:
        if (other.index.task, other.index.dataset) != (first.index.task, first.index.dataset):
            raise InputError(f"{first.candidate!r} and {other.candidate!r} were measured on different data")
    if any(name.startswith(("latency", "throughput")) for name in contract.metrics):
        classes = {s.index.hardware.hardware_class: s.candidate for s in scorecards if s.index.hardware}
        if len(classes) > 1:
            listed = "; ".join(f"{name!r} on {hardware}" for hardware, name in classes.items())
            raise InputError(f"times of different hardware can't be compared: {listed}")


def _admit(scorecards: Sequence[Scorecard], contract: Contract) -> tuple[list[Scorecard], list[Rejected]]:
    eligible, rejected = [], []
    for scorecard in scorecards:
        if scorecard.index.failure:
            rejected.append(Rejected(candidate=scorecard.candidate, reason=scorecard.index.failure))
        elif violations := _violations(scorecard, contract):
            reason = "; ".join(in_words(violation) for violation in violations)
            rejected.append(Rejected(candidate=scorecard.candidate, reason=reason, violations=tuple(violations)))
        else:
            eligible.append(scorecard)
    return eligible, rejected


def _violations(scorecard: Scorecard, contract: Contract) -> list[Violation]:
    violations = []
    for name, preference in contract.metrics.items():
        measured = _measured(scorecard, name)
        if preference.must is None or preference.limit is None:
            continue
        met = (
            measured.bound >= preference.limit if metric(name).higher_is_better else measured.bound <= preference.limit
        )
        if not met:
            violations.append(Violation(metric=name, must=preference.must, value=measured.value, bound=measured.bound))
    return violations


def _rank(eligible: Sequence[Scorecard], worth_KM: Floats, contract: Contract, seed: int) -> tuple[Ranked, ...]:
    shares = weight_shares(contract)
    utilities_K = worth_KM @ np.array(list(shares.values()))
    costs = _costs(eligible)
    leader = winner_of(utilities_K, costs, 0.0)
    resampled_BK = resampled_utilities(eligible, contract, seed)
    if resampled_BK is None:
        best: list[float | None] = [None] * len(eligible)
        losses: list[float | None] = best
    else:
        best = [*probability_best(utilities_K, resampled_BK, seed)]
        losses = [*loss_bounds(resampled_BK, leader)]
    ranked = [
        Ranked(
            candidate=scorecard.candidate,
            utility=float(utility),
            desirability=dict(zip(shares, worth_M.tolist(), strict=True)),
            contribution={name: share * float(d) for (name, share), d in zip(shares.items(), worth_M, strict=True)},
            measured={name: _measured(scorecard, name) for name in contract.metrics},
            p_best=p_best,
            tied=bool(utility >= utilities_K.max() - contract.epsilon),
            loss_bound=loss,
            cost_ms=cost[0] if math.isfinite(cost[0]) else None,
        )
        for scorecard, utility, worth_M, p_best, loss, cost in zip(
            eligible, utilities_K, worth_KM, best, losses, costs, strict=True
        )
    ]
    return tuple(sorted(ranked, key=lambda r: (-r.utility, r.candidate)))


def _desirabilities(scorecard: Scorecard, contract: Contract) -> list[float]:
    return [
        float(desirability(name, _measured(scorecard, name).value, preference))
        for name, preference in contract.metrics.items()
    ]


def _costs(scorecards: Sequence[Scorecard]) -> list[Cost]:
    """What decides between tied candidates: ms per image, then MiB, then the name; the lowest wins.

    Times count only where all were measured on the same hardware.
    """
    same_hardware = len({s.index.hardware.hardware_class if s.index.hardware else None for s in scorecards}) == 1

    def known(scorecard: Scorecard, name: str) -> float:
        return scorecard.index.model[name].value if name in scorecard.index.model else math.inf

    return [
        (known(s, "latency_p50_ms") if same_hardware else math.inf, known(s, "model_size_mib"), s.candidate)
        for s in scorecards
    ]


def _measured(scorecard: Scorecard, name: str) -> Measurement:
    measured = {**scorecard.index.validation, **scorecard.index.model}
    if name not in measured:
        raise MetricNotMeasured(name, scorecard.candidate, measured)
    return measured[name]


def _published(winner: Scorecard, contract: Contract) -> dict[str, Measurement]:
    return {name: winner.index.test[name] for name in contract.metrics if name in winner.index.test}


def _optimism(winner: Scorecard, contract: Contract) -> dict[str, float]:
    """By how much validation flatters the winner, in each metric's unit; above 0 is flattery."""
    sign = {name: 1 if metric(name).higher_is_better else -1 for name in contract.metrics}
    published = _published(winner, contract)
    return {name: sign[name] * (_measured(winner, name).value - test.value) for name, test in published.items()}
