"""Scorecard, and Selection, -> what the Kubeflow UI draws."""

from collections.abc import Sequence

from kfp.dsl import ClassificationMetrics, Metrics

from steelyard.evaluation.answers import SplitOutputs
from steelyard.evaluation.roc import roc_curves
from steelyard.evaluation.scorecard import Scorecard
from steelyard.metrics import METRICS
from steelyard.report.classes import class_rates, confused
from steelyard.selection.selection import Selection

MOST_CLASSES = 100  # in a confusion matrix: the backend takes 4 MB of metadata


def show_choice(
    selection: Selection, scorecards: Sequence[Scorecard], metrics: Metrics, classification: ClassificationMetrics
) -> None:
    """Log what the winner is like on validation and on test, and utility and P(best) of all that were eligible."""
    for scorecard in scorecards:
        if scorecard.candidate == selection.winner:
            show(scorecard, metrics, classification)
    for name, measured in selection.test.items():
        metrics.log_metric(f"test_{name}", measured.value)
    for figure, by_candidate in selection.figures.items():
        for candidate, value in by_candidate.items():
            metrics.log_metric(f"{figure}[{candidate}]", value)


def show(scorecard: Scorecard, metrics: Metrics, classification: ClassificationMetrics) -> None:
    """Log what was measured on validation with its bounds, the confusion matrix, and the ROC of the weakest class.

    The matrix is of images or, for masks, of pixels; there is none of more than 100 classes. Bounds are those of whole
    metrics: classes may be many.
    """
    index = scorecard.index
    if index.failure:
        metrics.metadata["failure"] = index.failure
        return
    for name, measured in {**index.validation, **index.model}.items():
        metrics.log_metric(name, measured.value)
        if name in METRICS and measured.bound != measured.value:
            metrics.log_metric(f"{name}_bound_95", measured.bound)
    answers = scorecard.answered("validation")
    if answers is None:
        return
    counts_CC = confused(answers)
    if len(index.classes) <= MOST_CLASSES:
        classification.log_confusion_matrix(list(index.classes), counts_CC.tolist())
    if isinstance(answers, SplitOutputs) and (curves := roc_curves(answers, index.classes)):
        curve = next(curves[rates.name] for rates in class_rates(counts_CC, index.classes) if rates.name in curves)
        classification.log_roc_curve(
            list(curve.false_positive_rate), list(curve.true_positive_rate), list(curve.threshold)
        )
