"""How often bounds hold, by simulation over data whose truth is known."""

from collections.abc import Collection, Sequence
from math import erf

import numpy as np
import pytest

from steelyard.evaluation.answers import Answers, MaskCounts, SplitOutputs
from steelyard.evaluation.bounds import measure_quality, proportion_bound
from steelyard.evaluation.measurement import Measurement
from steelyard.evaluation.metrics import SMALLEST_PROBABILITY, Floats, quality, quality_names, rates
from steelyard.metrics import metric


def measured(answers: Answers, classes: Sequence[str], names: Collection[str] = ()) -> dict[str, Measurement]:
    """Measure these metrics, or all usual ones."""
    task = "segmentation" if isinstance(answers, MaskCounts) else "classification"
    return measure_quality(answers, classes, names or quality_names(task, classes))


def test_the_exact_bound_agrees_with_the_published_rule_of_three() -> None:
    assert proportion_bound(300, 300, upper=False) == pytest.approx(0.05 ** (1 / 300))
    assert proportion_bound(0, 300, upper=True) == pytest.approx(1 - 0.05 ** (1 / 300))
    assert (proportion_bound(0, 0, upper=False), proportion_bound(0, 0, upper=True)) == (0, 1)


@pytest.mark.parametrize("truth", [0.5, 0.9, 0.99])
def test_the_exact_bound_holds_at_least_as_often_as_it_promises(truth: float) -> None:
    hits = np.random.default_rng(0).binomial(100, truth, 2000)
    held = np.mean([proportion_bound(int(k), 100, upper=False) <= truth for k in hits])
    assert held >= 0.94


@pytest.mark.parametrize("errors", [0, 15])
def test_bounds_lie_on_the_unfavourable_side(errors: int) -> None:
    labels_N = np.arange(300) % 3
    answered_N = np.where(np.arange(300) < errors, (labels_N + 1) % 3, labels_N)
    probabilities_NC = (0.9 * np.eye(3)[answered_N] + 0.1 / 3).astype(np.float32)
    found = measured(SplitOutputs(probabilities_NC=probabilities_NC, labels_N=labels_N), ("a", "b", "c"))
    for name, one in found.items():
        assert one.bound < one.value if metric(name).higher_is_better else one.bound > one.value, name
    assert found["macro_recall"].bound == pytest.approx(found["accuracy"].bound, abs=0.01)


def _answers(images_C: Sequence[int], accuracy: float, random: np.random.Generator) -> SplitOutputs:
    labels_N = np.repeat(np.arange(len(images_C)), images_C)
    shift_N = random.integers(1, len(images_C), len(labels_N)) * (random.random(len(labels_N)) >= accuracy)
    answered_N = (labels_N + shift_N) % len(images_C)
    return SplitOutputs(probabilities_NC=np.eye(len(images_C), dtype=np.float32)[answered_N], labels_N=labels_N)


def _true_means(images_C: Floats, accuracy: float) -> dict[str, float]:
    hits_C = images_C * accuracy
    predicted_C = hits_C + (images_C.sum() - images_C) * (1 - accuracy) / (len(images_C) - 1)
    found = rates(hits_C[None], predicted_C[None], images_C[None])
    return {f"macro_{rate}": float(found[rate].mean()) for rate in ("precision", "recall", "f1", "false_positive_rate")}


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
        found = measured(_answers(images_C, accuracy, random), classes, truth)
        for name, true in truth.items():
            bound = found[name].bound
            held[name] += (bound >= true if name == "macro_false_positive_rate" else bound <= true) / trials
    assert min(held.values()) >= 0.93 - 2 * np.sqrt(0.05 * 0.95 / trials), held


def test_without_an_error_a_class_is_bounded_by_its_own_images_and_a_macro_mean_by_all() -> None:
    macro = ("macro_recall", "macro_precision", "macro_f1")
    answers = _answers([10] * 100, 1.0, np.random.default_rng(0))
    found = measured(answers, [str(c) for c in range(100)], ["f1[7]", "accuracy", "worst_class_recall", *macro])
    assert found["f1[7]"].bound == pytest.approx(0.025 ** (1 / 10))
    assert found["worst_class_recall"].bound == pytest.approx(0.05 ** (1 / 10))
    for name in macro:
        assert found[name].bound == pytest.approx(found["accuracy"].bound, abs=0.001)


