"""One-sided 95 % bounds, on the side that is unfavourable to the candidate."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from steelyard.evaluation.metrics import Floats, confusion, quality, quality_names, surprise
from steelyard.evaluation.scorecard import Measurement, SplitOutputs
from steelyard.metrics import metric

LEVEL = 0.95
DRAWS = 10_000


def measure_quality(outputs: SplitOutputs, classes: Sequence[str], seed: int = 0) -> dict[str, Measurement]:
    """Measure every quality metric of a split.

    Proportions (accuracy, and precision, recall and false-positive rate of a class) have exact bounds (Clopper &
    Pearson 1934). F1 of a class rises with precision and recall: its bound is the F1 of their exact bounds at half
    the error each (Bonferroni). The macro means, ROC AUC and log-loss are sums of what each image loses, and are
    bounded as directly standardised rates are (see `_loss_bound`).

    Args:
        outputs: probabilities and labels of the split.
        classes: their names.
        seed: of the draws behind the bounds of sums.
    """
    names = quality_names(classes)
    values = quality(outputs, classes, np.ones((1, len(outputs.labels_N))), names)
    bounds = _exact(outputs, classes) | _sums(outputs, seed)
    return {
        name: Measurement(value=float(values[name][0]), bound=float(bounds[name]), unit=metric(name).unit)
        for name in names
    }


def proportion_bound(hits: int, of: int, upper: bool, level: float = LEVEL) -> float:
    """Return the exact one-sided bound of a proportion; 0 or 1 where nothing was counted."""
    from scipy.stats import beta

    if upper:
        return 1.0 if hits >= of else float(beta.ppf(level, hits + 1, of - hits))
    return 0.0 if hits <= 0 else float(beta.ppf(1 - level, hits, of - hits + 1))


def quantile_bound(samples: NDArray[np.float64], quantile: float) -> float:
    """Return an upper 95 % bound of a quantile by order statistics, free of any distribution.

    Args:
        samples: independent measurements.
        quantile: in (0, 1).

    Raises:
        ValueError: too few samples: the largest of n is such a bound only where 1 - quantile ** n >= 0.95.
    """
    from scipy.stats import binom

    rank = int(binom.ppf(LEVEL, len(samples), quantile)) + 1
    if rank > len(samples):
        needed = int(np.ceil(np.log(1 - LEVEL) / np.log(quantile)))
        raise ValueError(f"a bound of the {quantile:g} quantile needs at least {needed} samples, not {len(samples)}")
    return float(np.sort(samples)[rank - 1])


def _exact(outputs: SplitOutputs, classes: Sequence[str]) -> dict[str, float]:
    matrix = confusion(outputs)
    total, hits = int(matrix.sum()), matrix.diagonal()
    actual, predicted = matrix.sum(1), matrix.sum(0)
    bounds = {"accuracy": proportion_bound(int(hits.sum()), total, upper=False)}
    for c, name in enumerate(classes):
        bounds[f"precision[{name}]"] = proportion_bound(int(hits[c]), int(predicted[c]), upper=False)
        bounds[f"recall[{name}]"] = proportion_bound(int(hits[c]), int(actual[c]), upper=False)
        wrong = int(predicted[c] - hits[c])
        bounds[f"false_positive_rate[{name}]"] = proportion_bound(wrong, int(total - actual[c]), upper=True)
        bounds[f"f1[{name}]"] = _f1_bound(int(hits[c]), int(predicted[c]), int(actual[c]))
    return bounds


def _f1_bound(hits: int, predicted: int, actual: int) -> float:
    half = (1 + LEVEL) / 2
    precision = proportion_bound(hits, predicted, upper=False, level=half)
    recall = proportion_bound(hits, actual, upper=False, level=half)
    return 2 * precision * recall / (precision + recall) if hits else 0.0


def _sums(outputs: SplitOutputs, seed: int) -> dict[str, float]:
    random = np.random.default_rng(seed)
    unseen_D = random.exponential(size=DRAWS)
    matrix = confusion(outputs)
    present = matrix.sum(1) > 0
    never = float(np.mean(matrix.sum(0)[present] == 0))  # classes nobody predicts have precision 0
    losses = {
        "macro_recall": _macro_recall_loss(matrix, present, unseen_D, random),
        "macro_precision": never + (1 - never) * _macro_precision_loss(matrix, present, unseen_D, random),
        "macro_f1": _macro_f1_loss(matrix, present, unseen_D, random),
        "roc_auc": _roc_auc_loss(outputs, unseen_D, random),
    }
    return {name: 1 - min(loss, 1.0) for name, loss in losses.items()} | {
        "macro_false_positive_rate": min(_macro_fpr(matrix, present, unseen_D, random), 1.0),
        "log_loss": _log_loss(outputs, unseen_D, random),
    }


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


def _macro_f1_loss(
    matrix: NDArray[np.int64], present: NDArray[np.bool_], unseen_D: Floats, random: np.random.Generator
) -> float:
    """Return the bound of 1 - macro F1, linear in the errors: each costs its own class and the one it is taken for."""
    both_C = np.where(present, matrix.sum(0) + matrix.sum(1), 0)
    f1_C = 2 * matrix.diagonal() / np.maximum(both_C, 1)
    share_C = present / (np.maximum(both_C, 1) * present.sum())
    _, variance = _cells(matrix, ((2 - f1_C) * share_C)[:, None] + f1_C * share_C)
    sizes = np.sort(both_C[present])
    second_D = _costliest(unseen_D, sizes[1:]) * (len(sizes) - 1) / len(sizes)
    return _loss_bound(1 - float(f1_C[present].mean()), variance, _costliest(unseen_D, sizes) + second_D, random)


def _macro_fpr(
    matrix: NDArray[np.int64], present: NDArray[np.bool_], unseen_D: Floats, random: np.random.Generator
) -> float:
    others_C = matrix.sum() - matrix.sum(1)
    weights_CC = np.broadcast_to(present / (np.maximum(others_C, 1) * present.sum()), matrix.shape)
    return _loss_bound(*_cells(matrix, weights_CC), _costliest(unseen_D, others_C[present]), random)


def _roc_auc_loss(outputs: SplitOutputs, unseen_D: Floats, random: np.random.Generator) -> float:
    """Return the bound of 1 - macro AUC from the share of comparisons that each image loses (DeLong et al. 1988).

    One unseen image may rank below all others of its class, and above all of another class.
    """
    from scipy.stats import rankdata

    images = len(outputs.labels_N)
    positives = np.bincount(outputs.labels_N, minlength=outputs.probabilities_NC.shape[1])
    defined = np.flatnonzero((positives > 0) & (positives < images))
    if len(defined) == 0:
        return 1.0
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
    return _loss_bound(float(own_N.sum()), variance, unseen_D, random)


def _log_loss(outputs: SplitOutputs, unseen_D: Floats, random: np.random.Generator) -> float:
    """Return the bound of the mean; the unseen image is as surprising as the most surprising one seen."""
    surprise_N = surprise(outputs)
    images = len(surprise_N)
    return _loss_bound(
        float(surprise_N.mean()), float(surprise_N.var() / images), unseen_D * surprise_N.max() / images, random
    )
