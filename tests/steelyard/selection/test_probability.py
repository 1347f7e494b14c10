"""The chance of being the best: coherent, fair to equals, and right about as often as it says."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.evaluation.metrics import Floats
from steelyard.selection.probability import probability_best

MONTE_CARLO = 0.04  # 4,000 draws: five standard errors of a chance


def _problem(seed: int, candidates: int) -> tuple[Floats, Floats]:
    """Return utilities and a covariance of errors that are shared in part, as over the same images."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(candidates, candidates)) + random.normal()
    return random.normal(0, 2, candidates), mixing @ mixing.T


@given(st.integers(0, 10_000), st.integers(1, 12))
@settings(max_examples=40)
def test_chances_sum_to_one(seed: int, candidates: int) -> None:
    chances_K = probability_best(*_problem(seed, candidates), seed=0)
    assert chances_K.sum() == pytest.approx(1)
    assert ((chances_K >= 0) & (chances_K <= 1)).all()


@given(st.integers(0, 10_000), st.integers(2, 8))
@settings(max_examples=40)
def test_the_order_of_the_candidates_means_nothing(seed: int, candidates: int) -> None:
    utilities_K, covariance_KK = _problem(seed, candidates)
    order_K = np.random.default_rng(seed).permutation(candidates)
    chances_K = probability_best(utilities_K, covariance_KK, 0)
    moved_K = probability_best(utilities_K[order_K], covariance_KK[np.ix_(order_K, order_K)], 0)
    assert moved_K == pytest.approx(chances_K[order_K], abs=MONTE_CARLO)


@given(st.integers(0, 10_000), st.floats(-100, 100), st.sampled_from([1e-3, 1.0, 1e3]))
@settings(max_examples=30)
def test_neither_do_the_origin_and_the_unit_of_utility(seed: int, origin: float, unit: float) -> None:
    utilities_K, covariance_KK = _problem(seed, 4)
    chances_K = probability_best(utilities_K, covariance_KK, 0)
    other_K = probability_best(origin + unit * utilities_K, unit**2 * covariance_KK, 0)
    assert other_K == pytest.approx(chances_K, abs=MONTE_CARLO)


@pytest.mark.parametrize("copies", [2, 3, 5])
def test_identical_candidates_share_equally(copies: int) -> None:
    utilities_K, covariance_KK = _problem(3, 3)
    rows = [*range(3), *[0] * (copies - 1)]
    chances_K = probability_best(utilities_K[rows], covariance_KK[np.ix_(rows, rows)], 0)
    assert chances_K[[0, *range(3, 2 + copies)]] == pytest.approx(chances_K[0], abs=MONTE_CARLO)
    all_alike_K = probability_best(np.full(copies, 0.5), np.full((copies, copies), 0.01), 0)
    assert all_alike_K == pytest.approx(1 / copies, abs=1e-3)


@pytest.mark.parametrize("copies", [1, 12, 30])
def test_copies_of_a_loser_do_not_make_the_leader_look_like_them(copies: int) -> None:
    covariance_KK = np.full((copies + 1, copies + 1), 0.0)
    covariance_KK[0, 0], covariance_KK[1:, 1:] = 0.008**2, 0.008**2
    assert probability_best(np.array([0.914, *[0.794] * copies]), covariance_KK, 0)[0] > 0.99


def test_losers_that_are_worth_nothing_for_certain_do_not_hide_the_leader() -> None:
    covariance_KK = np.zeros((13, 13))
    covariance_KK[0, 0] = 0.01**2
    assert probability_best(np.array([0.44, *[0.0] * 12]), covariance_KK, 0)[0] > 0.99


def test_without_any_error_the_best_is_certain() -> None:
    assert probability_best(np.array([0.1, 0.3, 0.2]), np.zeros((3, 3)), 0).tolist() == [0, 1, 0]


def test_a_wide_gap_is_claimed_and_a_tie_is_not() -> None:
    assert probability_best(np.array([20.0, 0.0]), np.eye(2), 0) == pytest.approx([1, 0], abs=0.01)
    assert probability_best(np.array([0.0, 0.0]), np.eye(2), 0) == pytest.approx([0.5, 0.5], abs=MONTE_CARLO)


def test_errors_that_all_share_hide_nothing() -> None:
    """A gap of one is wide where the images are hard or easy for both alike."""
    shared = np.array([[1.0, 0.999], [0.999, 1.0]])
    assert (
        probability_best(np.array([1.0, 0.0]), shared, 0)[0]
        > 0.95
        > probability_best(np.array([1.0, 0.0]), np.eye(2), 0)[0]
    )


def _posterior(seen_K: Floats) -> Floats:
    return probability_best(seen_K, np.eye(len(seen_K)), 0)


def _raw_bootstrap(seen_K: Floats) -> Floats:
    drawn_DK = seen_K + np.random.default_rng(0).standard_normal((1000, len(seen_K)))
    return np.bincount(drawn_DK.argmax(1), minlength=len(seen_K)) / 1000


def _claimed_and_right(
    chances: Callable[[Floats], Floats], candidates: int, spread: float, trials: int = 400
) -> tuple[float, float]:
    """Return the mean claim and how often it was right, where more than 80 % was claimed; spread in standard errors."""
    random = np.random.default_rng(1)
    claimed, right = [], []
    for _ in range(trials):
        true_K = random.normal(0, spread, candidates)
        chances_K = chances(true_K + random.standard_normal(candidates))
        if chances_K.max() > 0.8:
            claimed.append(chances_K.max())
            right.append(chances_K.argmax() == true_K.argmax())
    return float(np.mean(claimed)), float(np.mean(right))


@pytest.mark.parametrize(("candidates", "spread"), [(2, 1), (3, 1), (3, 2), (8, 2)])
def test_claims_above_80_percent_are_right_about_that_often(candidates: int, spread: float) -> None:
    claimed, right = _claimed_and_right(_posterior, candidates, spread)
    assert right >= claimed - 0.09


@pytest.mark.parametrize("candidates", [2, 3])
def test_the_claims_of_the_raw_bootstrap_are_not(candidates: int) -> None:
    claimed, right = _claimed_and_right(_raw_bootstrap, candidates, 0.5)
    assert right < claimed - 0.09
