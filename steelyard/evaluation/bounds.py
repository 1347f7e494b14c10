"""One-sided 95 % bounds, on the side that is unfavourable to the candidate."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from steelyard.evaluation.metrics import Floats, confusion, per_class_rates, quality, quality_names
from steelyard.evaluation.scorecard import Measurement, SplitOutputs
from steelyard.metrics import metric

LEVEL = 0.95
RESAMPLES = 1000


def measure_quality(outputs: SplitOutputs, classes: Sequence[str], seed: int = 0) -> dict[str, Measurement]:
    """Measure every quality metric of a split.

    Proportions (accuracy, and precision, recall and false-positive rate of a class) have exact bounds (Clopper &
    Pearson 1934). F1 and the macro means are functions of the confusion matrix: their bound is a quantile of their
    posterior (Goutte & Gaussier 2005), with a Dirichlet prior of one image spread over the whole matrix; where no
    error was seen it says about what the rule of three says of the accuracy. Log-loss and ROC AUC are bootstrapped
    over images.

    Args:
        outputs: probabilities and labels of the split.
        classes: their names.
        seed: of the posterior's draws and of the bootstrap.
    """
    names = quality_names(classes)
    values = quality(outputs, classes, np.ones((1, len(outputs.labels_N))), names)
    bounds = _exact(outputs, classes) | _posterior(outputs, classes, seed) | _bootstrap(outputs, classes, seed)
    return {
        name: Measurement(value=float(values[name][0]), bound=float(bounds[name]), unit=metric(name).unit)
        for name in names
    }


def proportion_bound(hits: int, of: int, upper: bool) -> float:
    """Return the exact one-sided 95 % bound of a proportion; 0 or 1 where nothing was counted."""
    from scipy.stats import beta

    if upper:
        return 1.0 if hits >= of else float(beta.ppf(LEVEL, hits + 1, of - hits))
    return 0.0 if hits <= 0 else float(beta.ppf(1 - LEVEL, hits, of - hits + 1))


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
    return bounds


def _posterior(outputs: SplitOutputs, classes: Sequence[str], seed: int) -> dict[str, float]:
    matrix = confusion(outputs)
    random = np.random.default_rng(seed)
    actual_C = matrix.sum(1)
    true: list[Floats] = []
    predicted = np.zeros((RESAMPLES, len(classes)))
    for row, images in zip(matrix, actual_C, strict=True):
        share_BC = random.dirichlet(row + 1 / len(classes) ** 2, RESAMPLES) * images
        true.append(share_BC[:, len(true)])
        predicted += share_BC
    rates = per_class_rates(np.stack(true, 1), predicted, np.broadcast_to(actual_C.astype(float), predicted.shape))
    present = actual_C > 0
    draws = {f"f1[{name}]": rates["f1"][:, c] for c, name in enumerate(classes)}
    for rate in ("precision", "recall", "f1", "false_positive_rate"):
        draws[f"macro_{rate}"] = rates[rate][:, present].mean(1)
    return {name: _quantile(name, values) for name, values in draws.items()}


def _bootstrap(outputs: SplitOutputs, classes: Sequence[str], seed: int) -> dict[str, float]:
    weights_BN = resamples(len(outputs.labels_N), RESAMPLES, seed)
    drawn = quality(outputs, classes, weights_BN, ("log_loss", "roc_auc"))
    return {name: _quantile(name, values) for name, values in drawn.items()}


def resamples(images: int, count: int, seed: int) -> Floats:
    """Return bootstrap weights (count, images): how often each image was drawn."""
    random = np.random.default_rng(seed)
    return random.multinomial(images, np.full(images, 1 / images), size=count).astype(np.float64)


def _quantile(name: str, values: Floats) -> float:
    return float(np.quantile(values, 1 - LEVEL if metric(name).higher_is_better else LEVEL))
