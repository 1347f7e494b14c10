"""Quality metrics as functions of sums over images, for one or for many weightings of the images at once.

Weighting the images is what resampling does. Each metric is computed from sums that are linear in the weights, so that
all candidates are resampled by one matrix product, and a value and its bootstrap come from one formula.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steelyard.evaluation.answers import Answers, MaskCounts, SplitOutputs
from steelyard.metrics import METRICS, PER_CLASS, class_of, rank_of

Floats = NDArray[np.float64]
Columns = NDArray[np.float32]

SMALLEST_PROBABILITY = 1e-12  # what log-loss takes a zero for
CALIBRATION_BINS = 15  # of equal width, as in Guo et al. 2017
USUAL_RANK = 5  # of the top-K accuracy that is measured unasked


@dataclass(frozen=True, slots=True, kw_only=True)
class Contributions:
    """What each of N images adds to the sums that metrics are made of.

    Attributes:
        by_class: (N,), to be summed within each true class.
        overall: (N, J), to be summed over all images.
    """

    by_class: Mapping[str, Columns]
    overall: Mapping[str, Columns]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Contributions summed under B weightings: images and `by_class` (B, C), `overall` (B, J)."""

    images_BC: Floats
    by_class: Mapping[str, Floats]
    overall: Mapping[str, Floats]


def quality_names(task: str, classes: Sequence[str]) -> list[str]:
    """Return every metric that is measured unasked on a split's images: overall ones, then those per class."""
    overall = [name for name, read in METRICS.items() if read.task == task]
    if task == "classification" and len(classes) > USUAL_RANK:
        overall.append(f"top_{USUAL_RANK}_accuracy")
    return overall + [f"{rate}[{name}]" for rate, read in PER_CLASS.items() if read.task == task for name in classes]


def quality(
    answers: Answers, classes: Sequence[str], weights_BN: NDArray[np.floating], names: Collection[str]
) -> dict[str, Floats]:
    """Compute metrics for B weightings of N images.

    Args:
        answers: what a candidate said of the images, with the truth.
        classes: names, in the order of the columns.
        weights_BN: how often each image counts; one row of ones gives the plain metrics.
        names: which metrics.

    Returns:
        For each name, B values. A class without images, or that nobody predicts, has no recall or precision of its
        own: 0 there, and macro means leave a class without images out (as scikit-learn does with `zero_division`).
    """
    made = contributions(answers, names)

    def of_each_class(weights_BN: NDArray[np.floating]) -> Floats:
        return np.stack([np.bincount(answers.labels_N, weights_N, len(classes)) for weights_N in weights_BN])

    sums = Sums(
        images_BC=of_each_class(weights_BN),
        by_class={key: of_each_class(weights_BN * column_N) for key, column_N in made.by_class.items()},
        overall={key: weights_BN @ column_NJ for key, column_NJ in made.overall.items()},
    )
    return {name: combine(name, sums, classes) for name in names}


def contributions(answers: Answers, names: Collection[str]) -> Contributions:
    """Return what the images add to the sums that `combine` needs for these metrics, and no others."""
    if isinstance(answers, MaskCounts):
        images, classes = answers.counts_NCC.shape[:2]
        return Contributions(
            by_class={}, overall={"pixels": answers.counts_NCC.reshape(images, classes**2).astype(np.float32)}
        )
    needed = {key for name in names for key in _needs(name)}
    by_class, overall = {}, {}
    if "hits" in needed:
        by_class["hits"] = _correct(answers).astype(np.float32)
    if "areas" in needed:
        by_class["above"], overall["below"] = _placements(answers)
    for key in needed - {"hits", "areas"}:
        overall[key] = _overall(key, answers)
    return Contributions(by_class=by_class, overall=overall)


def combine(name: str, sums: Sums, classes: Sequence[str]) -> Floats:
    """Return the B values of a metric from the sums of its contributions."""
    total_B = sums.images_BC.sum(1)
    if "pixels" in sums.overall:
        return _of_masks(name, sums.overall["pixels"], classes)
    if name == "accuracy":
        return _ratio(sums.by_class["hits"].sum(1), total_B)
    if name == "log_loss" or rank_of(name):
        return _ratio(sums.overall[name][:, 0], total_B)
    if name == "expected_calibration_error":
        return _ratio(np.abs(sums.overall[name]).sum(1), total_B)
    if name == "roc_auc":
        return _areas(sums)
    return _of_rates(name, sums, classes)


def rates(hits_BC: Floats, predicted_BC: Floats | None, images_BC: Floats) -> dict[str, Floats]:
    """Return recall and, where predictions were counted, precision, F1 and false-positive rate of each class."""
    found = {"recall": _ratio(hits_BC, images_BC)}
    if predicted_BC is not None:
        found |= {
            "precision": _ratio(hits_BC, predicted_BC),
            "f1": _ratio(2 * hits_BC, predicted_BC + images_BC),
            "false_positive_rate": _ratio(predicted_BC - hits_BC, images_BC.sum(1, keepdims=True) - images_BC),
        }
    return found


def confusion(outputs: SplitOutputs) -> NDArray[np.int64]:
    """Return the confusion matrix, (true class, predicted class)."""
    classes = outputs.probabilities_NC.shape[1]
    flat = outputs.labels_N * classes + outputs.probabilities_NC.argmax(1)
    return np.bincount(flat, minlength=classes**2).reshape(classes, classes)


def surprise(outputs: SplitOutputs) -> Floats:
    """Return what each image adds to the log-loss: minus the logarithm of its own class's probability."""
    return -np.log(np.maximum(_own(outputs).astype(np.float64), SMALLEST_PROBABILITY))


