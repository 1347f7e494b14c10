"""How far weights may be wrong: against random search, brute force and the selector itself."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from steelyard.contract import Contract
from steelyard.metrics import metric
from steelyard.selection.robustness import robustness
from steelyard.selection.select import select
from steelyard.selection.selection import Ranked, Robustness, Selection
from tests.steelyard.selection.selection_kit import card, contract, reweighted, written
from tests.steelyard.selection.test_properties import SCALES, Field, by_name, value_of

COSTS = {"latency_p50_ms", "model_size_mib"}
FAST = settings(max_examples=30)


@st.composite
def problems(draw: st.DrawFn) -> Field:
    """Candidates of which none is like another, drawn from a seed: no two weights decide a tie by luck."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    names = draw(st.lists(st.sampled_from(sorted(SCALES)), min_size=2, max_size=4, unique=True))
    metrics = {
        name: {"weight": random.uniform(0.2, 3), "worst": SCALES[name][0], "ideal": SCALES[name][1]} for name in names
    }
    values = {
        f"c{k}": {name: value_of(name, random.uniform(0, 1)) for name in names} for k in range(draw(st.integers(2, 6)))
    }
    return Field(values, written(metrics, epsilon=draw(st.sampled_from([0.0, 0.01, 0.1]))))


def examined(field: Field) -> tuple[Selection, Robustness]:
    selection = field.select()
    found = robustness(selection)
    assert found is not None
    return selection, found


def winner_by_hand(ranking: tuple[Ranked, ...], weights: Mapping[str, float], epsilon: float) -> str:
    utility = {r.candidate: sum(weights[n] * d for n, d in r.desirability.items()) for r in ranking}
    best = max(utility.values())
    tied = [r for r in ranking if utility[r.candidate] >= best - epsilon - 1e-12]
    return min(tied, key=lambda r: r.cost.order(r.candidate)).candidate


@given(problems())
@FAST
def test_the_smallest_flip_really_flips_when_the_selector_is_asked(field: Field) -> None:
    selection, found = examined(field)
    if found.flip is None:
        return
    assert sum(found.flip.weights.values()) == pytest.approx(1)
    moved = sum(abs(found.flip.weights[n] - share) for n, share in selection.weights.items()) / 2
    assert moved == pytest.approx(found.flip.change, abs=1e-6)
    assert select(field.cards, reweighted(field.contract, found.flip.weights)).winner == found.flip.to
    assert found.flip.to != selection.winner


@given(problems(), st.integers(0, 1000))
@FAST
def test_random_search_finds_no_smaller_flip(field: Field, seed: int) -> None:
    selection, found = examined(field)
    reach = 1.0 if found.flip is None else 0.99 * found.flip.change - 1e-4
    assume(reach > 0)
    random = np.random.default_rng(seed)
    names, weights_M = list(selection.weights), np.array(list(selection.weights.values()))
    for corner in (*np.eye(len(names)), *random.dirichlet(np.full(len(names), 0.5), 150)):
        step_M = corner - weights_M
        step_M = step_M * min(1.0, reach / (np.abs(step_M).sum() / 2))
        moved = dict(zip(names, weights_M + random.choice([1.0, random.random()]) * step_M, strict=True))
        assert winner_by_hand(selection.ranking, moved, selection.epsilon) == selection.winner


def test_a_candidate_that_is_better_in_everything_can_t_be_flipped() -> None:
    found = robustness(
        select(
            [card("best", accuracy=0.9, latency_p50_ms=2), card("worse", accuracy=0.7, latency_p50_ms=50)], contract()
        )
    )
    assert found is not None
    assert found.flip is None
    assert found.all_weights == found.near_weights == {"best": 1.0, "worse": 0.0}
    assert [(r.low, r.high, r.below, r.above) for r in found.ranges.values()] == [(0, 1, None, None)] * 2