def test_the_bound_of_f1_holds_for_a_class_with_few_images() -> None:
    random = np.random.default_rng(0)
    true = 2 * 9 / (9 + 9 + 2)
    answers = [_answers([10, 10], 0.9, random) for _ in range(300)]
    bounds = [measured(one, ("a", "b"), ["f1[a]"])["f1[a]"].bound for one in answers]
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
        held.append(measured(outputs, classes, ["roc_auc"])["roc_auc"].bound <= truth)
    assert np.mean(held) >= 0.93


def test_the_bound_of_log_loss_leaves_room_for_an_image_that_is_ruled_out() -> None:
    labels_N = np.arange(100) % 2
    probabilities_NC = np.where(np.eye(2)[labels_N] == 1, 0.9, 0.1).astype(np.float32)
    answers = SplitOutputs(probabilities_NC=probabilities_NC, labels_N=labels_N)
    log_loss = measured(answers, ("a", "b"), ["log_loss"])["log_loss"]
    assert log_loss.bound == pytest.approx(log_loss.value + 3 * -np.log(SMALLEST_PROBABILITY) / 100, rel=0.02)


@pytest.mark.parametrize(("images", "wrong", "surest"), [(200, 0.005, 1e-4), (1000, 0.001, 1e-5), (200, 0.01, 1e-4)])
def test_the_bound_of_log_loss_holds_where_few_errors_are_confident(images: int, wrong: float, surest: float) -> None:
    random = np.random.default_rng(0)
    truth = -wrong * np.log(surest) - (1 - wrong) * np.log(1 - surest)
    labels_N = np.zeros(images, np.int64)
    held = []
    for _ in range(200):
        own_N = np.where(random.random(images) < wrong, surest, 1 - surest)
        answers = SplitOutputs(probabilities_NC=np.stack([own_N, 1 - own_N], 1).astype(np.float32), labels_N=labels_N)
        held.append(measured(answers, ("a", "b"), ["log_loss"])["log_loss"].bound >= truth)
    assert np.mean(held) >= 0.93


@pytest.mark.parametrize(
    ("images_C", "recall_C"),
    [([100] * 3, [0.9, 0.9, 0.9]), ([20, 200, 200], [0.95, 0.9, 0.99]), ([10] * 50, [0.95] * 50)],
)
def test_the_bound_of_the_smallest_recall_holds(images_C: list[int], recall_C: list[float]) -> None:
    random = np.random.default_rng(0)
    classes = [str(c) for c in range(len(images_C))]
    labels_N = np.repeat(np.arange(len(images_C)), images_C)
    bounds = []
    for _ in range(200):
        hit_N = random.random(len(labels_N)) < np.array(recall_C)[labels_N]
        probabilities_NC = np.eye(len(images_C), dtype=np.float32)[(labels_N + ~hit_N) % len(images_C)]
        answers = SplitOutputs(probabilities_NC=probabilities_NC, labels_N=labels_N)
        bounds.append(measured(answers, classes, ["worst_class_recall"])["worst_class_recall"].bound)
    assert np.mean(np.array(bounds) <= min(recall_C)) >= 0.93


@pytest.mark.parametrize(("images", "rate"), [(60, 0.9), (60, 0.99), (400, 0.95)])
def test_the_bound_of_the_top_k_accuracy_holds(images: int, rate: float) -> None:
    """The true class is among the three likeliest of six at a known rate, and never the likeliest."""
    random = np.random.default_rng(0)
    bounds = []
    for _ in range(300):
        labels_N = random.integers(6, size=images)
        place_N = np.where(random.random(images) < rate, 1 + random.integers(2, size=images), 4)
        score_NC = np.zeros((images, 6), np.float32)
        others = [[c for c in range(6) if c != label] for label in labels_N]
        for n, (label, place) in enumerate(zip(labels_N, place_N, strict=True)):
            order = [*others[n][:place], label, *others[n][place:]]
            score_NC[n, order] = np.linspace(0.4, 0.0, 6)
        answers = SplitOutputs(probabilities_NC=score_NC, labels_N=labels_N)
        bounds.append(measured(answers, "abcdef", ["top_3_accuracy"])["top_3_accuracy"].bound)
    assert np.mean(np.array(bounds) <= rate) >= 0.93


