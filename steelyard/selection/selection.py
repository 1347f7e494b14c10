"""Selection: winner, ranking and reasons, as it is written down."""

import math

from pydantic import Field

from steelyard.artifact import Index, Record
from steelyard.data.dataset import DatasetRef
from steelyard.evaluation.measurement import Measurement


class Cost(Record):
    """What an answer costs, as far as it is known; decides between tied candidates, lowest first."""

    dollars_per_million: float | None = None  # images, where the contract gives a price
    ms_per_image: float | None = None
    model_size_mib: float | None = None

    def order(self, candidate: str) -> tuple[float, float, float, str]:
        """Return what costs are compared by: price, time, size, and at last the name."""
        known = (self.dollars_per_million, self.ms_per_image, self.model_size_mib)
        price, time, size = (math.inf if value is None else value for value in known)
        return price, time, size, candidate


class Ranked(Record):
    """One eligible candidate, best utility first."""

    candidate: str
    run_key: str = ""
    utility: float
    desirability: dict[str, float]
    contribution: dict[str, float]
    measured: dict[str, Measurement]
    p_best: float | None
    tied: bool
    pareto: bool
    loss_bound: float | None
    cost: Cost


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
    """The smallest change of weights, as shares that sum to 1, that makes another candidate win."""

    to: str
    change: float
    weights: dict[str, float]


class Range(Record):
    """The shares of all weight that one metric may have before another candidate wins, the others in proportion."""

    low: float
    high: float
    below: str | None  # who wins there
    above: str | None


class Robustness(Record):
    """How far the client's weights may be wrong, and what the others lack."""

    all_weights: dict[str, float]  # by candidate: share of all possible weights under which it wins
    near_weights: dict[str, float]  # the same within 20 % of the client's
    flip: Flip | None
    ranges: dict[str, Range]
    needed: dict[str, dict[str, float]]  # by candidate, then metric: the value at which it would have won


class Selection(Index):
    """selection.json."""

    client: str
    winner: str | None
    why: str
    utility: float | None
    winner_run_key: str | None
    serving: str | None = None  # run key of the model that serves the client now
    champion: str | None = None  # its name, if it took part
    epsilon: float
    weights: dict[str, float]
    ranking: tuple[Ranked, ...]
    rejected: tuple[Rejected, ...]
    robustness: Robustness | None = None
    other_formulas: dict[str, dict[str, float]] = Field(default_factory=dict)  # by formula: score of each candidate
    test: dict[str, Measurement] = Field(default_factory=dict)
    optimism: dict[str, float] = Field(default_factory=dict)
    hardware_class: str | None
    dataset: DatasetRef
    seed: int
    contract: dict[str, object]

    @property
    def figures(self) -> dict[str, dict[str, float]]:
        """Utility and, where it is known, P(best) of each candidate."""
        return {
            "utility": {ranked.candidate: ranked.utility for ranked in self.ranking},
            "p_best": {ranked.candidate: ranked.p_best for ranked in self.ranking if ranked.p_best is not None},
        }
