"""Against scikit-learn, the field's reference."""

import numpy as np
import pytest
from sklearn import metrics as reference

from steelyard.evaluation.answers import MaskCounts, SplitOutputs
from steelyard.evaluation.metrics import confusion, quality, quality_names
from steelyard.evaluation.roc import roc_curves

CLASSES = ("a", "b", "c")


def _outputs(images: int = 200) -> SplitOutputs:
    random = np.random.default_rng(0)
    labels_N = random.integers(0, 3, images)
    logits_NC = random.normal(size=(images, 3)) + 1.5 * np.eye(3)[labels_N]
    probabilities_NC = np.exp(logits_NC) / np.exp(logits_NC).sum(1, keepdims=True)
    return SplitOutputs(probabilities_NC=probabilities_NC.round(2).astype(np.float32), labels_N=labels_N)


@pytest.fixture
def outputs() -> SplitOutputs:
    return _outputs()


def _all(outputs: SplitOutputs, weights_BN: np.ndarray, *more: str) -> dict[str, np.ndarray]:
    return quality(outputs, CLASSES, weights_BN, [*quality_names("classification", CLASSES), *more])


def _calibration_error(outputs: SplitOutputs, weights_N: np.ndarray) -> float:
    """The definition of Guo et al. 2017, bin by bin."""
    confidence, right = outputs.probabilities_NC.max(1), outputs.probabilities_NC.argmax(1) == outputs.labels_N
    error = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if weight := weights_N[inside].sum():
            gap = np.average(confidence[inside], weights=weights_N[inside]) - np.average(
                right[inside], weights=weights_N[inside]
            )
            error += weight / weights_N.sum() * abs(gap)
    return error


def _expected(outputs: SplitOutputs, weights_N: np.ndarray) -> dict[str, float]:
    labels, predicted = outputs.labels_N, outputs.probabilities_NC.argmax(1)
    precision, recall, f1, _ = reference.precision_recall_fscore_support(labels, predicted, sample_weight=weights_N)
    matrix = reference.confusion_matrix(labels, predicted, sample_weight=weights_N)
    false_positive = (matrix.sum(0) - matrix.diagonal()) / (matrix.sum() - matrix.sum(1))
    own = np.maximum(outputs.probabilities_NC[np.arange(len(labels)), labels].astype(float), 1e-12)
    expected = {
        "accuracy": reference.accuracy_score(labels, predicted, sample_weight=weights_N),
        "macro_precision": precision.mean(),
        "macro_recall": recall.mean(),
        "macro_f1": f1.mean(),
        "macro_false_positive_rate": false_positive.mean(),
        "worst_class_recall": recall.min(),
        "top_2_accuracy": reference.top_k_accuracy_score(
            labels, outputs.probabilities_NC + 1e-6 * np.arange(3)[::-1], k=2, sample_weight=weights_N
        ),  # of equal ones the first comes first, as for argmax; scikit-learn takes the last
        "expected_calibration_error": _calibration_error(outputs, weights_N),
        "log_loss": float(np.average(-np.log(own), weights=weights_N)),
    }
    for c, name in enumerate(CLASSES):
        expected |= {f"precision[{name}]": precision[c], f"recall[{name}]": recall[c], f"f1[{name}]": f1[c]}
        expected[f"false_positive_rate[{name}]"] = false_positive[c]
    return expected


def _area(outputs: SplitOutputs, weights_N: np.ndarray) -> float:
    return float(
        np.mean(
            [
                reference.roc_auc_score(outputs.labels_N == c, outputs.probabilities_NC[:, c], sample_weight=weights_N)
                for c in range(3)
            ]
        )
    )


def test_every_metric_equals_scikit_learn_s_for_any_weighting_of_the_images(outputs: SplitOutputs) -> None:
    weights_BN = np.vstack([np.ones(200), np.random.default_rng(1).integers(0, 4, (3, 200))]).astype(float)
    measured = _all(outputs, weights_BN, "top_2_accuracy")
    area_B = measured.pop("roc_auc")
    assert area_B[0] == pytest.approx(_area(outputs, np.ones(200)))
    for row, weights_N in enumerate(weights_BN):
        assert {name: values[row] for name, values in measured.items()} == pytest.approx(
            _expected(outputs, weights_N), abs=1e-6
        )


