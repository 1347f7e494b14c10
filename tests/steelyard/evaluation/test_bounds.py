import numpy as np
import pytest

from steelyard.evaluation.bounds import measure_quality, proportion_bound, quantile_bound
from steelyard.evaluation.scorecard import SplitOutputs


def test_the_exact_bound_agrees_with_the_published_rule_of_three() -> None:
    assert proportion_bound(300, 300, upper=False) == pytest.approx(0.05 ** (1 / 300))
    assert proportion_bound(0, 300, upper=True) == pytest.approx(1 - 0.05 ** (1 / 300))
    assert (proportion_bound(0, 0, upper=False), proportion_bound(0, 0, upper=True)) == (0, 1)


@pytest.mark.parametrize("truth", [0.5, 0.9, 0.99])
def test_the_exact_bound_holds_at_least_as_often_as_it_promises(truth: float) -> None:
    hits = np.random.default_rng(0).binomial(100, truth, 2000)
    held = np.mean([proportion_bound(int(k), 100, upper=False) <= truth for k in hits])
    assert held >= 0.94


def test_the_bound_of_a_tail_quantile_needs_enough_samples() -> None:
    with pytest.raises(ValueError, match="needs at least 59 samples, not 58"):
        quantile_bound(np.arange(58.0), 0.95)
    assert quantile_bound(np.arange(59.0), 0.95) == 58


def test_the_bound_of_a_quantile_holds_as_often_as_it_promises() -> None:
    random = np.random.default_rng(0)
    held = np.mean([quantile_bound(random.exponential(size=200), 0.95) >= -np.log(0.05) for _ in range(2000)])
    assert 0.94 <= held <= 0.99


@pytest.mark.parametrize("errors", [0, 15])
def test_bounds_lie_on_the_unfavourable_side(errors: int) -> None:
    labels_N = np.arange(300) % 3
    answered_N = np.where(np.arange(300) < errors, (labels_N + 1) % 3, labels_N)
    probabilities_NC = (0.9 * np.eye(3)[answered_N] + 0.1 / 3).astype(np.float32)
    measured = measure_quality(SplitOutputs(probabilities_NC=probabilities_NC, labels_N=labels_N), ("a", "b", "c"))
    worse_is_lower = {name for name in measured if "false_positive" not in name and name != "log_loss"}
    assert all(measured[name].bound <= measured[name].value for name in worse_is_lower)
    assert all(measured[name].bound >= measured[name].value for name in set(measured) - worse_is_lower)
    assert measured["macro_recall"].bound == pytest.approx(measured["accuracy"].bound, abs=0.01)
