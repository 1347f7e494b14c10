"""One-vs-rest ROC curves, thin enough to draw."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from steelyard.evaluation.answers import SplitOutputs

POINTS = 101


class RocCurve(NamedTuple):
    """The curve of one class, by falling threshold."""

    false_positive_rate: tuple[float, ...]
    true_positive_rate: tuple[float, ...]
    threshold: tuple[float, ...]


def roc_curves(outputs: SplitOutputs, classes: Sequence[str]) -> dict[str, RocCurve]:
    """Return the curve of each class that has both images and others, thinned to at most 101 points."""
    from sklearn.metrics import roc_curve

    curves = {}
    for column, name in enumerate(classes):
        positive_N = outputs.labels_N == column
        if positive_N.all() or not positive_N.any():
            continue
        fpr, tpr, threshold = roc_curve(positive_N, outputs.probabilities_NC[:, column])
        kept = np.unique(np.linspace(0, len(fpr) - 1, min(POINTS, len(fpr))).round().astype(int))
        curves[name] = RocCurve(
            false_positive_rate=tuple(fpr[kept].tolist()),
            true_positive_rate=tuple(tpr[kept].tolist()),
            threshold=tuple(np.minimum(threshold[kept], 1.0).tolist()),  # scikit-learn's first one is infinite
        )
    return curves
