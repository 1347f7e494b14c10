"""Files of equal rows, written in any order by several processes: NumPy's own format, which memory-maps."""

import io
import os
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


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
