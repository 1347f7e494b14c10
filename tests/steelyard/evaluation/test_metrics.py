"""Against scikit-learn, the field's reference."""

import numpy as np
import pytest
from sklearn import metrics as reference

from steelyard.evaluation.metrics import confusion, quality, quality_names, roc_curves
from steelyard.evaluation.scorecard import SplitOutputs

CLASSES = ("a", "b", "c")


@pytest.fixture
def outputs() -> SplitOutputs:
    random = np.random.default_rng(0)
    labels_N = random.integers(0, 3, 200)
    logits_NC = random.normal(size=(200, 3)) + 1.5 * np.eye(3)[labels_N]
    probabilities_NC = np.exp(logits_NC) / np.exp(logits_NC).sum(1, keepdims=True)
    return SplitOutputs(probabilities_NC=probabilities_NC.round(2).astype(np.float32), labels_N=labels_N)


def _all(outputs: SplitOutputs, weights_BN: np.ndarray) -> dict[str, np.ndarray]:
    return quality(outputs, CLASSES, weights_BN, quality_names(CLASSES))


def _expected(outputs: SplitOutputs, weights_N: np.ndarray) -> dict[str, float]:
    labels, predicted = outputs.labels_N, outputs.probabilities_NC.argmax(1)
    precision, recall, f1, _ = reference.precision_recall_fscore_support(labels, predicted, sample_weight=weights_N)
    matrix = reference.confusion_matrix(labels, predicted, sample_weight=weights_N)
    false_positive = (matrix.sum(0) - matrix.diagonal()) / (matrix.sum() - matrix.sum(1))
    areas = [
        reference.roc_auc_score(labels == c, outputs.probabilities_NC[:, c], sample_weight=weights_N) for c in range(3)
    ]
    own = np.maximum(outputs.probabilities_NC[np.arange(len(labels)), labels].astype(float), 1e-12)
    expected = {
        "accuracy": reference.accuracy_score(labels, predicted, sample_weight=weights_N),
        "macro_precision": precision.mean(),
        "macro_recall": recall.mean(),
        "macro_f1": f1.mean(),
        "macro_false_positive_rate": false_positive.mean(),
        "roc_auc": float(np.mean(areas)),
        "log_loss": float(np.average(-np.log(own), weights=weights_N)),
    }
    for c, name in enumerate(CLASSES):
        expected |= {f"precision[{name}]": precision[c], f"recall[{name}]": recall[c], f"f1[{name}]": f1[c]}
        expected[f"false_positive_rate[{name}]"] = false_positive[c]
    return expected


def test_every_metric_equals_scikit_learn_s_for_any_weighting_of_the_images(outputs: SplitOutputs) -> None:
    weights_BN = np.vstack([np.ones(200), np.random.default_rng(1).integers(0, 4, (3, 200))]).astype(float)
    measured = _all(outputs, weights_BN)
    for row, weights_N in enumerate(weights_BN):
        assert {name: values[row] for name, values in measured.items()} == pytest.approx(_expected(outputs, weights_N))


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
