"""Files of equal rows, written in any order by several processes: NumPy's own format, which memory-maps."""

import io
import os
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

GAP_BYTES = 2**12  # between rows that are read in one go: as soon read as skipped


class Rows:
    """The rows of a .npy file, read rather than mapped: what was read of a map counts as memory."""

    def __init__(self, file: Path) -> None:
        mapped = np.load(file, mmap_mode="r")  # for its header
        self._file, self._dtype, self._shape, self._offset = file, mapped.dtype, mapped.shape, mapped.offset

    def __len__(self) -> int:
        return int(self._shape[0])

    def __getitem__(self, rows_M: NDArray[np.integer]) -> NDArray[Any]:
        """Return some rows, in any order."""
        row_bytes = prod(self._shape[1:]) * self._dtype.itemsize
        order_M = np.argsort(rows_M, kind="stable")
        sorted_M = rows_M[order_M]
        steps_M = np.diff(sorted_M, prepend=sorted_M[:1])
        far_M = steps_M * row_bytes > GAP_BYTES
        places_M = np.empty(len(rows_M), np.intp)
        places_M[order_M] = np.cumsum(np.where(far_M, 1, steps_M))
        starts = [*sorted_M[:1].tolist(), *sorted_M[far_M].tolist()]
        ends = [*sorted_M[:-1][far_M[1:]].tolist(), *sorted_M[-1:].tolist()]
        with self._file.open("rb", buffering=0) as stream:
            data = [
                os.pread(stream.fileno(), (end + 1 - start) * row_bytes, self._offset + start * row_bytes)
                for start, end in zip(starts, ends, strict=True)
            ]
        read: NDArray[Any] = np.frombuffer(b"".join(data), self._dtype).reshape(-1, *self._shape[1:])
        return read.take(places_M, axis=0)

    def whole(self) -> NDArray[Any]:
        """Return all rows."""
        all_: NDArray[Any] = np.load(self._file)
        return all_

    def parts(self, rows: int) -> Iterator[NDArray[Any]]:
        """Yield all rows in their order, some at a time."""
        row_bytes = prod(self._shape[1:]) * self._dtype.itemsize
        with self._file.open("rb", buffering=0) as stream:
            stream.seek(self._offset)
            for start in range(0, len(self), rows):
                count = min(rows, len(self) - start)
                yield np.frombuffer(stream.read(count * row_bytes), self._dtype).reshape(count, *self._shape[1:])


class RowFile:
    """A growing .npy file of rows of one shape.

    Rows are written by position, without mapping the file, so that they do not count as this process's memory. How many
    there are is said once, at the end; until then a reader sees those of the last time.
    """

    def __init__(self, file: Path, shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> None:
        self.file, self._shape, self._dtype = file, shape, np.dtype(dtype)
        self.row_bytes = prod(shape) * self._dtype.itemsize
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        self._offset = len(self._header(0))
        if not os.fstat(self._descriptor).st_size:
            os.pwrite(self._descriptor, self._header(0), 0)

    def write(self, row: int, content: NDArray[np.generic]) -> None:
        """Write one row, or several from there on."""
        data, place = memoryview(np.ascontiguousarray(content).tobytes()), self._offset + row * self.row_bytes
        while data:  # a disk that is nearly full takes a part
            written = os.pwrite(self._descriptor, data, place)
            data, place = data[written:], place + written

    def read(self, row: int) -> NDArray[Any]:
        """Return one row."""
        only: NDArray[Any] = self.block(row, 1)[0]
        return only

    def block(self, row: int, count: int) -> NDArray[Any]:
        """Return rows from one on; those that were never written are zeros."""
        data = os.pread(self._descriptor, count * self.row_bytes, self._offset + row * self.row_bytes)
        return np.frombuffer(data.ljust(count * self.row_bytes, b"\0"), self._dtype).reshape(count, *self._shape)

    def checked(self, rows: NDArray[Any], count: int) -> NDArray[Any]:
        """Return rows that fit into this file.

        Raises:
            ValueError: they do not, or are not as many.
        """
        if rows.dtype != self._dtype or rows.shape != (count, *self._shape):
            raise ValueError(f"rows of {rows.dtype} {rows.shape} do not belong into {self.file.name}")
        return rows

    def cut(self, rows: int) -> None:
        """Forget what lies behind so many rows; what no one writes before the file is closed reads as zeros."""
        os.ftruncate(self._descriptor, self._offset + rows * self.row_bytes)

    def close(self, rows: int | None = None) -> None:
        """Close the file; with `rows`, say how many it has."""
        if rows is not None:
            self.cut(rows)
            os.pwrite(self._descriptor, self._header(rows), 0)
        os.close(self._descriptor)

    def _header(self, rows: int) -> bytes:
        """Return a header whose length is the same for any number of rows: NumPy leaves room for the number to grow."""
        stream = io.BytesIO()
        kind = np.lib.format.dtype_to_descr(self._dtype)
        description = {"descr": kind, "fortran_order": False, "shape": (rows, *self._shape)}
        np.lib.format.write_array_header_1_0(stream, description)
        return stream.getvalue()
