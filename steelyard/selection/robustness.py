"""How far the client's weights may be wrong before another candidate wins, and what the others lack.

All of it follows from what a Selection says of its candidates. A champion's right to stay is left out: it is not a
matter of weights.
"""

from collections.abc import Sequence

import numpy as np

from steelyard.contract import Contract
from steelyard.evaluation.metrics import Floats
from steelyard.metrics import metric
from steelyard.selection.decision import CostKey, utilities, winners
from steelyard.selection.selection import Flip, Range, Ranked, Robustness, Selection

SAMPLES = 10_000  # of weights: shares are right within 0.01
NEAR = 0.2
STEPS = 1001  # of one metric's share
MARGIN = 1e-5  # by which a rival must pass: above the solver's tolerance of 1e-7


def robustness(selection: Selection) -> Robustness | None:
    """Examine a choice; None where nobody was eligible.

    The share of weights under which a candidate wins is the acceptability index of SMAA (Lahdelma et al. 1998), with
    weights drawn evenly from all that are possible, or each within 20 % of the client's. Metrics without a weight stay
    without.
    """
    if not selection.ranking:
        return None
    weights = {name: share for name, share in selection.weights.items() if share}
    worth_KM = np.array([[ranked.desirability[name] for name in weights] for ranked in selection.ranking])
    costs = [ranked.cost.order(ranked.candidate) for ranked in selection.ranking]
    names = [ranked.candidate for ranked in selection.ranking]
    weights_M = np.array(list(weights.values()))
    random = np.random.default_rng(selection.seed)
    anywhere_SM = random.dirichlet(np.ones(len(weights_M)), SAMPLES)
    near_SM = weights_M * random.uniform(1 - NEAR, 1 + NEAR, (SAMPLES, len(weights_M)))

    def acceptability(weights_SM: Floats) -> dict[str, float]:
        won_S = winners(weights_SM @ worth_KM.T, costs, selection.epsilon)
        return dict(zip(names, (np.bincount(won_S, minlength=len(names)) / SAMPLES).tolist(), strict=True))

    return Robustness(
        all_weights=acceptability(anywhere_SM),
        near_weights=acceptability(near_SM / near_SM.sum(1, keepdims=True)),
        flip=smallest_flip(names, costs, worth_KM, weights, selection.epsilon),
        ranges=_ranges(names, costs, worth_KM, weights, selection.epsilon),
        needed={ranked.candidate: _needed(ranked, selection) for ranked in selection.ranking},
    )


def smallest_flip(
    names: Sequence[str], costs: Sequence[CostKey], worth_KM: Floats, shares: dict[str, float], epsilon: float
) -> Flip | None:
    """Find the smallest change of weights that changes the winner.

    A winner falls when a rival leads it by more than epsilon, or when a cheaper rival comes within epsilon of the
    leader. Both are linear in the weights: one linear program for each rival, those first that a single one of their
    conditions holds back least, until no other can be nearer.

    Args:
        names: of the K eligible candidates.
        costs: what decides between tied ones, comparable, lowest wins.
        worth_KM: desirability of each candidate in each of M metrics.
        shares: the client's M weights as shares.
        epsilon: the difference that leaves the client indifferent.

    Returns:
        None where no weights make another candidate win.
    """
    weights_M = np.array(list(shares.values()))
    utilities_K = utilities(worth_KM, weights_M)
    winner, leader = int(winners(utilities_K[None], costs, epsilon)[0]), int(utilities_K.argmax())
    rivals = []
    for rival in range(len(names)):
        if rival == winner:
            continue
        if costs[rival] < costs[winner]:
            rows, least = worth_KM[rival] - np.delete(worth_KM, rival, 0), -epsilon
            hardest = worth_KM[rival] - worth_KM[leader]
        else:
            rows, least, hardest = (ahead := worth_KM[rival] - worth_KM[winner])[None], epsilon, ahead
        rivals.append((_least_move(weights_M, hardest, least + MARGIN), rival, rows, least + MARGIN))
    best: tuple[float, Floats] | None = None
    for at_least, _, rows, least in sorted(rivals, key=lambda one: one[:2]):
        if at_least >= (best[0] if best else np.inf):
            break
        found = _nearest_weights(weights_M, rows, least)
        flips = found is not None and winners((worth_KM @ found[1])[None], costs, epsilon)[0] != winner
        if found is not None and flips and (best is None or found[0] < best[0]):
            best = found
    if best is None:
        return None
    change, flipped_M = best
    to = winners((worth_KM @ flipped_M)[None], costs, epsilon)[0]
    return Flip(to=names[to], change=change, weights=dict(zip(shares, flipped_M.tolist(), strict=True)))


