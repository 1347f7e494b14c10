"""Well-known ways to weigh candidates against each other: for comparison only, as each lets losers decide who wins."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from steelyard.evaluation.metrics import Floats
from steelyard.metrics import metric
from steelyard.selection.selection import Ranked


def max_normalised(values_KM: Floats, shares_M: Floats, higher_M: NDArray[np.bool_]) -> Floats:
    """Return the weighted sum of x / max x, or min x / x where less is better; columns of equal values give 0.

    The formula of a reference project for CIFAR-100.
    """
    largest_M, smallest_M = values_KM.max(0), values_KM.min(0)
    tiny = np.finfo(np.float64).tiny
    scaled_KM = np.where(higher_M, values_KM / np.maximum(largest_M, tiny), smallest_M / np.maximum(values_KM, tiny))
    return np.asarray(np.where(largest_M == smallest_M, 0.0, scaled_KM) @ shares_M)


def min_max(values_KM: Floats, shares_M: Floats, higher_M: NDArray[np.bool_]) -> Floats:
    """Return the weighted sum of each value's place between the worst and the best of the candidates."""
    low_M, span_M = values_KM.min(0), np.ptp(values_KM, axis=0)
    place_KM = (values_KM - low_M) / np.where(span_M > 0, span_M, 1.0)
    return np.asarray(np.where(higher_M, place_KM, 1 - place_KM) @ shares_M)


def topsis(values_KM: Floats, shares_M: Floats, higher_M: NDArray[np.bool_]) -> Floats:
    """Return closeness to the best of everything over that and to the worst of everything (Hwang & Yoon 1981)."""
    norm_M = np.linalg.norm(values_KM, axis=0)
    scaled_KM = shares_M * values_KM / np.where(norm_M > 0, norm_M, 1.0)
    best_M = np.where(higher_M, scaled_KM.max(0), scaled_KM.min(0))
    worst_M = np.where(higher_M, scaled_KM.min(0), scaled_KM.max(0))
    to_best_K, to_worst_K = (np.linalg.norm(scaled_KM - ideal_M, axis=1) for ideal_M in (best_M, worst_M))
    both_K = to_best_K + to_worst_K
    return np.asarray(np.divide(to_worst_K, both_K, out=np.full(len(both_K), 0.5), where=both_K > 0))


FORMULAS = {"max_normalised": max_normalised, "min_max": min_max, "topsis": topsis}


def other_formulas(ranking: Sequence[Ranked], shares: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return, by formula and candidate, the scores over the same eligible candidates, metrics and weights."""
    if not ranking:
        return {}
    values_KM = np.array([[ranked.measured[name].value for name in shares] for ranked in ranking])
    shares_M = np.array(list(shares.values()))
    higher_M = np.array([metric(name).higher_is_better for name in shares])
    return {
        formula: dict(zip((r.candidate for r in ranking), score(values_KM, shares_M, higher_M).tolist(), strict=True))
        for formula, score in FORMULAS.items()
    }
