"""The images in use, in the order of their pixels' digests: records in a temporary file, read in parts.

Whatever is worked out from them is worked out in passes over that file, or over others sorted from it, so that what is
kept in memory grows by some 8 bytes for each image and 60 for each group. Equal images stand together and are read
together.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from steelyard.data.catalog import Catalog
from steelyard.data.groups import NO_GROUP, number_groups
from steelyard.data.pixels import Rows
from steelyard.data.sorting import RUN_BYTES, Records, Sorter, changes, in_blocks

FACTS = np.dtype(
    [
        ("digest", np.uint8, 32),  # of the pixels
        ("truth", np.uint8, 32),  # digest of a mask; a label is its own truth
        ("keys", np.int64, 4),  # of near-duplicates
        ("label", np.uint64),  # hash
        ("width", np.int32),
        ("height", np.int32),
        ("brightness", np.float32),  # mean grey level, 0 to 1
        ("given", np.int8),  # split that the source gives
    ]
)
IMAGE = np.dtype(
    [
        ("prefix", np.uint64),  # of the digest
        ("id", np.int32),  # in the catalog
        ("row", np.int32),  # in the row files
        ("label", np.int32),  # index into names
        ("group", np.int32),  # -1 where there is none
        ("split", np.int8),  # of an earlier time
        ("facts", FACTS),
    ]
)
STRICTNESS = ("", "train", "validation", "test")  # the last keeps what is found in two splits; 0 is none
BATCH = 2**13

_LISTED = np.dtype([(name, IMAGE[name]) for name in ("id", "row", "group", "split")])
_CHANGED = np.dtype([(name, IMAGE[name]) for name in ("id", "split")])
_RANK = " ".join(["CASE split", *(f"WHEN '{name}' THEN {rank}" for rank, name in enumerate(STRICTNESS)), "ELSE 0 END"])


@dataclass(slots=True, kw_only=True)
class Images:
    """N images in use; splits are indices into STRICTNESS.

    Two images are the same where 64 bits of their digests are: of ten million that differ, two would be taken for one
    another once in 400,000 times.
    """

    folder: Path  # of the row files
    names: list[str]  # of the labels, sorted
    given: set[int] = field(default_factory=set)  # splits that the source gives; 0 where it gives none
    grouped: bool
    splits_N: NDArray[np.int8] = field(init=False)
    near_N: NDArray[np.int32] = field(init=False)  # place of a near-duplicate in a stricter split, -1 where none is
    _file: SpooledTemporaryFile[bytes] = field(init=False)
    _ends: list[int] = field(default_factory=lambda: [0])  # of the parts

    @classmethod
    def of(cls, catalog: Catalog, folder: Path, group: str = "") -> Self:
        """Read what is in use.

        Args:
            catalog: where the images came from.
            folder: of the row files.
            group: regular expression that finds an image's group in its path.

        Raises:
            SourceError: the expression fits no path.
        """
        names = [label for (label,) in catalog.sql("SELECT DISTINCT label FROM kept ORDER BY label")]
        number = number_groups(catalog, group)
        images = cls(folder=folder, names=names, grouped=number != NO_GROUP)
        found = catalog.sql(f"SELECT id, row, {number}, {_RANK} FROM kept ORDER BY id")
        by_pixels, facts = Sorter(folder, "prefix"), Rows(folder / "facts.npy")
        while len(listed := np.fromiter(islice(found, BATCH), _LISTED)):
            by_pixels.add(images._records(listed, facts))
        images._keep(by_pixels.batches())
        return images

    def __len__(self) -> int:
        return self._ends[-1]

    def batches(self) -> Iterator[tuple[slice, Records]]:
        """Yield places with what is there; equal images are in one batch."""
        for start, end in pairwise(self._ends):
            yield slice(start, end), self._read(start, end)

    def at(self, place: int) -> Any:
        """Return one image."""
        return self._read(place, place + 1)[0]

    def distinct(self, most: int = len(STRICTNESS)) -> NDArray[np.int64]:
        """Return how many distinct images each label has, among those whose given split is not stricter than `most`."""
        counts_L = np.zeros(len(self.names), np.int64)
        for _, batch in self.batches():
            counted_M = batch["facts"]["given"] <= most
            labels_M, prefixes_M = batch["label"][counted_M], batch["prefix"][counted_M]
            order_M = np.lexsort((labels_M, prefixes_M))
            labels_M, prefixes_M = labels_M[order_M], prefixes_M[order_M]
            counts_L += np.bincount(labels_M[changes(labels_M, prefixes_M)], minlength=len(counts_L))
        return counts_L

    def keep_splits(self, catalog: Catalog, splits_N: NDArray[np.int8]) -> None:
        """Take over splits, and write down those that changed, in the order of the catalog."""
        self.splits_N = splits_N
        by_id = Sorter(self.folder, "id")
        for places, batch in self.batches():
            changed_M = np.flatnonzero(batch["split"] != splits_N[places])
            changed = np.empty(len(changed_M), _CHANGED)
            changed["id"], changed["split"] = batch["id"][changed_M], splits_N[places][changed_M]
            by_id.add(changed)
        blocks = in_blocks(by_id.batches(), BATCH)
        rows = ((STRICTNESS[split] or None, number) for block in blocks for number, split in block.tolist())
        catalog.many("UPDATE items SET split = ? WHERE id = ?", rows)

    def _records(self, listed: Records, facts: Rows) -> Records:
        images = np.empty(len(listed), IMAGE)
        for name in _LISTED.names or ():
            images[name] = listed[name]
        images["facts"] = facts[listed["row"]]
        images["prefix"] = prefixes(images["facts"]["digest"])
        hashes_L = hashes(self.names)
        order_L = np.argsort(hashes_L)
        images["label"] = order_L[np.searchsorted(hashes_L, images["facts"]["label"], sorter=order_L)]
        self.given |= set(np.unique(images["facts"]["given"]).tolist())
        return images

    def _keep(self, batches: Iterable[Records]) -> None:
        self._file = SpooledTemporaryFile(RUN_BYTES, dir=str(self.folder))  # noqa: SIM115 - lives as long as this
        for batch in batches:
            self._file.write(batch.view(np.uint8).data)
            self._ends.append(self._ends[-1] + len(batch))
        self.splits_N = np.broadcast_to(np.int8(0), len(self))
        self.near_N = np.broadcast_to(np.int32(-1), len(self))

    def _read(self, start: int, end: int) -> Records:
        self._file.seek(start * IMAGE.itemsize)
        return np.frombuffer(self._file.read((end - start) * IMAGE.itemsize), IMAGE)


def prefixes(digests_ND: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the first 64 bits of digests, which sort as these do."""
    return np.ascontiguousarray(digests_ND[:, :8]).view(">u8")[:, 0].astype(np.uint64)


def hashes(labels: Iterable[str]) -> NDArray[np.uint64]:
    """Return what stands for labels in FACTS."""
    return np.array([int.from_bytes(hashlib.sha256(label.encode()).digest()[:8]) for label in labels], np.uint64)