@given(problems())
@FAST
def test_the_ranges_are_those_of_brute_force(field: Field) -> None:
    selection, found = examined(field)
    for name, share in selection.weights.items():
        rest = 1 - share

        def wins(at: float, name: str = name, rest: float = rest) -> str:
            weights = {n: at if n == name else w / rest * (1 - at) for n, w in selection.weights.items()}
            return winner_by_hand(selection.ranking, weights, selection.epsilon)

        grid = [step / 1000 for step in range(1001)]
        others = [at for at in grid if wins(at) != selection.winner]
        assert found.ranges[name].low == pytest.approx(max([at for at in others if at < share], default=0))
        assert found.ranges[name].high == pytest.approx(min([at for at in others if at > share], default=1))
        for at, to in (
            (found.ranges[name].low, found.ranges[name].below),
            (found.ranges[name].high, found.ranges[name].above),
        ):
            assert to is None or wins(at) == to


def test_the_only_metric_may_have_any_weight() -> None:
    metrics = {"accuracy": {"weight": 2, "worst": 0.5, "ideal": 1}}
    found = robustness(select([card("a", accuracy=0.9), card("b", accuracy=0.8)], written(metrics)))
    assert found is not None
    assert (found.ranges["accuracy"].low, found.ranges["accuracy"].high) == (0, 1)


@given(problems())
@FAST
def test_what_a_candidate_needed_makes_it_win_just_beyond_and_not_just_before(field: Field) -> None:
    selection, found = examined(field)
    assert found.needed.keys() == field.values.keys()
    assert found.needed[str(selection.winner)] == {}
    for candidate, needed in found.needed.items():
        for name, value in needed.items():
            worst, ideal = SCALES[name]
            log = metric(name).scale == "log"
            worth = np.log(value / worst) / np.log(ideal / worst) if log else (value - worst) / (ideal - worst)
            assert by_name(selection)[candidate].desirability[name] - 1e-9 <= worth <= 1 + 1e-9
            if worth > 1 - 1e-5:
                continue
            beyond, before = (field.having(candidate, **{name: value_of(name, worth + by)}) for by in (1e-6, -1e-6))
            assert beyond.select().winner == candidate
            if name not in COSTS:  # the better value makes it cheaper too, so that less may do
                assert before.select().winner != candidate


@given(problems())
@FAST
def test_what_is_not_listed_as_needed_could_not_have_made_it_win(field: Field) -> None:
    selection, found = examined(field)
    for candidate, needed in found.needed.items():
        if candidate != selection.winner:
            for name in field.contract.metrics.keys() - needed.keys() - COSTS:
                assert field.having(candidate, **{name: SCALES[name][1]}).select().winner != candidate


def test_whom_only_the_champion_holds_back_needs_nothing() -> None:
    cards = [card("champion", accuracy=0.90, latency_p50_ms=2), card("better", accuracy=0.92, latency_p50_ms=2)]
    found = robustness(select(cards, contract(epsilon=0.0, margin=0.5), serving="key of champion"))
    assert found is not None
    assert found.needed == {"champion": {}, "better": {}}


@given(problems())
@FAST
def test_shares_of_weights_sum_to_one_and_agree_with_chance(field: Field) -> None:
    selection, found = examined(field)
    random = np.random.default_rng(99)
    names = list(selection.weights)
    for shares, drawn in (
        (found.all_weights, random.dirichlet(np.ones(len(names)), 400)),
        (found.near_weights, np.array(list(selection.weights.values())) * random.uniform(0.8, 1.2, (400, len(names)))),
    ):
        assert sum(shares.values()) == pytest.approx(1)
        won = [
            winner_by_hand(selection.ranking, dict(zip(names, w / w.sum(), strict=True)), selection.epsilon)
            for w in drawn
        ]
        for name, share in shares.items():
            assert won.count(name) / 400 == pytest.approx(share, abs=0.13)  # five standard errors


def test_a_selection_without_candidates_has_no_robustness() -> None:
    wanted: Contract = contract(accuracy=">= 0.99")
    assert robustness(select([card("a", accuracy=0.9, latency_p50_ms=2)], wanted)) is None
