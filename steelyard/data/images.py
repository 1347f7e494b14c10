"""The images in use, as columns: what the catalog says of them, and where in the row files to find the rest.

The columns take about 40 bytes of memory for an image, and what is worked out from them 150 more at a time: preparing a
million adds 180 MiB to what it takes for few.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from steelyard.data.catalog import Catalog
from steelyard.data.pixels import gathered

FACTS = np.dtype(
    [
        ("digest", np.uint8, 32),  # of the pixels
        ("truth", np.uint8, 32),  # digest of a mask; a label is its own truth
        ("keys", np.int64, 4),  # of near-duplicates
        ("width", np.int32),
        ("height", np.int32),
        ("brightness", np.float32),  # mean grey level, 0 to 1
    ]
)
STRICTNESS = ("", "train", "validation", "test")  # the last keeps what is found in two splits
BATCH = 2**14

_RANKS = {split: rank for rank, split in enumerate(STRICTNESS)} | {None: 0}


@dataclass(slots=True, kw_only=True)
class Images:
    """N images in use, in the order of the catalog; splits are indices into STRICTNESS, 0 is none.

    Two images are the same where 64 bits of their digests are: of ten million that differ, two would be taken for one
    another once in 400,000 times.
    """

    folder: Path  # of the row files
    names: list[str]  # of the labels, sorted
    ids_N: NDArray[np.int32]  # in the catalog
    rows_N: NDArray[np.int32]  # in the row files
    labels_N: NDArray[np.int32]  # indices into names
    given_N: NDArray[np.int8]  # splits that the source gives
    splits_N: NDArray[np.int8]
    prefixes_N: NDArray[np.uint64]  # of the digests
    near_N: NDArray[np.int32]  # place of a near-duplicate in a stricter split, -1 where there is none

    @classmethod
    def of(cls, catalog: Catalog, folder: Path) -> Self:
        """Read what is in use."""
        codes: defaultdict[str, int] = defaultdict(count().__next__)
        columns: list[list[NDArray[Any]]] = [[], [], [], [], []]
        found = catalog.sql("SELECT id, row, label, given, split FROM kept ORDER BY id")
        while batch := found.fetchmany(BATCH):
            ids, rows, labels, given, splits = zip(*batch, strict=True)
            columns[0].append(np.array(ids, np.int32))
            columns[1].append(np.array(rows, np.int32))
            columns[2].append(np.array([codes[label] for label in labels], np.int32))
            columns[3].append(np.array([_RANKS[split] for split in given], np.int8))
            columns[4].append(np.array([_RANKS[split] for split in splits], np.int8))
        ids_N, rows_N, codes_N, given_N, splits_N = (np.concatenate(column) for column in columns)
        names = sorted(codes)
        places = {name: place for place, name in enumerate(names)}
        labels_N = np.array([places[name] for name in codes], np.int32)[codes_N]
        return cls(
            folder=folder,
            names=names,
            ids_N=ids_N,
            rows_N=rows_N,
            labels_N=labels_N,
            given_N=given_N,
            splits_N=splits_N,
            prefixes_N=np.concatenate([prefixes(facts["digest"]) for facts in facts_of(folder, rows_N)]),
            near_N=np.full(len(ids_N), -1, np.int32),
        )

    def facts(self, chosen_M: NDArray[np.integer] | None = None) -> Iterator[NDArray[Any]]:
        """Yield the facts of all images, or of those at some places, in batches."""
        yield from facts_of(self.folder, self.rows_N if chosen_M is None else self.rows_N[chosen_M])

    def distinct(self, counted_N: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Return how many distinct images each label has, among those that count."""
        labels_N, prefixes_N = self.labels_N, self.prefixes_N
        if counted_N is not None:
            labels_N, prefixes_N = labels_N[counted_N], prefixes_N[counted_N]
        order_N = np.lexsort((prefixes_N, labels_N))
        fresh_N = changes(labels_N[order_N], prefixes_N[order_N])
        return np.bincount(labels_N[order_N][fresh_N], minlength=len(self.names))

    def keep_splits(self, catalog: Catalog, splits_N: NDArray[np.int8]) -> None:
        """Take over splits, and write down those that changed."""
        changed_M = np.flatnonzero(splits_N != self.splits_N)
        self.splits_N = splits_N
        catalog.many(
            "UPDATE items SET split = ? WHERE id = ?",
            ((STRICTNESS[split] or None, number) for split, number in _pairs(splits_N, self.ids_N, changed_M)),
        )


def facts_of(folder: Path, rows_N: NDArray[np.integer]) -> Iterator[NDArray[Any]]:
    """Yield the facts of some rows, in batches."""
    for start in range(0, len(rows_N), BATCH):
        yield gathered(folder / "facts.npy", rows_N[start : start + BATCH])


def prefixes(digests_ND: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the first 64 bits of digests, which sort as these do."""
    return np.ascontiguousarray(digests_ND[:, :8]).view(">u8")[:, 0].astype(np.uint64)


def changes(*columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where a row is another than the one before it."""
    fresh_N = np.ones(len(columns[0]), bool)
    fresh_N[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return fresh_N


def _pairs(splits_N: NDArray[np.int8], ids_N: NDArray[np.int32], chosen_M: NDArray[np.intp]) -> Iterator[Any]:
    return zip(splits_N[chosen_M].tolist(), ids_N[chosen_M].tolist(), strict=True)