@pytest.mark.parametrize(
    ("images", "confidence", "accuracy"), [(30, 0.98, 0.93), (100, 0.9, 0.8), (400, 0.99, 0.985), (400, 0.7, 0.95)]
)
def test_the_bound_of_the_calibration_error_holds_even_where_no_error_was_seen(
    images: int, confidence: float, accuracy: float
) -> None:
    random = np.random.default_rng(0)
    truth = abs(confidence - accuracy)
    bounds = []
    for _ in range(300):
        labels_N = random.integers(2, size=images)
        said_N = np.where(random.random(images) < accuracy, labels_N, 1 - labels_N)
        probabilities_NC = np.where(np.eye(2)[said_N] == 1, confidence, 1 - confidence).astype(np.float32)
        answers = SplitOutputs(probabilities_NC=probabilities_NC, labels_N=labels_N)
        name = "expected_calibration_error"
        bounds.append(measured(answers, "ab", [name])[name].bound)
    assert np.mean(np.array(bounds) >= truth) >= 0.93


def _masks(images: int, failing: float, random: np.random.Generator) -> MaskCounts:
    """Return masks of 1,000 pixels: some are failures, of which most pixels are wrong, and the others nearly right."""
    share_N = random.uniform(0.2, 0.5, images)
    wrong_N = np.where(random.random(images) < failing, 0.9, random.beta(1, 60, images))
    own_N1 = 1000 * np.stack([1 - share_N, share_N], 1)
    missed_NC = (own_N1 * wrong_N[:, None]).round()
    counts_NCC = np.zeros((images, 2, 2), np.int64)
    for c in (0, 1):
        counts_NCC[:, c, c], counts_NCC[:, c, 1 - c] = (own_N1 - missed_NC)[:, c].round(), missed_NC[:, c]
    return MaskCounts(counts_NCC=counts_NCC)


@pytest.mark.parametrize(("images", "failing"), [(20, 0.05), (20, 0.3), (40, 0.03), (300, 0.02)])
def test_the_bounds_of_overlaps_hold_where_whole_images_fail_even_unseen(images: int, failing: float) -> None:
    names = ("mean_iou", "mean_dice", "pixel_accuracy", "iou[b]", "dice[a]")
    random = np.random.default_rng(0)
    many = _masks(200_000, failing, np.random.default_rng(1))
    truth = {name: value[0] for name, value in quality(many, "ab", np.ones((1, 200_000)), names).items()}
    held = dict.fromkeys(names, 0.0)
    for _ in range(200):
        for name, found in measured(_masks(images, failing, random), "ab", names).items():
            held[name] += (found.bound <= truth[name]) / 200
    assert min(held.values()) >= 0.92, held


def test_faultless_masks_prove_no_more_than_their_number_allows() -> None:
    counts_NCC = np.tile(np.diag([600, 400]), (50, 1, 1))
    found = measured(MaskCounts(counts_NCC=counts_NCC), "ab")
    assert {name: one.value for name, one in found.items()} == dict.fromkeys(found, 1.0)
    assert found["pixel_accuracy"].bound == pytest.approx(1 - 3 / 50, abs=0.003)
    assert all(0.85 < one.bound < 0.95 for one in found.values())


@pytest.mark.parametrize("name", ["mean_iou", "pixel_accuracy", "iou[a]"])
def test_one_image_allows_no_bound(name: str) -> None:
    found = measured(MaskCounts(counts_NCC=np.array([[[5, 0], [0, 5]]])), "ab", [name])[name]
    assert (found.value, found.bound) == (1, 0)