def _needs(name: str) -> tuple[str, ...]:
    if name in ("log_loss", "expected_calibration_error") or rank_of(name):
        return (name,)
    if name == "roc_auc":
        return ("areas",)
    if name in ("accuracy", "macro_recall", "worst_class_recall") or name.startswith("recall["):
        return ("hits",)
    return ("hits", "predicted")


def _overall(key: str, outputs: SplitOutputs) -> Columns:
    if key == "log_loss":
        return surprise(outputs)[:, None].astype(np.float32)
    if key == "predicted":
        said_NC: Columns = np.eye(outputs.probabilities_NC.shape[1], dtype=np.float32)[
            outputs.probabilities_NC.argmax(1)
        ]
        return said_NC
    if key == "expected_calibration_error":
        return _overconfidence(outputs)
    return (_above_own(outputs) < (rank_of(key) or 1))[:, None].astype(np.float32)


def _own(outputs: SplitOutputs) -> NDArray[np.float32]:
    own_N: NDArray[np.float32] = outputs.probabilities_NC[np.arange(len(outputs.labels_N)), outputs.labels_N]
    return own_N


def _correct(outputs: SplitOutputs) -> NDArray[np.bool_]:
    correct_N: NDArray[np.bool_] = outputs.probabilities_NC.argmax(1) == outputs.labels_N
    return correct_N


def _above_own(outputs: SplitOutputs) -> NDArray[np.intp]:
    """Return how many classes come before the true one; of equal ones the first comes first, as for argmax."""
    own_N1 = _own(outputs)[:, None]
    earlier_NC = np.arange(outputs.probabilities_NC.shape[1]) < outputs.labels_N[:, None]
    above_NC = (outputs.probabilities_NC > own_N1) | ((outputs.probabilities_NC == own_N1) & earlier_NC)
    return np.asarray(np.count_nonzero(above_NC, axis=1))


def _overconfidence(outputs: SplitOutputs) -> Columns:
    """Return (N, bins): confidence minus correctness, in the bin of the confidence."""
    confidence_N = outputs.probabilities_NC.max(1)
    bin_N = np.clip(np.ceil(confidence_N * CALIBRATION_BINS) - 1, 0, CALIBRATION_BINS - 1).astype(int)
    column_NJ = np.zeros((len(confidence_N), CALIBRATION_BINS), np.float32)
    column_NJ[np.arange(len(bin_N)), bin_N] = confidence_N - _correct(outputs)
    return column_NJ


def _placements(outputs: SplitOutputs) -> tuple[Columns, Columns]:
    """Return each image's share in the macro one-vs-rest area under the ROC curve.

    The area of a class is the mean, over its images, of the share of others that each outranks (ties count half), and
    as well the mean over the others (DeLong et al. 1988). Under weights both means move: to first order, the area is
    their sum less the unweighted area, which is taken off the second here.

    Returns:
        (N,) placement of each image among the others by its own class's score, and (N, C) by the scores of the classes
        it does not belong to, less the area of that class; 0 at its own.
    """
    from scipy.stats import rankdata

    images, classes = outputs.probabilities_NC.shape
    above_N, below_NC = np.zeros(images, np.float32), np.zeros((images, classes), np.float32)
    for column in range(classes):
        score_N, positive_N = outputs.probabilities_NC[:, column], outputs.labels_N == column
        positives = int(positive_N.sum())
        if positives in (0, images):
            continue
        rank_N = rankdata(score_N)
        placed_P = (rank_N[positive_N] - rankdata(score_N[positive_N])) / (images - positives)
        placed_Q = 1 - (rank_N[~positive_N] - rankdata(score_N[~positive_N])) / positives
        above_N[positive_N] = placed_P
        below_NC[~positive_N, column] = placed_Q - placed_P.mean()
    return above_N, below_NC


def _areas(sums: Sums) -> Floats:
    others_BC = sums.images_BC.sum(1, keepdims=True) - sums.images_BC
    area_BC = _ratio(sums.by_class["above"], sums.images_BC) + _ratio(sums.overall["below"], others_BC)
    return _mean(np.clip(area_BC, 0, 1), (sums.images_BC > 0) & (others_BC > 0))


def _of_rates(name: str, sums: Sums, classes: Sequence[str]) -> Floats:
    found = rates(sums.by_class["hits"], sums.overall.get("predicted"), sums.images_BC)
    present_BC = sums.images_BC > 0
    if name == "worst_class_recall":
        return np.asarray(np.where(present_BC, found["recall"], 1.0).min(1))
    if name.startswith("macro_"):
        return _mean(found[name.removeprefix("macro_")], present_BC)
    return found[name.partition("[")[0]][:, list(classes).index(str(class_of(name)))]


def _of_masks(name: str, pixels_BJ: Floats, classes: Sequence[str]) -> Floats:
    matrix_BCC = pixels_BJ.reshape(len(pixels_BJ), len(classes), len(classes))
    hits_BC = np.einsum("bcc->bc", matrix_BCC)
    either_BC = matrix_BCC.sum(2) + matrix_BCC.sum(1)
    if name == "pixel_accuracy":
        return _ratio(hits_BC.sum(1), matrix_BCC.sum((1, 2)))
    overlap_BC = _ratio(hits_BC, either_BC - hits_BC) if "iou" in name else _ratio(2 * hits_BC, either_BC)
    if (label := class_of(name)) is not None:
        return overlap_BC[:, list(classes).index(label)]
    return _mean(overlap_BC, either_BC > 0)


def _mean(values_BC: Floats, where_BC: NDArray[np.bool_]) -> Floats:
    return _ratio((values_BC * where_BC).sum(1), where_BC.sum(1).astype(np.float64))


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below > 0)
