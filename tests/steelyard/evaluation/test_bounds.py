from collections.abc import Sequence
from math import erf

import numpy as np
import pytest

from steelyard.evaluation.bounds import measure_quality, proportion_bound, quantile_bound
from steelyard.evaluation.latency import latency_bound
from steelyard.evaluation.metrics import Floats, per_class_rates
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


def _answers(images_C: Sequence[int], accuracy: float, random: np.random.Generator) -> SplitOutputs:
    labels_N = np.repeat(np.arange(len(images_C)), images_C)
    shift_N = random.integers(1, len(images_C), len(labels_N)) * (random.random(len(labels_N)) >= accuracy)
    answered_N = (labels_N + shift_N) % len(images_C)
    return SplitOutputs(probabilities_NC=np.eye(len(images_C), dtype=np.float32)[answered_N], labels_N=labels_N)


def _true_means(images_C: Floats, accuracy: float) -> dict[str, float]:
    hits_C = images_C * accuracy
    predicted_C = hits_C + (images_C.sum() - images_C) * (1 - accuracy) / (len(images_C) - 1)
    rates = per_class_rates(hits_C[None], predicted_C[None], images_C[None])
    return {f"macro_{rate}": float(rates[rate].mean()) for rate in ("precision", "recall", "f1", "false_positive_rate")}


@pytest.mark.parametrize(
    ("images_C", "accuracy", "trials"),
    [
        ([45] * 10, 0.97, 80),
        ([5, 200], 0.97, 80),
        ([5] + [60] * 9, 0.95, 80),
        ([10] * 100, 0.97, 25),
    ],
)
def test_the_bounds_of_macro_means_hold_as_often_as_they_promise(
    images_C: list[int], accuracy: float, trials: int
) -> None:
    random = np.random.default_rng(0)
    truth = _true_means(np.array(images_C, dtype=np.float64), accuracy)
    classes = [str(c) for c in range(len(images_C))]
    held = dict.fromkeys(truth, 0.0)
    for _ in range(trials):
        measured = measure_quality(_answers(images_C, accuracy, random), classes)
        for name, true in truth.items():
            bound = measured[name].bound
            held[name] += (bound >= true if name == "macro_false_positive_rate" else bound <= true) / trials
    assert min(held.values()) >= 0.93 - 2 * np.sqrt(0.05 * 0.95 / trials), held


def test_without_an_error_a_class_is_bounded_by_its_own_images_and_a_macro_mean_by_all() -> None:
    measured = measure_quality(_answers([10] * 100, 1.0, np.random.default_rng(0)), [str(c) for c in range(100)])
    assert measured["f1[7]"].bound == pytest.approx(0.025 ** (1 / 10))
    for name in ("macro_recall", "macro_precision", "macro_f1"):
        assert measured[name].bound == pytest.approx(measured["accuracy"].bound, abs=0.001)


def test_the_bound_of_f1_holds_for_a_class_with_few_images() -> None:
    random = np.random.default_rng(0)
    true = 2 * 9 / (9 + 9 + 2)
    bounds = [measure_quality(_answers([10, 10], 0.9, random), ("a", "b"))["f1[a]"].bound for _ in range(100)]
    assert np.mean(np.array(bounds) <= true) >= 0.95


@pytest.mark.parametrize(("images_C", "gap"), [([45] * 4, 3.0), ([5, 200], 3.0), ([10, 10], 4.0)])
def test_the_bound_of_the_roc_area_holds_even_where_no_error_was_seen(images_C: list[int], gap: float) -> None:
    """Scores of a class are one-dimensional logits, so that its true area against the rest is known."""
    random = np.random.default_rng(0)
    labels_N = np.repeat(np.arange(len(images_C)), images_C)
    classes = [str(c) for c in range(len(images_C))]
    truth = (1 + erf(gap / 2)) / 2
    held = []
    for _ in range(100):
        score_NC = random.normal(size=(len(labels_N), len(images_C))) + gap * np.eye(len(images_C))[labels_N]
        outputs = SplitOutputs(probabilities_NC=score_NC.astype(np.float32), labels_N=labels_N)
        held.append(measure_quality(outputs, classes)["roc_auc"].bound <= truth)
    assert np.mean(held) >= 0.93


def test_the_bound_of_log_loss_leaves_room_where_every_image_was_equally_easy() -> None:
    labels_N = np.arange(100) % 2
    probabilities_NC = np.where(np.eye(2)[labels_N] == 1, 0.9, 0.1).astype(np.float32)
    log_loss = measure_quality(SplitOutputs(probabilities_NC=probabilities_NC, labels_N=labels_N), ("a", "b"))[
        "log_loss"
    ]
    assert log_loss.bound == pytest.approx(log_loss.value * 1.03, rel=0.005)


@pytest.mark.parametrize("between", [0.0, 0.1, 0.3])
@pytest.mark.parametrize(("quantile", "normal"), [(0.5, 0.0), (0.95, 1.645)])
def test_the_bound_of_a_latency_holds_where_rounds_differ(between: float, quantile: float, normal: float) -> None:
    random = np.random.default_rng(0)
    truth = np.exp(normal * np.hypot(between, 0.1))
    rounds = [np.exp(random.normal(0, between, (30, 1)) + random.normal(0, 0.1, (30, 20))) for _ in range(400)]
    assert np.mean([latency_bound(latency_ms_RS, quantile) >= truth for latency_ms_RS in rounds]) >= 0.93
