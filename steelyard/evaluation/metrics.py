"""Classification metrics of N images and C classes, for one or for many weightings of the images at once.

Weighting the images is what resampling does: B rows of weights give B values of each metric, so that the value and
its bootstrap come from one formula.
"""

from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from steelyard.evaluation.scorecard import RocCurve, SplitOutputs
from steelyard.metrics import METRICS, PER_CLASS

Floats = NDArray[np.float64]

SMALLEST_PROBABILITY = 1e-12  # what log-loss takes a zero for
Rate = Literal["precision", "recall", "f1", "false_positive_rate"]


def quality_names(classes: Sequence[str]) -> list[str]:
    """Return every metric that a split's images give: overall ones, then those per class."""
    overall = [name for name, metric in METRICS.items() if metric.quality]
    return overall + [f"{rate}[{name}]" for rate in PER_CLASS for name in classes]


def quality(
    outputs: SplitOutputs, classes: Sequence[str], weights_BN: Floats, names: Collection[str]
) -> dict[str, Floats]:
    """Compute metrics for B weightings of N images.

    Args:
        outputs: probabilities and labels.
        classes: names, in the order of the columns.
        weights_BN: how often each image counts; one row of ones gives the plain metrics.
        names: which metrics.

    Returns:
        For each name, B values. A class without images, or that nobody predicts, has no recall or precision of its
        own: 0 there, and the macro mean of recall leaves it out (as scikit-learn does with `zero_division`).
    """
    rates = per_class_rates(*_counts(outputs, weights_BN))
    present_BC = rates["support"] > 0
    values: dict[str, Floats] = {}
    for name in names:
        if name in ("macro_precision", "macro_recall", "macro_f1", "macro_false_positive_rate"):
            values[name] = _mean(rates[name.removeprefix("macro_")], present_BC)
        elif name == "accuracy":
            correct_N = outputs.probabilities_NC.argmax(1) == outputs.labels_N
            values[name] = weights_BN @ correct_N / weights_BN.sum(1)
        elif name == "log_loss":
            values[name] = weights_BN @ surprise(outputs) / weights_BN.sum(1)
        elif name == "roc_auc":
            values[name] = _roc_auc(outputs, weights_BN)
        else:
            rate, _, rest = name.partition("[")
            values[name] = rates[rate][:, list(classes).index(rest[:-1])]
    return values


def per_class_rates(true_BC: Floats, predicted_BC: Floats, actual_BC: Floats) -> dict[str, Floats]:
    """Return precision, recall, F1 and false-positive rate from hits, predictions and images per class."""
    total_B1 = actual_BC.sum(1, keepdims=True)
    return {
        "precision": _ratio(true_BC, predicted_BC),
        "recall": _ratio(true_BC, actual_BC),
        "f1": _ratio(2 * true_BC, predicted_BC + actual_BC),
        "false_positive_rate": _ratio(predicted_BC - true_BC, total_B1 - actual_BC),
        "support": actual_BC,
    }


def confusion(outputs: SplitOutputs) -> NDArray[np.int64]:
    """Return the confusion matrix, (true class, predicted class)."""
    classes = outputs.probabilities_NC.shape[1]
    flat = outputs.labels_N * classes + outputs.probabilities_NC.argmax(1)
    return np.bincount(flat, minlength=classes**2).reshape(classes, classes)


def roc_curves(outputs: SplitOutputs, classes: Sequence[str], points: int = 101) -> dict[str, RocCurve]:
    """Return the one-vs-rest ROC of each class that has both images and others, thinned to `points`."""
    from sklearn.metrics import roc_curve

    curves = {}
    for column, name in enumerate(classes):
        positive_N = outputs.labels_N == column
        if positive_N.all() or not positive_N.any():
            continue
        fpr, tpr, threshold = roc_curve(positive_N, outputs.probabilities_NC[:, column])
        kept = np.unique(np.linspace(0, len(fpr) - 1, min(points, len(fpr))).round().astype(int))
        curves[name] = RocCurve(
            false_positive_rate=tuple(fpr[kept].tolist()),
            true_positive_rate=tuple(tpr[kept].tolist()),
            threshold=tuple(np.minimum(threshold[kept], 1.0).tolist()),  # scikit-learn's first one is infinite
        )
    return curves


def surprise(outputs: SplitOutputs) -> Floats:
    """Return what each image adds to the log-loss: minus the logarithm of its own class's probability."""
    own_N = outputs.probabilities_NC[np.arange(len(outputs.labels_N)), outputs.labels_N]
    return -np.log(np.maximum(own_N.astype(np.float64), SMALLEST_PROBABILITY))


def _counts(outputs: SplitOutputs, weights_BN: Floats) -> tuple[Floats, Floats, Floats]:
    """Return hits, predictions and images per class, each (B, C)."""
    classes = np.arange(outputs.probabilities_NC.shape[1])
    predicted_NC = (outputs.probabilities_NC.argmax(1)[:, None] == classes).astype(np.float64)
    actual_NC = (outputs.labels_N[:, None] == classes).astype(np.float64)
    return weights_BN @ (predicted_NC * actual_NC), weights_BN @ predicted_NC, weights_BN @ actual_NC


def _roc_auc(outputs: SplitOutputs, weights_BN: Floats) -> Floats:
    """Return the macro one-vs-rest area: the chance that a positive outranks a negative, ties counting half."""
    areas, defined = [], []
    for column in range(outputs.probabilities_NC.shape[1]):
        _, group_N = np.unique(outputs.probabilities_NC[:, column], return_inverse=True)
        order_N = np.argsort(group_N, kind="stable")
        starts = np.flatnonzero(np.diff(group_N[order_N], prepend=-1))
        positive_N = outputs.labels_N == column
        positive_BG = np.add.reduceat((weights_BN * positive_N)[:, order_N], starts, axis=1)
        negative_BG = np.add.reduceat((weights_BN * ~positive_N)[:, order_N], starts, axis=1)
        below_BG = negative_BG.cumsum(1) - negative_BG / 2
        pairs_B = positive_BG.sum(1) * negative_BG.sum(1)
        areas.append(_ratio((positive_BG * below_BG).sum(1), pairs_B))
        defined.append(pairs_B > 0)
    return _mean(np.stack(areas, 1), np.stack(defined, 1))


def _mean(values_BC: Floats, where_BC: NDArray[np.bool_]) -> Floats:
    return _ratio((values_BC * where_BC).sum(1), where_BC.sum(1).astype(np.float64))


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below > 0)
