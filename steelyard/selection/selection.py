"""Selection: winner, ranking and reasons, as it is written down."""

from steelyard.artifact import Index, Record
from steelyard.data.dataset import DatasetRef
from steelyard.evaluation.scorecard import Measurement


class Ranked(Record):
    """One eligible candidate, best utility first."""

    candidate: str
    utility: float
    desirability: dict[str, float]
    contribution: dict[str, float]
    measured: dict[str, Measurement]
    p_best: float | None
    tied: bool
    loss_bound: float | None
    cost_ms: float | None


class Violation(Record):
    """A hard limit that a candidate does not meet for certain."""

    metric: str
    must: str
    value: float
    bound: float


class Rejected(Record):
    """A candidate that may not be chosen, and why."""

    candidate: str
    reason: str
    violations: tuple[Violation, ...] = ()


class Flip(Record):
    """The smallest change of weights, as shares that sum to 1, that makes another candidate the best."""

    to: str
    change: float
    weights: dict[str, float]


class Selection(Index):
    """selection.json."""

    client: str
    winner: str | None
    why: str
    utility: float | None
    winner_run_key: str | None
    epsilon: float
    weights: dict[str, float]
    ranking: tuple[Ranked, ...]
    rejected: tuple[Rejected, ...]
    flip: Flip | None
    test: dict[str, Measurement]
    optimism: dict[str, float]
    hardware_class: str | None
    dataset: DatasetRef
    contract: dict[str, object]
