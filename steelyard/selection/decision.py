"""The choice among eligible candidates, as arithmetic: K candidates, M metrics, B resamples."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steelyard.evaluation.measurement import LEVEL
from steelyard.evaluation.metrics import Floats
from steelyard.selection.probability import probability_best

ROUNDING = 1e-12  # utilities that differ by less are equal
CostKey = tuple[float, float, float, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Who wins, and how sure that is; None where nothing could be resampled."""

    winner: int
    leader: int
    utilities_K: Floats
    tied_K: NDArray[np.bool_]
    p_best_K: Floats | None
    loss_bounds_K: Floats | None


def decide(
    utilities_K: Floats,
    utilities_BK: Floats | None,
    costs: Sequence[CostKey],
    epsilon: float,
    seed: int,
    champion: int | None = None,
    margin: float = 0.0,
) -> Decision:
    """Choose the cheapest of those whose utility is at most epsilon below the highest.

    A candidate outside that set changes neither the set nor the choice. No significance is claimed for the bounds: the
    leader was chosen from the same data.

    Args:
        utilities_K: measured.
        utilities_BK: the same over resampled images and rounds.
        costs: comparable and all different, lowest first.
        epsilon: difference in utility that leaves the client indifferent.
        seed: of the posterior's draws.
        champion: who serves now; it stays unless the choice is better by more than `margin`.
        margin: difference in utility.
    """
    tied_K = _tied(utilities_K, epsilon)
    winner = _cheapest(tied_K, costs)
    if champion is not None and utilities_K[winner] <= utilities_K[champion] + margin + ROUNDING:
        winner = champion
    leader = _cheapest(_tied(utilities_K, 0.0), costs)
    p_best_K, loss_bounds_K = None, None
    if utilities_BK is not None:
        p_best_K = probability_best(utilities_K, np.atleast_2d(np.cov(utilities_BK, rowvar=False)), seed)
        rank = int(LEVEL * len(utilities_BK))
        loss_bounds_K = np.partition(utilities_BK[:, [leader]] - utilities_BK, rank, axis=0)[rank]
    return Decision(
        winner=winner,
        leader=leader,
        utilities_K=utilities_K,
        tied_K=tied_K,
        p_best_K=p_best_K,
        loss_bounds_K=loss_bounds_K,
    )


def utilities(worth_KM: Floats, shares_M: Floats) -> Floats:
    """Return weighted means; each from its own row alone, to the last bit."""
    return np.asarray((worth_KM * shares_M).sum(-1))


def winners(utilities_SK: Floats, costs: Sequence[CostKey], epsilon: float) -> NDArray[np.intp]:
    """Return who wins under each of S sets of utilities."""
    cheapest_first_K = np.array(sorted(range(len(costs)), key=costs.__getitem__))
    return np.asarray(cheapest_first_K[_tied(utilities_SK, epsilon)[:, cheapest_first_K].argmax(1)])


def pareto_front(values_KM: Floats) -> NDArray[np.bool_]:
    """Return who is not worse in all, and worse in one, than another; higher values are better."""
    as_good_KK = (values_KM[:, None] >= values_KM).all(2)
    better_KK = as_good_KK & (values_KM[:, None] > values_KM).any(2)
    return np.asarray(~better_KK.any(0))


def _tied(utilities_SK: Floats, epsilon: float) -> NDArray[np.bool_]:
    return np.asarray(utilities_SK >= utilities_SK.max(-1, keepdims=True) - epsilon - ROUNDING)


def _cheapest(among_K: NDArray[np.bool_], costs: Sequence[CostKey]) -> int:
    return min(map(int, np.flatnonzero(among_K)), key=costs.__getitem__)
