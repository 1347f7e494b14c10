"""How far the client's weights may move before another candidate wins."""

from collections.abc import Sequence

import numpy as np

from steelyard.evaluation.metrics import Floats
from steelyard.selection.selection import Flip

MARGIN = 1e-5  # by which the rival must pass: above the solver's tolerance of 1e-7
Cost = tuple[float, float, str]  # ms per image, MiB, name: what decides between tied candidates, lowest first


def smallest_flip(
    names: Sequence[str], costs: Sequence[Cost], desirability_KM: Floats, shares: dict[str, float], epsilon: float
) -> Flip | None:
    """Find the smallest change of weights that changes the winner.

    A winner falls when a rival leads it by more than epsilon, or when a cheaper rival comes within epsilon of the
    leader. Both are linear in the weights: one linear program for each rival (Lahdelma et al. 1998 for the setting).

    Args:
        names: of the K eligible candidates.
        costs: what decides between tied ones, comparable, lowest wins.
        desirability_KM: of each candidate in each of M metrics.
        shares: the client's M weights as shares.
        epsilon: the difference that leaves the client indifferent.

    Returns:
        None where no weights make another candidate win.
    """
    weights_M = np.array(list(shares.values()))
    winner = winner_of(desirability_KM @ weights_M, costs, epsilon)
    best: tuple[float, Floats] | None = None
    for rival in range(len(names)):
        if rival == winner:
            continue
        if costs[rival] < costs[winner]:
            rows, least = desirability_KM[rival] - desirability_KM, -epsilon
        else:
            rows, least = (desirability_KM[rival] - desirability_KM[winner])[None], epsilon
        found = _nearest_weights(weights_M, rows, least + MARGIN)
        flips = found is not None and winner_of(desirability_KM @ found[1], costs, epsilon) != winner
        if found is not None and flips and (best is None or found[0] < best[0]):
            best = found
    if best is None:
        return None
    change, flipped_M = best
    to = winner_of(desirability_KM @ flipped_M, costs, epsilon)
    return Flip(to=names[to], change=change, weights=dict(zip(shares, flipped_M.tolist(), strict=True)))


def winner_of(utilities_K: Floats, costs: Sequence[Cost], epsilon: float) -> int:
    """Return the cheapest of those whose utility is at most epsilon below the highest."""
    tied = np.flatnonzero(utilities_K >= utilities_K.max() - epsilon)
    return min(map(int, tied), key=costs.__getitem__)


def _nearest_weights(weights_M: Floats, rows: Floats, least: float) -> tuple[float, Floats] | None:
    """Minimise |w - w0|_1 / 2 subject to rows @ w >= least, w >= 0 and sum(w) = 1.

    Returns:
        The share of the weight that moves, and the weights; None where there are no such weights.
    """
    from scipy.optimize import linprog

    metrics = len(weights_M)
    identity, none = np.eye(metrics), np.zeros((len(rows), metrics))
    solved = linprog(
        c=np.r_[np.zeros(metrics), np.full(metrics, 0.5)],
        A_ub=np.block([[identity, -identity], [-identity, -identity], [-rows, none]]),
        b_ub=np.r_[weights_M, -weights_M, np.full(len(rows), -least)],
        A_eq=np.r_[np.ones(metrics), np.zeros(metrics)][None],
        b_eq=[1.0],
    )
    if not solved.success:
        return None
    moved_M = np.clip(solved.x[:metrics], 0, None)
    return float(solved.fun), moved_M / moved_M.sum()
