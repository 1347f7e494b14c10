"""Scorecard -> what the Kubeflow UI draws."""

from kfp.dsl import ClassificationMetrics, Metrics

from steelyard.evaluation.answers import SplitOutputs
from steelyard.evaluation.metrics import confusion
from steelyard.evaluation.roc import roc_curves
from steelyard.evaluation.scorecard import Scorecard


def show(scorecard: Scorecard, metrics: Metrics, classification: ClassificationMetrics) -> None:
    """Log the validation metrics, the confusion matrix, and the ROC of the class that is hardest to tell."""
    index = scorecard.index
    if index.failure:
        metrics.metadata["failure"] = index.failure
        return
    for name, measured in {**index.validation, **index.model}.items():
        metrics.log_metric(name, measured.value)
    answers = scorecard.answered("validation")
    if not isinstance(answers, SplitOutputs):
        return
    classification.log_confusion_matrix(list(index.classes), confusion(answers).tolist())
    if curves := roc_curves(answers, index.classes):
        curve = curves[min(curves, key=lambda name: index.validation[f"f1[{name}]"].value)]
        classification.log_roc_curve(
            list(curve.false_positive_rate), list(curve.true_positive_rate), list(curve.threshold)
        )
