"""The bytes between predictor and drift detector: a handshake, then frames of rows over a stream socket.

    handshake   b"STYD" | version u16 | classes u32 | embedding u32 | statistics u32
    frame       rows u32 | rows x float32 [probabilities | embedding | statistics]

Everything is little-endian.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from steelyard.drift.samples import Samples
from steelyard.errors import SteelyardError

VERSION = 1
STATISTICS = 4
MAX_ROWS = 4096  # of a frame
MAX_WIDTH = 65536  # of a row: ten times the widest embedding of a torchvision network
_MAGIC = b"STYD"
_HANDSHAKE = struct.Struct("<4sHIII")
_COUNT = struct.Struct("<I")
_FLOAT = np.dtype("<f4")


class WireError(SteelyardError):
    """Bytes that are not of this protocol; the connection is worth nothing any more."""


class Layout(NamedTuple):
    """How wide each part of a row is."""

    classes: int
    embedding: int
    statistics: int = STATISTICS

    @property
    def width(self) -> int:
        """Number of floats in a row."""
        return sum(self)

    def handshake(self) -> bytes:
        """Return the first bytes of a connection."""
        return _HANDSHAKE.pack(_MAGIC, VERSION, *self)

    @classmethod
    def from_handshake(cls, data: bytes) -> Self:
        """Read the first bytes of a connection.

        Raises:
            WireError: another protocol or version, or parts of nonsensical widths.
        """
        magic, version, *widths = _HANDSHAKE.unpack(data)
        if magic != _MAGIC:
            raise WireError("the connection does not speak the drift protocol")
        if version != VERSION:
            raise WireError(f"the connection speaks version {version} of the drift protocol; this is {VERSION}")
        layout = cls(*widths)
        if 0 in layout or layout.width > MAX_WIDTH:
            raise WireError(f"the connection announces rows of nonsensical widths: {', '.join(map(str, widths))}")
        return layout


def rows(samples: Samples) -> NDArray[np.float32]:
    """Return one row per sample, as they travel."""
    return np.hstack(samples).astype(_FLOAT, copy=False)


def frame(rows_NW: NDArray[np.float32]) -> bytes:
    """Return at most MAX_ROWS rows as the bytes of one frame."""
    return _COUNT.pack(len(rows_NW)) + rows_NW.astype(_FLOAT, copy=False).tobytes()


class Decoder:
    """Turns the bytes of one connection, in pieces of any size, into samples."""

    def __init__(self) -> None:
        self.layout: Layout | None = None
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[Samples]:
        """Yield the samples of each frame that these bytes complete.

        Raises:
            WireError: the bytes are not of this protocol.
        """
        self._pending += data
        if self.layout is None:
            if len(self._pending) < _HANDSHAKE.size:
                return
            self.layout = Layout.from_handshake(self._take(_HANDSHAKE.size))
        while (size := self._frame_size(self.layout)) and len(self._pending) >= size:
            yield _samples(self._take(size)[_COUNT.size :], self.layout)

    def _frame_size(self, layout: Layout) -> int | None:
        if len(self._pending) < _COUNT.size:
            return None
        (count,) = _COUNT.unpack_from(self._pending)
        if not 0 < count <= MAX_ROWS:
            raise WireError(f"the connection announces a frame of {count} rows; 1 to {MAX_ROWS} are allowed")
        return _COUNT.size + int(count) * layout.width * _FLOAT.itemsize

    def _take(self, size: int) -> bytes:
        taken = bytes(self._pending[:size])
        del self._pending[:size]
        return taken


def _samples(data: bytes, layout: Layout) -> Samples:
    rows_NW = np.frombuffer(data, _FLOAT).reshape(-1, layout.width)
    parts = np.split(rows_NW, np.cumsum(layout)[:-1], axis=1)
    return Samples(*parts)
