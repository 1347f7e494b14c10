"""The images in use, in the order of their pixels' digests: records in a temporary file, read in parts.

Whatever is worked out from them is worked out in passes over that file, or over others sorted from it, so that what is
kept in memory grows by some 8 bytes for each image, by 4 more where there are groups, and by 60 for each group, however
many images are equal.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from steelyard.data.catalog import Catalog
from steelyard.data.groups import number_groups
from steelyard.data.pixels import Rows
from steelyard.data.sorting import RUN_BYTES, Records, Sorter, changes
from steelyard.errors import ArtifactError

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
        ("truth", np.uint64),  # the prefix of the mask's digest, where all have one label, or the label
        ("tie", np.uint32),  # of equal images: any order, so that each run of the sorter holds some of each part of it
        ("number", np.int32),  # of its pixels, in their order: equal images have one number
        ("first", np.bool_),  # with these pixels
        ("first_labelled", np.bool_),  # with these pixels and this label
        ("id", np.int32),  # in the catalog
        ("row", np.int32),  # in the row files
        ("label", np.int32),  # index into names
        ("group", np.int32),  # -1 where there is none
        ("facts", FACTS),
    ]
)
STRICTNESS = ("", "train", "validation", "test")  # the last keeps what is found in two splits; 0 is none
BATCH = 2**13
MIXER = 2654435769  # of Fibonacci hashing (Knuth 1973, 6.4): odd, so that no two ids become one


@dataclass(slots=True, kw_only=True)
class Images:
    """N images in use; splits are indices into STRICTNESS.

    Two images are the same where 64 bits of their digests are: of ten million that differ, two would be taken for one
    another once in 400,000 times.
    """

    folder: Path  # of the row files
    masks: bool  # rather than labels
    names: list[str]  # of the labels, sorted
    given: set[int] = field(default_factory=set)  # splits that the source gives; 0 where it gives none
    groups: int
    distinct: int = 0  # images whose pixels differ
    splits_N: NDArray[np.int8] = field(init=False)
    near_N: NDArray[np.int32] = field(init=False)  # place of a near-duplicate in a stricter split, -1 where none is
    _file: SpooledTemporaryFile[bytes] = field(init=False)
    _ends: list[int] = field(default_factory=lambda: [0])  # of the parts

    @classmethod
    def of(cls, catalog: Catalog, folder: Path, group: str = "", masks: bool = False) -> Self:
        """Read what is in use.

        Args:
            catalog: where the images came from.
            folder: of the row files.
            masks: whether images have masks rather than labels.
            group: regular expression that finds an image's group in its path.

        Raises:
            SourceError: the expression fits no path.
            ArtifactError: the files do not belong together.
        """
        names = [label for (label,) in catalog.sql("SELECT DISTINCT label FROM kept ORDER BY label")]
        rows_I, groups_I = _rows_of_items(catalog, folder), number_groups(catalog, group)
        images = cls(folder=folder, masks=masks, names=names, groups=int(groups_I.max()) + 1)
        by_pixels, facts = Sorter(folder, "prefix", "truth", "tie"), Rows(folder / "facts.npy")
        for start in range(0, len(rows_I), BATCH):
            ids_M = start + np.flatnonzero(rows_I[start : start + BATCH] >= 0)
            by_pixels.add(images._records(ids_M, rows_I[ids_M], groups_I[ids_M], facts))
        images._keep(by_pixels.batches())
        return images

    def __len__(self) -> int:
        return self._ends[-1]

    def batches(self) -> Iterator[tuple[slice, Records]]:
        """Yield places with what is there."""
        for start, end in pairwise(self._ends):
            yield slice(start, end), self._read(start, end)

    def at(self, place: int) -> Any:
        """Return one image."""
        return self._read(place, place + 1)[0]

    def per_label(self, counted_D: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Return how many distinct images each label has, of all or of those that are counted."""
        counts_L = np.zeros(len(self.names), np.int64)
        for _, batch in self.batches():
            counted_M = batch["first_labelled"]
            if counted_D is not None:
                counted_M = counted_M & counted_D[batch["number"]]
            counts_L += np.bincount(batch["label"][counted_M], minlength=len(counts_L))
        return counts_L

    def _records(
        self, ids_M: NDArray[np.intp], rows_M: NDArray[np.int32], groups_M: NDArray[np.int32], facts: Rows
    ) -> Records:
        images = np.empty(len(ids_M), IMAGE)
        images["id"], images["row"], images["group"] = ids_M, rows_M, groups_M
        images["tie"] = ids_M.astype(np.uint32) * np.uint32(MIXER)
        images["facts"] = facts[rows_M]
        images["prefix"] = prefixes(images["facts"]["digest"])
        hashes_L = hashes(self.names)
        order_L = np.argsort(hashes_L)
        images["label"] = order_L[np.searchsorted(hashes_L, images["facts"]["label"], sorter=order_L)]
        images["truth"] = prefixes(images["facts"]["truth"]) if self.masks else images["label"]
        self.given |= set(np.unique(images["facts"]["given"]).tolist())
        return images

    def _keep(self, batches: Iterable[Records]) -> None:
        self._file = SpooledTemporaryFile(RUN_BYTES, dir=str(self.folder))  # noqa: SIM115 - lives as long as this
        before = np.empty(0, IMAGE)
        for batch in batches:
            prefixes_M, labels_M = (np.concatenate([before[name], batch[name]]) for name in ("prefix", "label"))
            batch["first"] = changes(prefixes_M)[len(before) :]
            batch["first_labelled"] = changes(prefixes_M, labels_M)[len(before) :]
            batch["number"] = self.distinct - 1 + np.cumsum(batch["first"])
            self._file.write(batch.view(np.uint8).data)
            self._ends.append(self._ends[-1] + len(batch))
            self.distinct += int(np.count_nonzero(batch["first"]))
            before = batch[-1:]
        self.splits_N = np.broadcast_to(np.int8(0), len(self))
        self.near_N = np.broadcast_to(np.int32(-1), len(self))

    def _read(self, start: int, end: int) -> Records:
        self._file.seek(start * IMAGE.itemsize)
        return np.frombuffer(self._file.read((end - start) * IMAGE.itemsize), IMAGE)


