"""What was decoded, kept in an object store: a pod finds no folder of an earlier time, and goes on from there.

A part is a .npz with the same rows of every row file, and as JSON the items that they are of. Parts are written while
decoding goes on, and stay, so that another preparation of a source that has grown decodes what is new.
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
from zipfile import BadZipFile

import numpy as np

from steelyard.data.catalog import Catalog, Found
from steelyard.data.item import Item
from steelyard.data.pixels import RowFile
from steelyard.data.workers import Pixels
from steelyard.errors import SourceError
from steelyard.store import ObjectStore

log = logging.getLogger(__name__)

PART_BYTES = 2**24
EVERY_S = 60.0  # if no part is full before
_DAMAGED = (ValueError, KeyError, TypeError, EOFError, BadZipFile)


class Place(NamedTuple):
    """Where what is decoded is kept."""

    store: ObjectStore
    address: str  # s3://; below it, each source and settings have a place of their own
    settings: str  # what decides the pixels

    def __str__(self) -> str:
        return f"{self.address}/{hashlib.sha256(self.settings.encode()).hexdigest()[:16]}"


class Kept:
    """The parts of one source."""

    def __init__(self, place: Place | None, pixels: Pixels, catalog: Catalog) -> None:
        """Name what is kept.

        Args:
            place: where; None for nowhere, so that nothing is kept.
            pixels: the row files.
            catalog: which item each row is of.
        """
        self._place, self._pixels, self._catalog = place, pixels, catalog
        self._rows = max(1, PART_BYTES // pixels.images.row_bytes)
        self._next, self._due = 0, time.monotonic() + EVERY_S
        self._thread = ThreadPoolExecutor(1)
        self._uploading: Future[None] | None = None

    def close(self) -> None:
        """Wait for what is being uploaded."""
        self._thread.shutdown()

    def restore(self, row: int) -> int:
        """Write what others decoded into the rows from `row` on, and return how many images that were.

        Raises:
            StoreError: the store does not answer.
        """
        self._next = row
        if self._place is not None:
            for name, _ in self._place.store.walk(str(self._place)):
                try:
                    self._next += self._take(self._place, name)
                except (*_DAMAGED, SourceError) as error:
                    log.warning("%s/%s: is not used: %s", self._place, name, error)
        if self._next > row:
            log.info("%d images were decoded before", self._next - row)
        return self._next - row

    def keep(self, until: int, *, wait: bool = False) -> None:
        """Upload rows before `until`, all of which are in the catalog: a part at a time, beside whatever goes on.

        What the store does not take is not kept, which a warning says.

        Args:
            until: the first row that is not there yet.
            wait: until all of them are kept; else parts are full, or EVERY_S old.
        """
        while self._place is not None and (wait or self._uploading is None or self._uploading.done()):
            if self._uploading is not None and (error := self._uploading.exception()) is not None:
                log.warning("what is decoded is not kept from here on: %s", error)
                self._place = None
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
            np.savez(file, said=np.frombuffer(json.dumps(items).encode(), np.uint8), **arrays)
            place.store.upload(file, f"{place}/{file.name}")

    def _take(self, place: Place, name: str) -> int:
        """Take over what is still to be decoded, and return how many images that were; remove what nobody lists."""
        with np.load(io.BytesIO(place.store.read(f"{place}/{name}"))) as part:
            items = [Item(*item) for item in json.loads(part["said"].tobytes())]
            arrays = {name: file.checked(part[name], len(items)) for name, file in self._files().items()}
        listed = [self._catalog.find(item) for item in items]
        if not any(listed):
            place.store.remove(f"{place}/{name}")
        wanted_M = np.array([found is not None and found.pending for found in listed], bool)
        ids = [found.id for found in listed if found is not None and found.pending]
        for kind, file in self._files().items():
            file.write(self._next, arrays[kind][wanted_M])
        self._pixels.items.write(self._next, np.array(ids, np.int32))
        self._catalog.record(Found(number, row=row) for row, number in enumerate(ids, self._next))
        return len(ids)

    def _files(self) -> dict[str, RowFile]:
        return {name: file for name, file in self._pixels.files.items() if name != "items"}  # which are this catalog's
