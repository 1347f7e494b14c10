"""The folders that commands write to: never somebody else's files, never two runs at once."""

import fcntl
import logging
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from steelyard.artifact import unfinished
from steelyard.data.dataset import KNOWN, PIXELS, SPLITS
from steelyard.errors import InputError, SteelyardError

SELECTION_HOLDS = {"selection.json", "report.html", "summary.md", "scorecards"}
_CATALOG = {f"catalog.sqlite{suffix}" for suffix in ("", "-shm", "-wal")}  # SQLite's, where somebody reads
DATASET_HOLDS = {"dataset.json", "card.html", *_CATALOG, *PIXELS, *KNOWN, *SPLITS}
RUN_REPLACES = {"pipeline", "selection", "trainings", "model"}
RUN_LOG = "run.log"


def log_to_stderr() -> None:
    """Tell on stderr what steelyard logs."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("steelyard").setLevel(logging.INFO)


def refuse_foreign_files(folder: Path, own: Collection[str]) -> None:
    """Refuse a folder that holds anything but an earlier result.

    Args:
        folder: of the result.
        own: names in it that steelyard writes.

    Raises:
        InputError: names what would be lost.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output: {folder} is a file")
    present = {path.name for path in folder.iterdir()} if folder.exists() else set()
    foreign = present - set(own) - {path.name for path in unfinished(folder)}
    if foreign:
        raise InputError(f"--output: {folder} holds other files ({min(foreign)}); name a new or empty folder")


@contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Hold a run's output folder, made where it is missing, until the block ends.

    Raises:
        InputError: it can't be written, or holds files that a run would replace though no run made them.
        SteelyardError: another run holds it.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        present = {path.name for path in output.iterdir()}
        if RUN_LOG not in present and (foreign := present & RUN_REPLACES):
            raise InputError(f"--output: {output} holds {min(foreign)!r}, which no run of steelyard made; name another")
        lock = (output / ".lock").open("w")
    except OSError as error:
        raise InputError(f"--output: {output} can't be written: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SteelyardError(f"another run is at work in {output}") from None
        for folder in unfinished(output):
            shutil.rmtree(folder)
        yield
