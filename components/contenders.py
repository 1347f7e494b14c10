"""All that compete for a client: this run's candidates, and every remembered model measured on the same images."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from components.runtime import Runtime
from steelyard.bundle import ModelBundle
from steelyard.errors import ArtifactError, FootprintUnknown
from steelyard.evaluation.latency import hardware_class, measure_times, with_times
from steelyard.evaluation.footprint import peak_memory_mib
from steelyard.evaluation.scorecard import Scorecard
from steelyard.tracking.memory import Memory


def timed(
    cards: Sequence[Scorecard], bundles: Mapping[str, ModelBundle], memory: Memory, runtime: Runtime
) -> list[Scorecard]:
    """Return Scorecards with their times on this hardware: from memory, or else measured now and remembered.

    A remembered model that can't be fetched is left out.

    Args:
        cards: failed ones stay as they are.
        bundles: by candidate, as far as they are at hand; others are fetched from memory.
        memory: knows times, and is told them.
        runtime: where bundles are remembered.
    """
    here = hardware_class()
    known = [card if card.index.failure or card.times else memory.times(card, here) for card in cards]
    complete = [card for card in known if card.index.failure or card.times]
    with tempfile.TemporaryDirectory() as temporary:
        found = dict(bundles)
        untimed = [card for card in known if not card.index.failure and not card.times]
        for card in untimed:
            if card.candidate not in found and (bundle := _fetched(card, runtime, Path(temporary))):
                found[card.candidate] = bundle
        untimed = [card for card in untimed if card.candidate in found]
        times = measure_times({card.candidate: found[card.candidate] for card in untimed}) if untimed else {}
        for card in untimed:
            name = card.candidate
            complete.append(with_times(card, times[name], _footprint(found[name], runtime)))
    for card in complete:
        memory.keep(card)
    return complete


def _fetched(card: Scorecard, runtime: Runtime, folder: Path) -> ModelBundle | None:
    """Return a remembered bundle; one that is gone is no reason to fail this run."""
    try:
        return runtime.tracking.fetch(card.index.run_key, card.candidate, folder / card.candidate)
    except ArtifactError as error:
        runtime.tell(f"left out: {error}")
        return None


def _footprint(bundle: ModelBundle, runtime: Runtime) -> float | None:
    """Return the memory a model takes, MiB; None, with the reason in the log, if its process died."""
    try:
        return peak_memory_mib(bundle)
    except FootprintUnknown as error:
        runtime.tell(str(error))
        return None
