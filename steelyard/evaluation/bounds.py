"""One-sided 95 % bounds of quality metrics, on the side that is unfavourable to the candidate."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.evaluation.answers import Answers, MaskCounts, SplitOutputs
from steelyard.evaluation.measurement import LEVEL, Measurement
from steelyard.evaluation.metrics import (
    SMALLEST_PROBABILITY,
    Contributions,
    Floats,
    Sums,
    combine,
    confusion,
    contributions,
    quality,
    surprise,
)
from steelyard.metrics import class_of, metric, rank_of

DRAWS = 10_000


def measure_quality(
    answers: Answers, classes: Sequence[str], names: Collection[str], seed: int = 0
) -> dict[str, Measurement]:
    """Measure quality metrics of a split.

    Proportions (accuracy, top-K accuracy, and precision, recall and false-positive rate of a class) have exact bounds
    (Clopper & Pearson 1934); the smallest of those of the recalls bounds the smallest recall. F1 of a class rises with
    precision and recall: its bound is the F1 of their exact bounds at half the error each (Bonferroni). The macro
    means, ROC AUC and log-loss are sums of what each image loses, and are bounded as directly standardised rates are
    (see `_loss_bound`). Calibration error and overlaps of masks are ratios of sums over images, and are bounded by
    leaving out one image at a time (see `_jackknife_bound`). None of them takes a split without a mistake for a proof
    that there are none.

    Args:
        answers: what a candidate said of the split's images, with the truth.
        classes: their names.
        names: of the metrics.
        seed: of the draws behind the bounds of sums.
    """
    values = quality(answers, classes, np.ones((1, len(answers.labels_N))), names)
    counts = _count(answers) if isinstance(answers, SplitOutputs) else None
    measured = {}
    for name in names:
        value, bound = float(values[name][0]), _bound(name, answers, counts, classes, seed)
        bound = min(bound, value) if metric(name).higher_is_better else max(bound, value)  # rounding may swap them
        measured[name] = Measurement(value=value, bound=bound, unit=metric(name).unit)
    return measured


def proportion_bound(hits: int, of: int, upper: bool, level: float = LEVEL) -> float:
    """Return the exact one-sided bound of a proportion; 0 or 1 where nothing was counted."""
    from scipy.stats import beta

    if upper:
        return 1.0 if hits >= of else float(beta.ppf(level, hits + 1, of - hits))
    return 0.0 if hits <= 0 else float(beta.ppf(1 - level, hits, of - hits + 1))


class _Counts(NamedTuple):
    """Images of each class: answered rightly, all, and taken for it."""

    hits_C: NDArray[np.int64]
    actual_C: NDArray[np.int64]
    predicted_C: NDArray[np.int64]


def _count(outputs: SplitOutputs) -> _Counts:
    matrix = confusion(outputs)
    return _Counts(matrix.diagonal(), matrix.sum(1), matrix.sum(0))


def _bound(name: str, answers: Answers, counts: _Counts | None, classes: Sequence[str], seed: int) -> float:
    if isinstance(answers, MaskCounts) or counts is None or name == "expected_calibration_error":
        return _jackknife_bound(name, answers, classes, seed)
    if name in _SUMS:
        random = np.random.default_rng(seed)
        unseen_D = random.exponential(size=DRAWS)
        return _SUMS[name](answers, unseen_D, random)
    if rank := rank_of(name):
        top = contributions(answers, [name]).overall[f"top_{rank}_accuracy"]
        return proportion_bound(int(top.sum()), len(top), upper=False)
    return _exact(name, counts, classes)


def _exact(name: str, counts: _Counts, classes: Sequence[str]) -> float:
    hits_C, actual_C, predicted_C = counts
    if name == "accuracy":
        return proportion_bound(int(hits_C.sum()), int(actual_C.sum()), upper=False)
    if name == "worst_class_recall":
        counted = zip(hits_C.tolist(), actual_C.tolist(), strict=True)
        return min(proportion_bound(hits, actual, upper=False) for hits, actual in counted)
    c = list(classes).index(str(class_of(name)))
    hits, actual, predicted = int(hits_C[c]), int(actual_C[c]), int(predicted_C[c])
    if name.startswith("f1"):
        return _f1_bound(hits, predicted, actual)
    if name.startswith("false_positive_rate"):
        return proportion_bound(predicted - hits, int(actual_C.sum()) - actual, upper=True)
    return proportion_bound(hits, actual if name.startswith("recall") else predicted, upper=False)


def _f1_bound(hits: int, predicted: int, actual: int) -> float:
    half = (1 + LEVEL) / 2
    precision = proportion_bound(hits, predicted, upper=False, level=half)
    recall = proportion_bound(hits, actual, upper=False, level=half)
    return 2 * precision * recall / (precision + recall) if hits else 0.0


def _jackknife_bound(name: str, answers: Answers, classes: Sequence[str], seed: int) -> float:
    """Return the bound of a ratio of sums over images, which are what is counted: pixels of one resemble each other.

    The error is Student's t times the jackknife's standard error (Efron & Tibshirani 1993, ch. 11); beside it one more
    image, unseen, is answered as badly as can be, as in `_loss_bound`. Without that a split in which nothing went wrong
    would have no error at all. Fewer than two images allow no bound.
    """
    made, images = contributions(answers, [name]), len(answers.labels_N)
    value = float(combine(name, _without(made, images, None), classes)[0])
    worst = 0.0 if metric(name).higher_is_better else 1.0
    if images < 2:
        return worst
    left_N = combine(name, _without(made, images, np.arange(images)), classes)
    error = float(np.sqrt((images - 1) * left_N.var()))
    random = np.random.default_rng(seed)
    unseen_D = random.exponential(size=DRAWS) * _spoiled(name, answers, made, classes, value)
    off = float(np.quantile(error * random.standard_t(images - 1, DRAWS) + unseen_D, LEVEL))
    return max(value - off, 0.0) if metric(name).higher_is_better else min(value + off, 1.0)


def _spoiled(name: str, answers: Answers, made: Contributions, classes: Sequence[str], value: float) -> float:
    """Return how much worse the metric would be if one image, the costliest, were answered as badly as can be."""
    images = len(answers.labels_N)
    if isinstance(answers, SplitOutputs):  # of the calibration error, which is a mean over images
        return 1 / images
    truth_NC, all_C = answers.truth, np.arange(len(classes))
    taken_for_C = np.roll(all_C, -1)
    if (label := class_of(name)) is not None:  # every pixel of the class is missed, every other one taken for it
        column = list(classes).index(label)
        taken_for_C = np.where(all_C == column, (column + 1) % len(classes), column)
    wrong_NCC = np.zeros(answers.counts_NCC.shape)
    wrong_NCC[:, all_C, taken_for_C] = truth_NC
    left = _without(made, images, np.arange(images))
    spoiled_NJ = left.overall["pixels"] + wrong_NCC.reshape(images, -1)
    spoiled = Sums(images_BC=np.full((images, 1), float(images)), by_class={}, overall={"pixels": spoiled_NJ})
    return max(value - float(combine(name, spoiled, classes).min()), 0.0)


def _without(made: Contributions, images: int, left_out: NDArray[np.int64] | None) -> Sums:
    """Return sums over all images, or (N of them) over all but one each."""
    overall = {key: column_NJ.astype(np.float64) for key, column_NJ in made.overall.items()}
    totals = {key: column_NJ.sum(0, keepdims=True) for key, column_NJ in overall.items()}
    if left_out is None:
        return Sums(images_BC=np.full((1, 1), float(images)), by_class={}, overall=totals)
    fewer = {key: totals[key] - overall[key][left_out] for key in overall}
    return Sums(images_BC=np.full((len(left_out), 1), images - 1.0), by_class={}, overall=fewer)


def _loss_bound(loss: float, variance: float, unseen_D: Floats, random: np.random.Generator) -> float:
    """Return the upper bound of a sum of what each image loses.

    What was seen is a gamma variable of the same mean and variance, and one more error, unseen, falls where it costs
    most (Fay & Feuer 1997, whose gamma interval of a weighted sum of Poisson counts this is; with equal weights and
    no error seen it is the rule of three). How often it held is
    measured in tests/steelyard/evaluation/test_bounds.py.

    Args:
        loss: the sum.
        variance: its estimated sampling variance.
        unseen_D: draws of what the unseen error costs.
        random: draws what was seen.
    """
    if variance <= 0:
        return loss + float(np.quantile(unseen_D, LEVEL))
    seen_D = random.standard_gamma(loss**2 / variance, DRAWS) * variance / loss
    return float(np.quantile(seen_D + unseen_D, LEVEL))


def _costliest(errors_D: Floats, images_C: NDArray[np.int64]) -> Floats:
    """Return what a number of errors costs a macro mean where they fill the smallest classes first."""
    filled = np.concatenate([[0], np.sort(images_C).cumsum()])
    return np.interp(errors_D, filled, np.arange(len(filled)) / max(len(images_C), 1))


def _cells(matrix: NDArray[np.int64], weights_CC: Floats) -> tuple[float, float]:
    """Return sum and variance of the losses of all images, given that each row is multinomial."""
    wrong_CC = matrix * (1 - np.eye(len(matrix)))
    sum_C = (wrong_CC * weights_CC).sum(1)
    variance = (wrong_CC * weights_CC**2).sum() - (sum_C**2 / (matrix.sum(1) + 1)).sum()
    return float(sum_C.sum()), float(variance)


def _macro_recall(outputs: SplitOutputs, unseen_D: Floats, random: np.random.Generator) -> float:
    matrix = confusion(outputs)
    return _at_least_0(_macro_recall_loss(matrix, matrix.sum(1) > 0, unseen_D, random))


def _macro_precision(outputs: SplitOutputs, unseen_D: Floats, random: np.random.Generator) -> float:
    matrix = confusion(outputs)
    present = matrix.sum(1) > 0
    never = float(np.mean(matrix.sum(0)[present] == 0))  # classes nobody predicts have precision 0
    return _at_least_0(never + (1 - never) * _macro_precision_loss(matrix, present, unseen_D, random))


def _at_least_0(loss: float) -> float:
    return 1 - min(loss, 1.0)


def _macro_recall_loss(
    matrix: NDArray[np.int64], present: NDArray[np.bool_], unseen_D: Floats, random: np.random.Generator
) -> float:
    actual_C = matrix.sum(1)
    weights_CC = np.broadcast_to(1 / (np.maximum(actual_C, 1) * present.sum())[:, None], matrix.shape)
    return _loss_bound(*_cells(matrix, weights_CC), _costliest(unseen_D, actual_C[present]), random)


def _macro_precision_loss(
    matrix: NDArray[np.int64], present: NDArray[np.bool_], unseen_D: Floats, random: np.random.Generator
) -> float:
    """Return the bound of the mean over classes that were predicted: recall of the transposed matrix.

    The number of predictions is random too, so that the mean of wrong / predicted is too low by about
    right * wrong / predicted ** 3 (second-order bias of a ratio), which matters for classes with ten images.
    """
    counted = present & (matrix.sum(0) > 0)
    if not counted.any():
        return 0.0
    right_C, predicted_C = matrix.diagonal()[counted], matrix.sum(0)[counted]
    bias = float((right_C * (predicted_C - right_C) / predicted_C**3).mean())
    return bias + _macro_recall_loss(np.where(counted[:, None], matrix.T, 0), counted, unseen_D, random)


def _macro_f1(outputs: SplitOutputs, unseen_D: Floats, random: np.random.Generator) -> float:
    """Return the bound of macro F1, linear in the errors: each costs its own class and the one it is taken for."""
    matrix = confusion(outputs)
    present = matrix.sum(1) > 0
    both_C = np.where(present, matrix.sum(0) + matrix.sum(1), 0)
    f1_C = 2 * matrix.diagonal() / np.maximum(both_C, 1)
    share_C = present / (np.maximum(both_C, 1) * present.sum())
    _, variance = _cells(matrix, ((2 - f1_C) * share_C)[:, None] + f1_C * share_C)
    sizes = np.sort(both_C[present])
    second_D = _costliest(unseen_D, sizes[1:]) * (len(sizes) - 1) / len(sizes)
    unseen_D = _costliest(unseen_D, sizes) + second_D
    return _at_least_0(_loss_bound(1 - float(f1_C[present].mean()), variance, unseen_D, random))


def _macro_fpr(outputs: SplitOutputs, unseen_D: Floats, random: np.random.Generator) -> float:
    matrix = confusion(outputs)
    present = matrix.sum(1) > 0
    others_C = matrix.sum() - matrix.sum(1)
    weights_CC = np.broadcast_to(present / (np.maximum(others_C, 1) * present.sum()), matrix.shape)
    return min(_loss_bound(*_cells(matrix, weights_CC), _costliest(unseen_D, others_C[present]), random), 1.0)


def _roc_auc(outputs: SplitOutputs, unseen_D: Floats, random: np.random.Generator) -> float:
    """Return the bound of macro AUC from the share of comparisons that each image loses (DeLong et al. 1988).

    One unseen image may rank below all others of its class, and above all of another class.
    """
    from scipy.stats import rankdata

    images = len(outputs.labels_N)
    positives = np.bincount(outputs.labels_N, minlength=outputs.probabilities_NC.shape[1])
    defined = np.flatnonzero((positives > 0) & (positives < images))
    if len(defined) == 0:
        return 0.0
    own_N, others_N = np.zeros(images), np.zeros(images)
    for column in defined:
        score_N, positive_N = outputs.probabilities_NC[:, column], outputs.labels_N == column
        rank_N, count = rankdata(score_N), int(positives[column])
        below_P = rank_N[positive_N] - rankdata(score_N[positive_N])
        above_Q = rank_N[~positive_N] - rankdata(score_N[~positive_N])
        own_N[positive_N] += (1 - below_P / (images - count)) / (count * len(defined))
        others_N[~positive_N] += above_Q / (count * (images - count) * len(defined))
    variance = float(((own_N + others_N - others_N.mean()) ** 2).sum())
    unseen_D = _costliest(unseen_D, positives[defined]) + _costliest(unseen_D, images - positives[defined])
    return _at_least_0(_loss_bound(float(own_N.sum()), variance, unseen_D, random))


def _log_loss(outputs: SplitOutputs, unseen_D: Floats, random: np.random.Generator) -> float:
    """Return the bound of the mean; the unseen image is one that the model rules out altogether."""
    surprise_N = surprise(outputs)
    images = len(surprise_N)
    unseen_D = unseen_D * -np.log(SMALLEST_PROBABILITY) / images
    return _loss_bound(float(surprise_N.mean()), float(surprise_N.var() / images), unseen_D, random)


_SUMS = {
    "macro_recall": _macro_recall,
    "macro_precision": _macro_precision,
    "macro_f1": _macro_f1,
    "macro_false_positive_rate": _macro_fpr,
    "roc_auc": _roc_auc,
    "log_loss": _log_loss,
}
