"""Halving: whether a candidate is worth training on, from its first epochs (ASHA, Li et al. 2020, without waiting)."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from steelyard.contract import Contract
from steelyard.metrics import metric
from steelyard.selection.utility import desirability, weight_shares

SHARES = (1 / 9, 1 / 3)  # of its epochs, after which a candidate is judged: rungs 1 and 2
KEPT_OF = 3  # one of so many goes on


def rung_epochs(epochs: int) -> dict[int, int]:
    """Return the rungs by the epoch at whose end they are; a training too short for two has fewer."""
    ends = {rung: math.ceil(epochs * share - 1e-9) for rung, share in enumerate(SHARES, start=1)}
    return {epoch: rung for rung, epoch in ends.items() if epoch < epochs}


def goes_on(utility: float, others: Sequence[float]) -> bool:
    """Whether a candidate is in the best third, at least one, of those recorded at its rung.

    Args:
        utility: its own.
        others: of all that came there before; nobody waits for those to come.
    """
    return sum(other > utility for other in others) < places(len(others) + 1)


def places(recorded: int) -> int:
    """Return how many of those recorded at a rung go on."""
    return max(1, recorded // KEPT_OF)


def early_utility(values: Mapping[str, float], contract: Contract) -> float:
    """Return what a candidate is worth so far, by the contract's weights and scales.

    Of what training still improves, the scale goes on below `worst`: after few epochs all would be worth 0 there, and
    the fastest would always be the best.

    Args:
        values: of each metric that the contract names.
        contract: the client's.
    """
    return float(sum(share * _worth(name, values[name], contract) for name, share in weight_shares(contract).items()))


def _worth(name: str, value: float, contract: Contract) -> float:
    wanted = contract.metrics[name]
    if not metric(name).quality:
        return float(desirability(name, value, wanted))
    return float(np.minimum((value - wanted.worst) / (wanted.ideal - wanted.worst), 1))
