"""Files of equal rows, written in any order by several processes: NumPy's own format, which memory-maps."""

import io
import os
from collections.abc import Iterator
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

GAP_BYTES = 2**12  # between rows that are read in one go: as soon read as skipped


def gathered(file: Path, rows_M: NDArray[np.integer]) -> NDArray[Any]:
    """Return some rows of a .npy file, in any order; none is mapped, since what was read of a map counts as memory."""
    mapped = np.load(file, mmap_mode="r")  # for its header
    found = np.empty((len(rows_M), *mapped.shape[1:]), mapped.dtype)
    order_M = np.argsort(rows_M, kind="stable")
    sorted_M = rows_M[order_M]
    row_bytes = prod(mapped.shape[1:]) * mapped.itemsize
    cuts = np.flatnonzero(np.diff(sorted_M) * row_bytes > GAP_BYTES) + 1
    with file.open("rb", buffering=0) as stream:
        for start, end in pairwise([0, *cuts.tolist(), len(sorted_M)] if len(sorted_M) else []):
            first, last = int(sorted_M[start]), int(sorted_M[end - 1])
            data = os.pread(stream.fileno(), (last + 1 - first) * row_bytes, mapped.offset + first * row_bytes)
            stretch = np.frombuffer(data, mapped.dtype).reshape(-1, *mapped.shape[1:])
            found[order_M[start:end]] = stretch[sorted_M[start:end] - first]
    return found


def in_parts(file: Path, rows: int) -> Iterator[NDArray[Any]]:
    """Yield a .npy file's rows in their order, some at a time; none is mapped."""
    count = len(np.load(file, mmap_mode="r"))
    for start in range(0, count, rows):
        yield gathered(file, np.arange(start, min(start + rows, count)))


class RowFile:
    """A growing .npy file of rows of one shape.

    Rows are written by position, without mapping the file, so that they do not count as this process's memory. How many
    there are is said once, at the end; until then a reader sees those of the last time.
    """

    def __init__(self, file: Path, shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> None:
        self.file, self._shape, self._dtype = file, shape, np.dtype(dtype)
        self._row_bytes = prod(shape) * self._dtype.itemsize
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        self._offset = len(self._header(0))
        if not os.fstat(self._descriptor).st_size:
            os.pwrite(self._descriptor, self._header(0), 0)

    def write(self, row: int, content: NDArray[np.generic]) -> None:
        """Write one row, or several from there on."""
        os.pwrite(self._descriptor, np.ascontiguousarray(content).tobytes(), self._offset + row * self._row_bytes)

    def read(self, row: int) -> NDArray[Any]:
        """Return one row."""
        data = os.pread(self._descriptor, self._row_bytes, self._offset + row * self._row_bytes)
        return np.frombuffer(data, self._dtype).reshape(self._shape)

    def close(self, rows: int | None = None) -> None:
        """Close the file; with `rows`, say how many it has."""
        if rows is not None:
            os.ftruncate(self._descriptor, self._offset + rows * self._row_bytes)
            os.pwrite(self._descriptor, self._header(rows), 0)
        os.close(self._descriptor)

    def _header(self, rows: int) -> bytes:
        """Return a header whose length is the same for any number of rows: NumPy leaves room for the number to grow."""
        stream = io.BytesIO()
        kind = np.lib.format.dtype_to_descr(self._dtype)
        description = {"descr": kind, "fortran_order": False, "shape": (rows, *self._shape)}
        np.lib.format.write_array_header_1_0(stream, description)
        return stream.getvalue()
