"""What was decoded, kept in an object store: a pod finds no folder of an earlier time, and goes on from there.

A part is a .npz with the same rows of every row file, and as JSON the items that they are of. Parts are written while
decoding goes on, and stay, so that another preparation of a source that has grown decodes what is new. It is a cache:
whatever fails here costs time alone.
"""

import hashlib
import io
import json
import logging
import tempfile
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.data.catalog import Catalog, Found
from steelyard.data.images import BATCH, STRICTNESS, digests, hashes
from steelyard.data.item import Item
from steelyard.data.pixels import RowFile
from steelyard.data.workers import Pixels
from steelyard.errors import SourceError, StoreError, first_line
from steelyard.store import ObjectStore

log = logging.getLogger(__name__)

PART_BYTES = 2**24
EVERY_S = 60.0  # if no part is full before


class Place(NamedTuple):
    """Where what is decoded is kept."""

    store: ObjectStore
    address: str  # s3://; below it, each source and settings have a place of their own
    settings: str  # what decides the pixels

    def __str__(self) -> str:
        return f"{self.address}/{hashlib.sha256(self.settings.encode()).hexdigest()[:16]}"


class Kept:
    """The parts of one source."""

    def __init__(self, place: Place | None, pixels: Pixels, catalog: Catalog, row: int) -> None:
        """Name what is kept.

        Args:
            place: where; None for nowhere, so that nothing is kept.
            pixels: the row files.
            catalog: which item each row is of.
            row: the first that is free.
        """
        self._place, self._pixels, self._catalog = place, pixels, catalog
        self._rows = min(max(1, PART_BYTES // pixels.images.row_bytes), BATCH)
        self._next, self._due = row, time.monotonic() + EVERY_S
        self._thread = ThreadPoolExecutor(1)
        self._uploading: Future[None] | None = None

    def close(self) -> None:
        """Upload the rest of what the catalog has."""
        if self._place is not None:
            self.keep(self._catalog.census().next_row, wait=True)
        self._thread.shutdown()

    def restore(self) -> int:
        """Take over what others decoded, and return how many images that were."""
        if self._place is None:
            return 0
        row = self._next
        try:
            for name, _ in self._place.store.walk(str(self._place)):
                address = f"{self._place}/{name}"
                self._take(address, self._place.store.read(address))
        except (SourceError, StoreError) as error:
            self._lose(error)
        if self._next > row:
            log.info("%d images were decoded before", self._next - row)
        return self._next - row

    def keep(self, until: int, *, wait: bool = False) -> None:
        """Upload rows before `until`, which the catalog has: a part at a time, beside whatever goes on.

        Args:
            until: the first row that is not there yet.
            wait: until all of them are kept; else parts are full, or EVERY_S old.
        """
        while self._place is not None and (wait or self._uploading is None or self._uploading.done()):
            if self._uploading is not None and (error := self._uploading.exception()) is not None:
                self._lose(error)
                return
            count = min(self._rows, until - self._next)
            if count < (1 if wait or time.monotonic() >= self._due else self._rows):
                return
            places, items = self._items(self._next, count)
            self._uploading = self._thread.submit(self._upload, self._place, self._next, places, items)
            self._next, self._due = self._next + count, time.monotonic() + EVERY_S

    def _items(self, row: int, count: int) -> tuple[list[int], list[Item]]:
        """Return which of the rows from `row` on hold something, and of which items."""
        ids = self._pixels.items.block(row, count)
        return np.flatnonzero(ids).tolist(), [self._catalog.item(number) for number in ids[ids > 0].tolist()]

    def _upload(self, place: Place, row: int, places: list[int], items: list[Item]) -> None:
        if not places:
            return
        arrays: dict[str, Any] = {name: file.block(row, places[-1] + 1)[places] for name, file in self._files().items()}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{uuid.uuid4().hex}.npz"
            np.savez(
                file, said=np.frombuffer(json.dumps([item._asdict() for item in items]).encode(), np.uint8), **arrays
            )
            place.store.upload(file, f"{place}/{file.name}")

    def _take(self, address: str, content: bytes) -> None:
        """Take over what is still to be decoded."""
        try:
            items, arrays = self._parsed(content)
            found = [self._catalog.find(item) for item in items]
        except Exception as error:  # on damaged bytes NumPy and zipfile raise nearly anything
            log.warning("%s: is not used: %s", address, first_line(error))
            return
        wanted = {one.id: place for place, one in enumerate(found) if one is not None and one.pending}
        for name, file in self._files().items():
            file.write(self._next, arrays[name][list(wanted.values())])
        self._pixels.items.write(self._next, np.array(list(wanted), np.int32))
        self._catalog.record(Found(number, row=row) for row, number in enumerate(wanted, self._next))
        self._next += len(wanted)

    def _parsed(self, content: bytes) -> tuple[list[Item], dict[str, NDArray[Any]]]:
        """Return a part's items and arrays, which fit together."""
        with np.load(io.BytesIO(content)) as part:
            items = [Item(**item) for item in json.loads(part["said"].tobytes())]
            arrays = {name: file.checked(part[name], len(items)) for name, file in self._files().items()}
        facts = arrays["facts"]
        expected: dict[str, NDArray[Any]] = {
            "digest": digests(arrays["images"]),
            "label": hashes(item.label for item in items),
        }
        expected |= {"given": np.array([STRICTNESS.index(item.split) for item in items], np.int8)}
        expected |= {"truth": digests(arrays["masks"])} if "masks" in arrays else {}
        if wrong := [name for name, values in expected.items() if not np.array_equal(facts[name], values)]:
            raise ValueError(f"{wrong[0]} is not what it should be")
        return items, arrays

    def _lose(self, error: BaseException) -> None:
        log.warning("what is decoded is not kept, and not taken from elsewhere, from here on: %s", error)
        self._place = None

    def _files(self) -> dict[str, RowFile]:
        return {name: file for name, file in self._pixels.files.items() if name != "items"}  # which are this catalog's
