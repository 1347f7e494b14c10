"""Catalog -> the files that a Dataset is read from, rows and labels or shards, and what they add up to."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.data.catalog import Catalog
from steelyard.data.dataset import SPLITS, Split
from steelyard.data.pixels import RowFile
from steelyard.data.shards import Shard, write_shards
from steelyard.data.workers import Pixels
from steelyard.store import ObjectStore

BATCH = 4096


class _Row(NamedTuple):
    split: Split
    row: int
    digest: bytes
    label: str
    truth: str
    pixels: bytes | None


@dataclass(slots=True)
class Tally:
    """What the images in use add up to."""

    counts: dict[Split, Counter[str]]  # images of each class; of masks: pixels
    images: Counter[Split] = field(default_factory=Counter)
    duplicates: int = 0
    conflicts: int = 0
    content_digest: str = ""
    split_digest: str = ""
    evaluation_digest: str = ""


def write_rows(catalog: Catalog, folder: Path, classes: tuple[str, ...], shape: tuple[int, ...], masks: bool) -> Tally:
    """Write `rows.npy` of each split and, where images have labels, `labels.npy`; count and digest what is in use.

    Within a split the images are in the order of the digests of their pixels, which has no meaning and is the same
    everywhere.
    """
    tally = Tally({split: Counter(dict.fromkeys(classes, 0)) for split in SPLITS})
    files = {split: _Files(folder / split, classes, masks) for split in SPLITS}
    content, splits, evaluation = (hashlib.sha256(f"{shape}\n".encode()) for _ in range(3))
    last = _Row("train", -1, b"", "", "", None)
    conflict = False
    for batch in _rows_in_use(catalog):
        for row in batch:
            same = row.digest == last.digest
            tally.duplicates += same
            if same and row.truth != last.truth and not conflict:
                tally.conflicts, conflict = tally.conflicts + 1, True
            conflict, last = conflict and same, row
            content.update(f"{row.truth}:{row.digest.hex()}\n".encode())
            line = f"{row.split}:{row.truth}:{row.digest.hex()}\n".encode()
            splits.update(line)
            if row.split != "train":
                evaluation.update(line)
        for split, file in files.items():
            chosen = [row for row in batch if row.split == split]
            file.add(chosen)
            tally.images[split] += len(chosen)
            tally.counts[split].update(_counts(chosen, classes))
    for file in files.values():
        file.close()
    tally.content_digest, tally.split_digest = content.hexdigest(), splits.hexdigest()
    tally.evaluation_digest = evaluation.hexdigest()
    return tally


def move_to_shards(
    folder: Path, pixels: Pixels, labelled: bool, address: str, store: ObjectStore | None
) -> dict[Split, tuple[str, ...]]:
    """Write the images of each split as shards; with an address, put them there instead of into the folder.

    Raises:
        StoreError: the object store does not answer.
    """
    names: dict[Split, tuple[str, ...]] = {}
    for split in SPLITS:
        target = folder / split

        def finished(shard: Path, split: Split = split) -> None:
            if address and store is not None:
                store.upload(shard, f"{address}/{split}/{shard.name}")
                shard.unlink()

        names[split] = write_shards(target, _samples(target, pixels, labelled), finished)
        (target / "rows.npy").unlink()
    return names


class _Files:
    """Rows and labels of one split."""

    def __init__(self, folder: Path, classes: tuple[str, ...], masks: bool) -> None:
        folder.mkdir(exist_ok=True)
        for file in folder.iterdir():  # of a run that was cut off
            file.unlink()
        self._rows = RowFile(folder / "rows.npy", (), np.int64)
        self._labels = None if masks else RowFile(folder / "labels.npy", (), np.int64)
        self._numbers = {name: number for number, name in enumerate(classes)}
        self._length = 0

    def add(self, rows: list[_Row]) -> None:
        self._rows.write(self._length, np.array([row.row for row in rows], np.int64))
        if self._labels is not None:
            self._labels.write(self._length, np.array([self._numbers[row.label] for row in rows], np.int64))
        self._length += len(rows)

    def close(self) -> None:
        for file in (self._rows, self._labels):
            if file is not None:
                file.close(self._length)


def _rows_in_use(catalog: Catalog) -> Iterator[list[_Row]]:
    rows = catalog.sql(
        "SELECT split, row, digest, label, truth, pixels FROM kept WHERE split IS NOT NULL "
        "ORDER BY digest, truth, label"
    )
    while batch := rows.fetchmany(BATCH):
        yield [_Row(*row) for row in batch]


def _counts(rows: list[_Row], classes: tuple[str, ...]) -> dict[str, int]:
    masks = [np.frombuffer(row.pixels, np.uint32) for row in rows if row.pixels is not None]
    if not masks:
        return Counter(row.label for row in rows)
    totals_K: NDArray[np.int64] = np.stack(masks).sum(axis=0, dtype=np.int64)
    return dict(zip(classes, totals_K.tolist(), strict=True))


def _samples(folder: Path, pixels: Pixels, labelled: bool) -> Iterator[Shard]:
    rows_N = np.load(folder / "rows.npy", mmap_mode="r")
    labels_N = np.load(folder / "labels.npy", mmap_mode="r") if labelled else None
    for position, row in enumerate(rows_N.tolist()):
        image_HWC, mask_HW = pixels.read(row)
        if labels_N is not None:
            yield Shard(row, image_HWC, int(labels_N[position]))
        elif mask_HW is not None:
            yield Shard(row, image_HWC, mask_HW)