@pytest.mark.parametrize("images", [100, 400, 1600])
def test_the_roc_area_under_resampling_weights_is_right_to_first_order(images: int) -> None:
    """What is left over shrinks with the images, and faster than the standard error does."""
    outputs = _outputs(images)
    weights_BN = np.random.default_rng(1).poisson(1, (60, images)).astype(float)
    exact_B = np.array([_area(outputs, weights_N) for weights_N in weights_BN])
    off_B = quality(outputs, CLASSES, weights_BN, ["roc_auc"])["roc_auc"] - exact_B
    assert np.abs(off_B).max() < 1 / images
    assert np.sqrt(np.mean(off_B**2)) < 2 / np.sqrt(images) * exact_B.std()


def test_top_k_accuracy_is_measured_unasked_where_there_are_more_than_five_classes() -> None:
    assert "top_5_accuracy" in quality_names("classification", "abcdef")
    assert "top_5_accuracy" not in quality_names("classification", "abcde")
    assert "top_5_accuracy" not in quality_names("segmentation", "abcdef")


def _pixels() -> tuple[np.ndarray, np.ndarray, MaskCounts]:
    """Return true and said masks (12 images of 8 x 8 pixels, 3 classes, one of them rare) and their counts."""
    random = np.random.default_rng(0)
    truth_NHW = random.choice(3, size=(12, 8, 8), p=[0.6, 0.38, 0.02])
    said_NHW = np.where(random.random((12, 8, 8)) < 0.8, truth_NHW, random.integers(3, size=(12, 8, 8)))
    counts = [
        reference.confusion_matrix(truth.ravel(), said.ravel(), labels=[0, 1, 2])
        for truth, said in zip(truth_NHW, said_NHW, strict=True)
    ]
    return truth_NHW, said_NHW, MaskCounts(counts_NCC=np.array(counts))


def test_overlaps_of_masks_equal_scikit_learn_s_over_all_pixels_for_any_weighting_of_the_images() -> None:
    truth_NHW, said_NHW, counts = _pixels()
    weights_BN = np.vstack([np.ones(12), np.random.default_rng(1).integers(0, 4, (3, 12))]).astype(float)
    measured = quality(counts, CLASSES, weights_BN, quality_names("segmentation", CLASSES))
    for row, weights_N in enumerate(weights_BN):
        flat = {
            "y_true": truth_NHW.ravel(),
            "y_pred": said_NHW.ravel(),
            "sample_weight": np.repeat(weights_N, 64),
        }
        iou_C, dice_C = reference.jaccard_score(**flat, average=None), reference.f1_score(**flat, average=None)
        expected = {
            "pixel_accuracy": reference.accuracy_score(**flat),
            "mean_iou": iou_C.mean(),
            "mean_dice": dice_C.mean(),
            **{f"iou[{name}]": iou_C[c] for c, name in enumerate(CLASSES)},
            **{f"dice[{name}]": dice_C[c] for c, name in enumerate(CLASSES)},
        }
        assert {name: values[row] for name, values in measured.items()} == pytest.approx(expected)


def test_a_class_that_is_neither_there_nor_said_takes_no_part_in_the_mean_overlap() -> None:
    counts_NCC = np.array([[[6, 2, 0], [0, 2, 0], [0, 0, 0]]])
    measured = quality(MaskCounts(counts_NCC=counts_NCC), CLASSES, np.ones((1, 1)), ["mean_iou", "iou[c]"])
    assert measured["mean_iou"][0] == pytest.approx((6 / 8 + 2 / 4) / 2)
    assert measured["iou[c]"][0] == 0


def test_a_class_without_images_takes_no_part_in_the_macro_recall() -> None:
    outputs = SplitOutputs(probabilities_NC=np.eye(3, dtype=np.float32)[[0, 1, 0]], labels_N=np.array([0, 1, 1]))
    assert _all(outputs, np.ones((1, 3)))["macro_recall"][0] == pytest.approx((1 + 0.5) / 2)


def test_the_confusion_matrix_has_the_truth_in_rows(outputs: SplitOutputs) -> None:
    expected = reference.confusion_matrix(outputs.labels_N, outputs.probabilities_NC.argmax(1))
    assert confusion(outputs).tolist() == expected.tolist()


def test_roc_curves_are_finite_and_thin() -> None:
    random = np.random.default_rng(0)
    outputs = SplitOutputs(
        probabilities_NC=random.dirichlet([1, 1], 5000).astype(np.float32), labels_N=random.integers(0, 2, 5000)
    )
    curve = roc_curves(outputs, ("a", "b"))["a"]
    assert len(curve.threshold) <= 101
    assert np.isfinite([curve.threshold, curve.false_positive_rate, curve.true_positive_rate]).all()
    assert (curve.false_positive_rate[0], curve.true_positive_rate[-1]) == (0, 1)