def _least_move(weights_M: Floats, row_M: Floats, least: float) -> float:
    """Return the smallest share of weight that must move until row @ w >= least; infinite where none does it.

    What moves goes to the metric where the row is highest, and comes from where it is lowest first.
    """
    missing, moved = least - float(row_M @ weights_M), 0.0
    for m in row_M.argsort():
        gain = float(row_M.max() - row_M[m])
        if missing <= 0 or gain <= 0:
            break
        step = min(float(weights_M[m]), missing / gain)
        moved, missing = moved + step, missing - step * gain
    return moved if missing <= 1e-9 else np.inf


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


def _ranges(
    names: Sequence[str], costs: Sequence[CostKey], worth_KM: Floats, weights: dict[str, float], epsilon: float
) -> dict[str, Range]:
    """Return for each metric how much of all weight it may have, in steps of 0.001, before another wins."""
    weights_M, share_S = np.array(list(weights.values())), np.linspace(0, 1, STEPS)
    now = int(winners(utilities(worth_KM, weights_M)[None], costs, epsilon)[0])
    ranges = {}
    for m, name in enumerate(weights):
        others_M = weights_M * (np.arange(len(weights_M)) != m)
        if not others_M.sum():  # the only metric with a weight
            ranges[name] = Range(low=0.0, high=1.0, below=None, above=None)
            continue
        others_K = worth_KM @ others_M / others_M.sum()
        won_S = winners(share_S[:, None] * worth_KM[:, m] + (1 - share_S[:, None]) * others_K, costs, epsilon)
        below = np.flatnonzero((won_S != now) & (share_S < weights_M[m]))
        above = np.flatnonzero((won_S != now) & (share_S > weights_M[m]))
        ranges[name] = Range(
            low=float(share_S[below[-1]]) if len(below) else 0.0,
            high=float(share_S[above[0]]) if len(above) else 1.0,
            below=names[won_S[below[-1]]] if len(below) else None,
            above=names[won_S[above[0]]] if len(above) else None,
        )
    return ranges


def _needed(ranked: Ranked, selection: Selection) -> dict[str, float]:
    """Return by metric the value at which a candidate would have won, all else as it is; metrics that can't do it out.

    It has to be tied with the best of the others, and ahead by more than epsilon of any cheaper one that is tied. Costs
    stay as they are too: where the metric is one of them, less may do.
    """
    others = [r for r in selection.ranking if r.candidate != ranked.candidate]
    if ranked.candidate == selection.winner or not others:
        return {}
    cost = ranked.cost.order(ranked.candidate)
    cheaper = max((r.utility for r in others if r.cost.order(r.candidate) < cost), default=-np.inf)
    target = max(r.utility for r in others) - selection.epsilon
    if cheaper >= target:
        target = cheaper + selection.epsilon
    if ranked.utility > target:  # only the champion's right to stay is in its way
        return {}
    contract = Contract.model_validate(selection.contract)
    values = {}
    for name, share in selection.weights.items():
        worth = ranked.desirability[name] + (target - ranked.utility) / share if share else np.inf
        if worth <= 1:
            preference = contract.metrics[name]
            worst, ideal = preference.worst, preference.ideal
            log = metric(name).scale == "log"
            values[name] = worst * (ideal / worst) ** worth if log else worst + worth * (ideal - worst)
    return values
