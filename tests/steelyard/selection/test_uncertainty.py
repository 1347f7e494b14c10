"""How sure the ranking may be."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from steelyard.contract import Contract
from steelyard.data.dataset import DatasetRef
from steelyard.evaluation.metrics import Floats
from steelyard.evaluation.scorecard import Scorecard, ScorecardIndex, SplitOutputs
from steelyard.selection.uncertainty import probability_best, resampled_utilities


def _raw_bootstrap(utilities_K: Floats, utilities_BK: Floats, seed: int) -> list[float]:
    shares = np.bincount(utilities_BK.argmax(1), minlength=len(utilities_K)) / len(utilities_BK)
    return [float(share) for share in shares]


def _claimed_and_right(
    chances: Callable[[Floats, Floats, int], list[float]], candidates: int, spread: float, trials: int = 250
) -> tuple[float, float]:
    """Return the mean claim and how often it was right, where more than 80 % was claimed; spread in standard errors."""
    random = np.random.default_rng(1)
    error_BK = random.standard_normal((1000, candidates))
    claimed, right = [], []
    for _ in range(trials):
        true_K = random.normal(0, spread, candidates)
        seen_K = true_K + random.standard_normal(candidates)
        chances_K = chances(seen_K, seen_K + error_BK - error_BK.mean(0), 0)
        if max(chances_K) > 0.8:
            claimed.append(max(chances_K))
            right.append(np.argmax(chances_K) == true_K.argmax())
    return float(np.mean(claimed)), float(np.mean(right))


@pytest.mark.parametrize(("candidates", "spread"), [(2, 0.5), (3, 0.5), (3, 1), (2, 2)])
def test_claims_above_80_percent_are_right_about_that_often(candidates: int, spread: float) -> None:
    claimed, right = _claimed_and_right(probability_best, candidates, spread)
    assert right >= claimed - 0.09


@pytest.mark.parametrize("candidates", [2, 3])
def test_the_claims_of_the_raw_bootstrap_are_not(candidates: int) -> None:
    claimed, right = _claimed_and_right(_raw_bootstrap, candidates, 0.5)
    assert right < claimed - 0.09


def test_a_wide_gap_is_claimed_and_a_tie_is_not() -> None:
    error_BK = np.random.default_rng(0).standard_normal((1000, 2))
    assert probability_best(np.array([20.0, 0.0]), error_BK, 0) == pytest.approx([1, 0], abs=0.01)
    assert probability_best(np.array([0.0, 0.0]), error_BK, 0) == pytest.approx([0.5, 0.5], abs=0.05)


def test_many_images_are_resampled_in_little_memory() -> None:
    labels_N = np.arange(10_000) % 10
    outputs = SplitOutputs(probabilities_NC=np.eye(10, dtype=np.float32)[labels_N], labels_N=labels_N)
    index = ScorecardIndex(
        candidate="one",
        task="classification",
        dataset=DatasetRef(content_digest="c", split_digest="s"),
        classes=tuple(str(c) for c in range(10)),
    )
    card = Scorecard(index=index, outputs={"validation": outputs})
    wanted = Contract.model_validate(
        {"client": "acme", "epsilon": 0, "metrics": {"accuracy": {"weight": 1, "worst": 0.5, "ideal": 1}}}
    )
    tracemalloc.start()
    try:
        utilities_BK = resampled_utilities([card], wanted, 0)
        peak_mib = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    assert utilities_BK is not None
    assert (utilities_BK.shape, utilities_BK.min()) == ((1000, 1), 1)
    assert peak_mib < 60
