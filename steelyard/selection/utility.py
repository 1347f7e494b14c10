"""What a measured value is worth to a client, on the client's own absolute scale."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steelyard.contract import Contract, Preference
from steelyard.metrics import metric

IMAGES_PER_DOLLAR = "images_per_dollar"


def desirability(name: str, values: ArrayLike, preference: Preference) -> NDArray[np.float64]:
    """Return what values of a metric are worth: 0 at `worst` and beyond, 1 at `ideal` and beyond.

    Between the two it is linear for fractions and losses; for times, sizes and counts it is linear in the logarithm,
    so that halving counts the same wherever it happens (Derringer & Suich 1980). It depends on the contract alone,
    never on the other candidates.
    """
    x, worst, ideal = np.asarray(values, np.float64), preference.worst, preference.ideal
    if metric(name).scale == "log":
        x, worst, ideal = np.log(np.maximum(x, 1e-300)), float(np.log(worst)), float(np.log(ideal))
    return np.clip((x - worst) / (ideal - worst), 0, 1)


def weight_shares(contract: Contract) -> dict[str, float]:
    """Return the weights of the contract as shares that sum to 1."""
    total = sum(preference.weight for preference in contract.metrics.values())
    return {name: preference.weight / total for name, preference in contract.metrics.items()}


def images_per_dollar(images_per_s: ArrayLike, contract: Contract) -> NDArray[np.float64]:
    """Turn a throughput into what the contract's price per hour buys."""
    return np.asarray(images_per_s, np.float64) * 3600 / (contract.price_per_hour or 1.0)
