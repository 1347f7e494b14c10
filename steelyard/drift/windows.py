"""Tests of a whole window against the reference, and divergences between the classes predicted in both.

t2: the means of the standardised features (Hotelling's T2 on their diagonal). bbsds: the largest Kolmogorov-Smirnov
distance over the classes' probabilities (Lipton et al. 2018, Rabanser et al. 2019). label: KL of the predicted classes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TESTS = ("t2", "bbsds", "label")


class Tally(NamedTuple):
    """All that the tests need of a set of rows. Tallies can be subtracted: a window from what it was drawn from."""

    rows: int
    sums_F: NDArray[np.float64]
    squares_F: NDArray[np.float64]
    below_CG: NDArray[np.int64]  # rows whose probability is at most each edge of its class
    predicted_C: NDArray[np.int64]

    def without(self, part: "Tally") -> "Tally":
        """Return the tally of the other rows."""
        return Tally(
            self.rows - part.rows,
            self.sums_F - part.sums_F,
            self.squares_F - part.squares_F,
            self.below_CG - part.below_CG,
            self.predicted_C - part.predicted_C,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergences:
    """How the predicted classes of a window differ from the reference's, in nats; all but cross_entropy are 0 for none.

    By chance alone KL is about (classes - 1) / 2 * (1 / window + 1 / reference): judge it by its threshold.
    """

    kl: float
    cross_entropy: float
    jensen_shannon: float
    psi: float


def slots(probabilities_NC: NDArray[np.floating], edges_CG: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return, per row and class, how many of the class's edges lie below the probability."""
    classes, grid = edges_CG.shape
    # Probabilities lie in [0, 1]: two apart, all classes are looked up in one sorted array.
    offsets_C = 2.0 * np.arange(classes)
    found_NC = np.searchsorted((edges_CG + offsets_C[:, None]).ravel(), probabilities_NC + offsets_C)
    inside_NC: NDArray[np.int64] = np.clip(found_NC - grid * np.arange(classes), 0, grid)
    return inside_NC


def tally(z_NF: NDArray[np.float64], slots_NC: NDArray[np.int64], predicted_N: NDArray[np.int64], grid: int) -> Tally:
    """Sum up rows: standardised features, slots among `grid` edges, predicted classes."""
    rows, classes = slots_NC.shape
    cells_NC = slots_NC + (grid + 1) * np.arange(classes)
    counts_CG = np.bincount(cells_NC.ravel(), minlength=classes * (grid + 1)).reshape(classes, grid + 1)
    return Tally(
        rows,
        z_NF.sum(axis=0),
        np.einsum("nf,nf->f", z_NF, z_NF),
        counts_CG[:, :grid].cumsum(axis=1),
        np.bincount(predicted_N, minlength=classes),
    )


def measure(window: Tally, reference: Tally) -> NDArray[np.float64]:
    """Return the statistics of TESTS, in that order; large is far from the reference."""
    mean_F = reference.sums_F / reference.rows
    # Features are standardised, so a variance far below 1 is that of a constant one or of a lucky draw.
    variance_F = np.maximum(reference.squares_F / reference.rows - mean_F**2, 0.25)
    t2 = window.rows * np.sum((window.sums_F / window.rows - mean_F) ** 2 / variance_F)
    bbsds = np.abs(window.below_CG / window.rows - reference.below_CG / reference.rows).max()
    label = _kl(_shares(reference.predicted_C), _shares(window.predicted_C))
    return np.array([t2, bbsds, label])


def divergences(window_C: NDArray[np.int64], reference_C: NDArray[np.int64]) -> Divergences:
    """Compare counts of predicted classes; half a count is added to each, so that a class never seen stays finite."""
    p_C, q_C = _shares(reference_C), _shares(window_C)
    middle_C = (p_C + q_C) / 2
    kl = _kl(p_C, q_C)
    return Divergences(
        kl=kl,
        cross_entropy=kl - float(np.sum(p_C * np.log(p_C))),
        jensen_shannon=(_kl(p_C, middle_C) + _kl(q_C, middle_C)) / 2,
        psi=float(np.sum((p_C - q_C) * np.log(p_C / q_C))),
    )


def _shares(counts_C: NDArray[np.int64]) -> NDArray[np.float64]:
    smoothed_C = counts_C + 0.5
    shares_C: NDArray[np.float64] = smoothed_C / smoothed_C.sum()
    return shares_C


def _kl(p_C: NDArray[np.float64], q_C: NDArray[np.float64]) -> float:
    return float(np.sum(p_C * np.log(p_C / q_C)))
