"""All that compete for a client: this run's candidates, and every remembered model measured on the same images."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from components.runtime import Runtime
from steelyard.bundle import ModelBundle
from steelyard.evaluation.latency import hardware_class, measure_times, with_times
from steelyard.evaluation.footprint import peak_memory_mib
from steelyard.evaluation.scorecard import Scorecard


def timed(cards: Sequence[Scorecard], bundles: Mapping[str, ModelBundle], runtime: Runtime) -> list[Scorecard]:
    """Return Scorecards with their times on this hardware: from memory, or else measured now and remembered.

    Args:
        cards: failed ones stay as they are.
        bundles: by candidate, as far as they are at hand; others are fetched from memory.
        runtime: where the memory is.
    """
    memory, here = runtime.tracking.memory(), hardware_class()
    known = [card if card.index.failure else memory.times(card, here) for card in cards]
    with tempfile.TemporaryDirectory() as temporary:
        untimed = {
            card.candidate: bundles.get(name := card.candidate)
            or runtime.tracking.fetch(card.index.run_key, name, Path(temporary) / name)
            for card in known
            if not card.index.failure and not card.times
        }
        times = measure_times(untimed) if untimed else {}
        complete = [
            with_times(card, times[card.candidate], peak_memory_mib(untimed[card.candidate]))
            if card.candidate in times
            else card
            for card in known
        ]
    for card in complete:
        memory.keep(card)
    return complete