def _rows_of_items(catalog: Catalog, folder: Path) -> NDArray[np.int32]:
    """Return the row of each item, by id, -1 where none is in use: the last, where a file has changed."""
    rows_I = np.full(catalog.last_id() + 1, -1, np.int32)
    start = 0
    for ids_M in Rows(folder / "items.npy").parts(BATCH):
        rows_I[ids_M] = np.arange(start, start + len(ids_M))
        start += len(ids_M)
    rows_I[0] = -1  # rows of what could not be decoded
    for number in catalog.unused():
        rows_I[number] = -1
    if np.count_nonzero(rows_I >= 0) != catalog.count("kept"):  # after a power cut, say
        raise ArtifactError(f"{folder}: its rows are not those of its catalog; delete it, and all is decoded anew")
    return rows_I


def prefixes(digests_ND: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the first 64 bits of digests, which sort as these do."""
    return np.ascontiguousarray(digests_ND[:, :8]).view(">u8")[:, 0].astype(np.uint64)


def hashes(labels: Iterable[str]) -> NDArray[np.uint64]:
    """Return what stands for labels in FACTS."""
    return prefixes(digests(map(str.encode, labels)))


def digests(contents: Iterable[Any]) -> NDArray[np.uint8]:
    """Return the SHA-256 digests of N contents, bytes or arrays, as (N, 32)."""
    found = b"".join(hashlib.sha256(content).digest() for content in contents)
    return np.frombuffer(found, np.uint8).reshape(-1, 32)
