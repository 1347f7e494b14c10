"""How large a statistic grows without drift, and the thresholds that share one false-alarm budget."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TAIL = 0.05  # beyond it 2,000 draws are too few to count, so the tail is taken as exponential
GRID = np.linspace(0, 1 - TAIL, 96)


class Null(NamedTuple):
    """The distribution of one statistic without drift: quantiles at GRID, then an exponential tail."""

    quantiles_Q: NDArray[np.float64]
    tail: float

    @classmethod
    def fit(cls, draws_B: NDArray[np.float64]) -> "Null":
        """Describe simulated draws."""
        quantiles_Q = np.quantile(draws_B, GRID)
        excess_B = draws_B[draws_B > quantiles_Q[-1]] - quantiles_Q[-1]
        return cls(quantiles_Q, float(excess_B.mean()) if len(excess_B) else 0.0)

    def p_value(self, statistic: float) -> float:
        """Return the chance of a statistic above this one."""
        return float(self.p_values(np.array([statistic]))[0])

    def p_values(self, statistics_B: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the chance of each; a value within a run of equal quantiles gets the largest."""
        start = self.quantiles_Q[-1]
        # Left of a jump, so that a statistic with few distinct values is never called rarer than it is.
        rank_B = np.searchsorted(self.quantiles_Q, statistics_B, side="left")
        low_B, high_B = np.maximum(rank_B - 1, 0), np.minimum(rank_B, len(GRID) - 1)
        gap_B = self.quantiles_Q[high_B] - self.quantiles_Q[low_B]
        part_B = np.where(gap_B > 0, (statistics_B - self.quantiles_Q[low_B]) / np.where(gap_B > 0, gap_B, 1), 0)
        inside_B = 1 - (GRID[low_B] + part_B * (GRID[high_B] - GRID[low_B]))
        beyond_B = TAIL * np.exp(-np.maximum(statistics_B - start, 0) / max(self.tail, 1e-12))
        return np.where(statistics_B > start, beyond_B, np.clip(inside_B, TAIL, 1))

    def threshold(self, rate: float) -> float:
        """Return the value exceeded at this rate."""
        if rate >= TAIL:
            return float(np.interp(1 - rate, GRID, self.quantiles_Q))
        return float(self.quantiles_Q[-1] + self.tail * np.log(TAIL / rate))


def joint_thresholds(nulls: Sequence[Null], draws_BJ: NDArray[np.float64], rate: float) -> tuple[float, ...]:
    """Return thresholds, equally rare for each of J statistics, that together are crossed at this rate.

    Args:
        nulls: of each statistic.
        draws_BJ: B simulated draws of the J statistics together, so that their dependence counts.
        rate: share of draws in which any of the J crosses.
    """
    rarity_B = -np.log(np.min([null.p_values(draws_BJ[:, j]) for j, null in enumerate(nulls)], axis=0))
    level = float(np.exp(-Null.fit(rarity_B).threshold(rate)))
    return tuple(null.threshold(level) for null in nulls)
