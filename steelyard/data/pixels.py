"""Files of equal rows, written in any order by several processes: NumPy's own format, which memory-maps."""

import io
import os
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

MAPPED_BYTES = 2**24  # of a file at a time: the kernel counts what was read of it, and what lies around that, as memory


def gathered(file: Path, rows_M: NDArray[np.integer]) -> NDArray[Any]:
    """Return some rows of a .npy file, in any order; the file is opened anew for each part of it."""
    mapped = np.load(file, mmap_mode="r")
    rows_together = max(1, MAPPED_BYTES * len(mapped) // max(1, mapped.nbytes))
    if len(mapped) <= rows_together:
        return np.asarray(mapped[rows_M])
    found = np.empty((len(rows_M), *mapped.shape[1:]), mapped.dtype)
    parts_M = rows_M // rows_together
    for part in np.unique(parts_M):
        chosen_M = parts_M == part
        found[chosen_M] = np.load(file, mmap_mode="r")[rows_M[chosen_M]]
    return found


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
