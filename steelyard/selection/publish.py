"""The winner on the test split: read once, after the choice, and noted down."""

import logging
from collections.abc import Sequence

from steelyard.contract import Contract
from steelyard.evaluation.bounds import measure_quality
from steelyard.evaluation.measurement import Measurement
from steelyard.evaluation.scorecard import Scorecard
from steelyard.metrics import CHIEF, metric
from steelyard.selection.robustness import robustness
from steelyard.selection.select import select
from steelyard.selection.selection import Selection

log = logging.getLogger(__name__)


def choose(scorecards: Sequence[Scorecard], contract: Contract, seed: int = 0, serving: str | None = None) -> Selection:
    """Select, examine how robust the choice is, and publish the winner's test figures; see `select`."""
    selection = select(scorecards, contract, seed, serving)
    selection = selection.model_copy(update={"robustness": robustness(selection)})
    winner = next((card for card in scorecards if card.candidate == selection.winner), None)
    return publish(selection, winner) if winner else selection


def publish(selection: Selection, winner: Scorecard) -> Selection:
    """Add the winner's figures on the test split, and by how much validation flatters it.

    The more often a split is looked at, the less it proves; so each reading goes to the log.
    """
    named = [name for name in selection.weights if metric(name).quality]
    answers = winner.answered("test")
    if answers is None:
        test = {name: winner.index.test[name] for name in named if name in winner.index.test}
    else:
        names = list(dict.fromkeys([*named, CHIEF[winner.index.task]]))
        test = measure_quality(answers, winner.index.classes, names)
        log.info("test split read: %s, for %s", winner.candidate, selection.client)
    chosen = next(ranked for ranked in selection.ranking if ranked.candidate == winner.candidate)
    return selection.model_copy(update={"test": test, "optimism": _optimism(chosen.measured, test)})


def _optimism(validation: dict[str, Measurement], test: dict[str, Measurement]) -> dict[str, float]:
    """Return by how much validation flatters, in each metric's unit; above 0 is flattery."""
    return {
        name: (1 if metric(name).higher_is_better else -1) * (validation[name].value - test[name].value)
        for name in test
        if name in validation
    }
