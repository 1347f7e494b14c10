"""A new client's answer: from Scorecards at hand, or from all that is remembered."""

import os
from collections.abc import Sequence
from pathlib import Path

from steelyard.contract import Contract
from steelyard.errors import InputError
from steelyard.metrics import metric
from steelyard.report.outcome import write_outcome
from steelyard.selection.publish import choose
from steelyard.selection.select import read_scorecards
from steelyard.selection.selection import Selection


def select_among(folders: Sequence[Path], contract: Contract, seed: int, output: Path) -> Selection:
    """Choose among the Scorecards in some folders, and write what came of it."""
    scorecards = read_scorecards(folders)
    selection = choose(scorecards, contract, seed)
    write_outcome(selection, scorecards, output)
    return selection


def select_from_memory(memory: str, field: str, contract: Contract, seed: int, output: Path) -> Selection:
    """Choose among all remembered models that answered for the same images; the client's champion competes.

    Args:
        memory: URI of a tracking server, or a folder given to `run` or its --output.
        field: the beginning of the digest of what the models agree in; may be "" where there is but one.
        contract: its hardware class says whose times count; else this machine's, or the only one known.
        seed: of the resampling.
        output: gets what `write_outcome` writes.
    """
    from steelyard.evaluation.latency import hardware_class
    from steelyard.tracking.memory import the_field
    from steelyard.tracking.tracking import Tracking

    tracking = Tracking(_uri(memory))
    remembered = tracking.memory(_cache())
    chosen = the_field(remembered.fields(), field)
    known = chosen.hardware_classes
    hardware = contract.hardware_class or (known[0] if len(known) == 1 else hardware_class())
    if hardware not in known and any(metric(name).timed for name in contract.metrics):
        raise InputError(
            f"no remembered model was timed on {hardware!r}; name one of these as the contract's hardware_class: "
            + "; ".join(known)
        )
    scorecards = remembered.recall(chosen.digest, hardware)
    selection = choose(scorecards, contract, seed, tracking.champion(contract.client))
    write_outcome(selection, scorecards, output)
    tracking.record_selection(selection, output)
    return selection


def _uri(memory: str) -> str:
    from steelyard.tracking.tracking import sqlite_uri

    if "://" in memory:
        return memory
    for database in (Path(memory) / "mlflow.db", Path(memory) / ".steelyard" / "mlflow.db"):
        if database.exists():
            return sqlite_uri(database)
    raise InputError(f"{memory}: holds no mlflow.db; run `steelyard run` there first, or name a tracking server")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steelyard" / "scorecards"
