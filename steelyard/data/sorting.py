"""Records in order, however many: sorted runs in a temporary file, merged (external merge sort, Knuth 1973, 5.4)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

RUN_BYTES = 2**21  # in memory at a time; several times as much while runs are merged

Records = NDArray[Any]  # of a structured dtype


class Sorter:
    """Takes records and gives them back by some of their fields; among equals, those added first come first."""

    def __init__(self, folder: Path, *keys: str) -> None:
        """The temporary file is made in a folder, when there is more than a run."""
        self._folder, self._keys = folder, keys
        self._waiting: list[Records] = []
        self._runs: list[_Run] = []
        self._file: IO[bytes] | None = None

    def add(self, records: Records) -> None:
        """Take some more."""
        self._waiting.append(records)
        if sum(some.nbytes for some in self._waiting) > RUN_BYTES:
            self._spill()

    def batches(self) -> Iterator[Records]:
        """Yield all of them once, in parts; equal ones are never in two."""
        if self._waiting and self._runs:
            self._spill()
        if self._waiting:
            yield _in_order(self._waiting, self._keys)
        else:
            yield from _merged(self._runs, self._keys)

    def _spill(self) -> None:
        run = _in_order(self._waiting, self._keys)
        self._waiting = []
        self._file = self._file or TemporaryFile(dir=self._folder)  # noqa: SIM115 - lives as long as this
        self._runs.append(_Run(self._file, self._file.tell(), len(run), np.empty(0, run.dtype)))
        self._file.write(run.view(np.uint8).data)


@dataclass(slots=True)
class _Run:
    """What is left of a run: some of it in memory, the rest in the file."""

    file: IO[bytes]
    start: int
    left: int  # in the file
    head: Records

    def load(self, count: int) -> None:
        count = min(count, self.left)
        self.file.seek(self.start)
        data = self.file.read(count * self.head.itemsize)
        self.head = np.concatenate([self.head, np.frombuffer(data, self.head.dtype)])
        self.start, self.left = self.start + len(data), self.left - count

    def take(self, count: int) -> Records:
        taken, self.head = self.head[:count], self.head[count:]
        return taken


def _merged(runs: list[_Run], keys: tuple[str, ...]) -> Iterator[Records]:
    """Yield what comes before the last that is loaded of any run: nothing in the file can come before that."""
    together = max(1, RUN_BYTES // sum(run.head.itemsize for run in runs)) if runs else 0
    while runs:
        for run in runs:
            if run.left and (len(run.head) < together or _key(run.head[0], keys) == _key(run.head[-1], keys)):
                run.load(together)
        end = min((_key(run.head[-1], keys) for run in runs if run.left), default=None)
        taken = [run.take(len(run.head) if end is None else _before(run.head, keys, end)) for run in runs]
        runs = [run for run in runs if len(run.head) or run.left]
        if any(map(len, taken)):
            yield _in_order(taken, keys)


def _before(records: Records, keys: tuple[str, ...], end: tuple[int, ...]) -> int:
    """Return how many sorted records come before one with these keys."""
    start, stop = 0, len(records)
    for key, value in zip(keys, end, strict=True):
        column = records[key][start:stop]
        first, last = (int(np.searchsorted(column, column.dtype.type(value), side)) for side in ("left", "right"))
        start, stop = start + first, start + last
    return start


def _key(record: Any, keys: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(int(record[key]) for key in keys)


def _in_order(parts: Iterable[Records], keys: tuple[str, ...]) -> Records:
    records = np.concatenate(list(parts))
    return records.take(np.lexsort([records[key] for key in reversed(keys)]))


def in_blocks(batches: Iterable[Records], size: int) -> Iterator[Records]:
    """Yield the same records, `size` at a time; the last may be fewer."""
    rest: list[Records] = []
    for batch in batches:
        rest.append(batch)
        if sum(map(len, rest)) >= size:
            records = np.concatenate(rest)
            whole = len(records) - len(records) % size
            yield from np.split(records[:whole], whole // size)
            rest = [records[whole:]]
    if any(map(len, rest)):
        yield np.concatenate(rest)


def changes(*columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where a row is another than the one before it."""
    fresh_N = np.ones(len(columns[0]), bool)
    fresh_N[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return fresh_N
