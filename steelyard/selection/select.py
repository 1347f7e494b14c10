"""Scorecards + Contract -> Selection, on what was answered for the validation split."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from steelyard.contract import Contract
from steelyard.errors import ArtifactError, InputError, MetricNotMeasured
from steelyard.evaluation.answers import Answers
from steelyard.evaluation.measurement import Measurement
from steelyard.evaluation.metrics import Floats
from steelyard.evaluation.scorecard import Scorecard
from steelyard.evaluation.times import THROUGHPUT
from steelyard.metrics import metric
from steelyard.selection.decision import Decision, decide, pareto_front, utilities
from steelyard.selection.measured import measured
from steelyard.selection.resampling import RESAMPLED_TIMES, RESAMPLES, resample_quality, resample_times
from steelyard.selection.rivals import other_formulas
from steelyard.selection.selection import Cost, Ranked, Rejected, Selection, Violation
from steelyard.selection.utility import desirability, weight_shares
from steelyard.selection.why import TOOK_NO_PART, in_words, why_nobody, why_this_one

FEWEST_ROUNDS = 30  # that say how far times vary


def select(scorecards: Sequence[Scorecard], contract: Contract, seed: int = 0, serving: str | None = None) -> Selection:
    """Name the candidate that serves this client best, or nobody.

    A candidate is eligible if the 95 % bound of each metric with a `must` meets it. Eligible candidates are ranked by
    utility on the validation split; among those at most epsilon below the leader the cheapest is chosen, or the
    champion if that is no better by more than the switching margin. Nothing of the test split is read.

    Args:
        scorecards: of one task, one list of classes and one evaluation split; failed ones are listed as rejected.
        contract: what the client needs.
        seed: of the resampling that says how sure the ranking is.
        serving: run key of the model that serves this client now; it is the champion if it is among them.

    Raises:
        MetricNotMeasured: no scorecard has a metric that the contract names.
        InputError: the scorecards can't be compared with each other or judged by the contract, or their answers are
            damaged.
    """
    scorecards = sorted(scorecards, key=lambda scorecard: scorecard.candidate)  # whose order means nothing
    _refuse_incomparable(scorecards)
    _refuse_unjudgeable(scorecards, contract)
    eligible, rejected = _admit(scorecards, contract)
    champion = next((card.candidate for card in scorecards if serving and card.index.run_key == serving), None)
    shares = weight_shares(contract)
    ranking: tuple[Ranked, ...] = ()
    winner = None
    if eligible:
        with threadpool_limits(1, "blas"):  # products so small gain less from threads than these spin away
            decision = _decide(eligible, contract, seed, champion)
        ranking = _ranking(eligible, contract, decision)
        winner = eligible[decision.winner].scorecard
    chosen = next((ranked for ranked in ranking if winner and ranked.candidate == winner.candidate), None)
    why = why_this_one(chosen, ranking, contract, champion) if chosen else why_nobody(rejected, contract)
    why += _unsure(eligible, contract) if len(eligible) > 1 else ""
    return Selection(
        client=contract.client,
        winner=winner.candidate if winner else None,
        why=why + (TOOK_NO_PART if serving and not champion else ""),
        utility=chosen.utility if chosen else None,
        winner_run_key=winner.index.run_key if winner else None,
        serving=serving,
        champion=champion,
        epsilon=contract.epsilon,
        weights=shares,
        ranking=ranking,
        rejected=tuple(rejected),
        other_formulas=other_formulas(ranking, shares),
        hardware_class=next((s.index.hardware.hardware_class for s in scorecards if s.index.hardware), None),
        dataset=(winner or scorecards[0]).index.dataset,
        seed=seed,
        contract=contract.model_dump(mode="json", exclude_none=True),
    )


def read_scorecards(folders: Iterable[Path]) -> list[Scorecard]:
    """Read scorecards, sorted by name.

    Args:
        folders: each is a scorecard, or holds some, itself or in its `scorecards`.

    Raises:
        ArtifactError: a folder is no scorecard and holds none, or there are no folders.
    """
    scorecards = [Scorecard.read(place) for folder in folders for place in _places(folder)]
    if not scorecards:
        raise ArtifactError("there are no scorecards to choose from")
    return sorted(scorecards, key=lambda scorecard: scorecard.candidate)


def _places(folder: Path) -> list[Path]:
    for pattern in ("scorecard.json", "*/scorecard.json", "scorecards/*/scorecard.json"):
        if found := [file.parent for file in folder.glob(pattern)]:
            return found
    return [folder]


def _refuse_incomparable(scorecards: Sequence[Scorecard]) -> None:
    if not scorecards:
        raise InputError("there are no scorecards to choose from")
    name, times = Counter(scorecard.candidate for scorecard in scorecards).most_common(1)[0]
    if times > 1:
        raise InputError(f"two scorecards are named {name!r}")
    first = scorecards[0]
    for other in scorecards[1:]:
        pair = f"{first.candidate!r} and {other.candidate!r}"
        if other.index.task != first.index.task:
            raise InputError(f"{pair} are of different tasks: {first.index.task} and {other.index.task}")
        if other.index.dataset.evaluated_on != first.index.dataset.evaluated_on:
            raise InputError(f"{pair} were measured on different data")
    named = [scorecard for scorecard in scorecards if scorecard.index.classes]  # one written by hand may not say
    for other in named[1:]:
        if other.index.classes != named[0].index.classes:
            raise InputError(f"{named[0].candidate!r} and {other.candidate!r} tell different classes apart")
    classes = {s.index.hardware.hardware_class: s.candidate for s in scorecards if s.index.hardware}
    if len(classes) > 1:
        listed = "; ".join(f"{name!r} on {hardware}" for hardware, name in classes.items())
        raise InputError(f"times of different hardware can't be compared: {listed}")


def _refuse_unjudgeable(scorecards: Sequence[Scorecard], contract: Contract) -> None:
    contract.check_task(scorecards[0].index.task)
    if classes := next((scorecard.index.classes for scorecard in scorecards if scorecard.index.classes), ()):
        contract.check_classes(classes)
    timed = [name for name in contract.metrics if metric(name).timed]
    hardware = next((s.index.hardware.hardware_class for s in scorecards if s.index.hardware), None)
    if timed and contract.hardware_class and hardware not in (None, contract.hardware_class):
        raise InputError(f"{timed[0]} is wanted on {contract.hardware_class!r}, and was measured on {hardware!r}")


class _Entrant(NamedTuple):
    """An eligible candidate with what the contract asks of it."""

    scorecard: Scorecard
    measured: dict[str, Measurement]
    cost: Cost

    @property
    def name(self) -> str:
        return self.scorecard.candidate


def _admit(scorecards: Sequence[Scorecard], contract: Contract) -> tuple[list[_Entrant], list[Rejected]]:
    eligible, rejected = [], []
    unmeasured: list[MetricNotMeasured] = []
    for scorecard in scorecards:
        name = scorecard.candidate
        if scorecard.index.failure:
            rejected.append(Rejected(candidate=name, reason=scorecard.index.failure))
            continue
        try:
            found = {metric: measured(scorecard, metric, contract) for metric in contract.metrics}
        except MetricNotMeasured as error:
            unmeasured.append(error)
            rejected.append(Rejected(candidate=name, reason=str(error)))
            continue
        if violations := _violations(found, contract):
            reason = "; ".join(in_words(violation) for violation in violations)
            rejected.append(Rejected(candidate=name, reason=reason, violations=violations))
        else:
            eligible.append(_Entrant(scorecard, found, _cost(scorecard, contract)))
    if unmeasured and not eligible and not any(one.violations for one in rejected):
        raise unmeasured[0]
    return eligible, rejected


def _violations(found: Mapping[str, Measurement], contract: Contract) -> tuple[Violation, ...]:
    return tuple(
        Violation(metric=name, must=preference.must, value=found[name].value, bound=found[name].bound)
        for name, preference in contract.metrics.items()
        if preference.must is not None and not preference.met_by(found[name].bound)
    )


def _cost(scorecard: Scorecard, contract: Contract) -> Cost:
    known = {name: found.value for name, found in scorecard.index.model.items()}
    price, images_per_s = contract.price_per_hour, known.get(THROUGHPUT)
    return Cost(
        dollars_per_million=1e6 * price / 3600 / images_per_s if price and images_per_s else None,
        ms_per_image=known.get("latency_p50_ms"),
        model_size_mib=known.get("model_size_mib"),
    )


def _decide(eligible: Sequence[_Entrant], contract: Contract, seed: int, champion: str | None) -> Decision:
    names = [entrant.name for entrant in eligible]
    return decide(
        utilities(_worth(eligible, contract), np.array(list(weight_shares(contract).values()))),
        _resampled_utilities(eligible, contract, seed),
        [entrant.cost.order(entrant.name) for entrant in eligible],
        contract.epsilon,
        seed,
        names.index(champion) if champion in names else None,
        contract.switching_margin,
    )


def _ranking(eligible: Sequence[_Entrant], contract: Contract, decision: Decision) -> tuple[Ranked, ...]:
    shares = weight_shares(contract)
    worth_KM, front_K = _worth(eligible, contract), pareto_front(_oriented(eligible, contract))
    ranked = [
        Ranked(
            candidate=entrant.name,
            run_key=entrant.scorecard.index.run_key,
            utility=float(decision.utilities_K[k]),
            desirability=dict(zip(shares, worth_KM[k].tolist(), strict=True)),
            contribution={name: share * float(d) for (name, share), d in zip(shares.items(), worth_KM[k], strict=True)},
            measured=entrant.measured,
            p_best=None if decision.p_best_K is None else float(decision.p_best_K[k]),
            tied=bool(decision.tied_K[k]),
            pareto=bool(front_K[k]),
            loss_bound=None if decision.loss_bounds_K is None else float(decision.loss_bounds_K[k]),
            cost=entrant.cost,
        )
        for k, entrant in enumerate(eligible)
    ]
    return tuple(sorted(ranked, key=lambda r: (-r.utility, r.candidate)))


def _worth(eligible: Sequence[_Entrant], contract: Contract) -> Floats:
    values_KM = np.array([[entrant.measured[name].value for name in contract.metrics] for entrant in eligible])
    return np.stack([desirability(n, values_KM[:, m], p) for m, (n, p) in enumerate(contract.metrics.items())], 1)


def _oriented(eligible: Sequence[_Entrant], contract: Contract) -> Floats:
    """Return the values of all metrics that have a weight, so that higher is better."""
    names = [name for name, preference in contract.metrics.items() if preference.weight]
    sign_M = np.array([1 if metric(name).higher_is_better else -1 for name in names])
    values_KM = np.array([[entrant.measured[name].value for name in names] for entrant in eligible])
    return np.asarray(sign_M * values_KM)


def _resampled_utilities(eligible: Sequence[_Entrant], contract: Contract, seed: int) -> Floats | None:
    """Return utilities (resamples, candidates), or None where the answers or times behind a metric are not enough."""
    if _unsure(eligible, contract):
        return None
    cards = [entrant.scorecard for entrant in eligible]
    shares, of_images, of_rounds = _resampled(contract)
    drawn_BK: dict[str, NDArray[np.floating]] = {}
    if of_images:
        drawn_BK |= resample_quality(_same_images(cards), cards[0].index.classes, of_images, seed)
    if of_rounds:
        drawn_BK |= resample_times([card.times for card in cards if card.times], of_rounds, contract, seed)
    total_BK = np.zeros((RESAMPLES, len(eligible)))
    for name, share in shares.items():
        values = drawn_BK.get(name, np.array([entrant.measured[name].value for entrant in eligible]))
        total_BK += share * desirability(name, values, contract.metrics[name])
    return total_BK


def _unsure(eligible: Sequence[_Entrant], contract: Contract) -> str:
    """Say whose answers or times are too few to be resampled; "" where nobody's are."""
    _, of_images, of_rounds = _resampled(contract)
    for card in (entrant.scorecard for entrant in eligible):
        if of_images and not card.keeps_answers:
            return f" How sure this is can't be told: {card.candidate} kept no answers."
        if of_rounds and not (card.times and len(card.times.throughput_R) >= FEWEST_ROUNDS):
            return f" How sure this is can't be told: {card.candidate} was timed in fewer than {FEWEST_ROUNDS} rounds."
    return ""


def _resampled(contract: Contract) -> tuple[dict[str, float], list[str], list[str]]:
    """Return the shares of the metrics that have a weight, and which are resampled by images and by rounds."""
    shares = {name: share for name, share in weight_shares(contract).items() if share}
    of_images = [name for name in shares if metric(name).quality]
    return shares, of_images, [name for name in shares if name in RESAMPLED_TIMES]


def _same_images(scorecards: Iterable[Scorecard]) -> Iterator[Answers]:
    """Yield what was answered for the validation split, as long as the truth is the same for all."""
    first: tuple[str, Answers] | None = None
    for scorecard in scorecards:
        if (answers := scorecard.answered("validation")) is None:
            raise ArtifactError(f"{scorecard.candidate!r}: its answers for the validation split are gone")
        first = first or (scorecard.candidate, answers)
        if not np.array_equal(answers.truth, first[1].truth):
            raise InputError(f"{first[0]!r} and {scorecard.candidate!r} answered for different images")
        yield answers
