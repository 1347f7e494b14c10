"""The rule of halving, and where it is applied."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from steelyard.contract import Contract
from steelyard.selection.halving import early_utility, goes_on, places, rung_epochs

UTILITIES = some.lists(some.floats(-10, 1), unique=True, max_size=30)


@pytest.mark.parametrize(
    ("epochs", "rungs"),
    [
        (1, {}),
        (2, {1: 2}),
        (3, {1: 2}),
        (9, {1: 1, 3: 2}),
        (10, {2: 1, 4: 2}),
        (27, {3: 1, 9: 2}),
        (90, {10: 1, 30: 2}),
    ],
)
def test_rungs_are_a_ninth_and_a_third_of_the_epochs(epochs: int, rungs: dict[int, int]) -> None:
    assert rung_epochs(epochs) == rungs


@given(UTILITIES)
def test_of_those_recorded_the_best_third_goes_on_and_at_least_one(utilities: list[float]) -> None:
    kept = [u for u in utilities if goes_on(u, [other for other in utilities if other != u])]
    assert sorted(kept) == sorted(utilities)[len(utilities) - len(kept) :]
    assert len(kept) == (places(len(utilities)) if utilities else 0)


@given(UTILITIES, some.floats(-10, 1))
def test_a_better_candidate_never_fares_worse(others: list[float], utility: float) -> None:
    assert not goes_on(utility, others) or goes_on(utility + 0.1, others)


CONTRACT = Contract.from_yaml(
    "client: acme\n"
    "metrics: {accuracy: {weight: 3, worst: 0.9, ideal: 1}, latency_p95_ms: {weight: 1, worst: 20, ideal: 1}}"
)


def test_below_worst_the_better_learner_is_worth_more_than_the_faster() -> None:
    slow = early_utility({"accuracy": 0.5, "latency_p95_ms": 30}, CONTRACT)
    fast = early_utility({"accuracy": 0.3, "latency_p95_ms": 1}, CONTRACT)
    assert slow == pytest.approx(0.75 * (0.5 - 0.9) / 0.1)
    assert fast == pytest.approx(0.75 * (0.3 - 0.9) / 0.1 + 0.25)
    assert slow > fast
    assert early_utility({"accuracy": 1.0, "latency_p95_ms": 0.5}, CONTRACT) == pytest.approx(1)
