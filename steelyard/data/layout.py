"""Images in use -> the files that a Dataset is read from, rows and labels or shards, and what they add up to."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from steelyard.data.dataset import SPLITS, Split
from steelyard.data.images import BATCH, IMAGE, STRICTNESS, Images, digests
from steelyard.data.pixels import RowFile, Rows
from steelyard.data.shards import Shard, write_shards
from steelyard.data.sorting import Records, changes
from steelyard.data.workers import Pixels
from steelyard.store import ObjectStore

FEW = 3  # are named


@dataclass(slots=True)
class Repeats:
    """Distinct images that occur twice in some way: how many, and the ids of two of the first FEW."""

    count: int = 0
    named: list[tuple[int, int]] = field(default_factory=list)
    _last: int = -1  # number that was counted

    def add(self, numbers_M: NDArray[np.int32], ids_M: NDArray[np.int32], again_M: NDArray[np.bool_]) -> None:
        """Count images by their numbers, which grow, where one is like the one before it."""
        numbers, first = np.unique(numbers_M[again_M], return_index=True)
        places = np.flatnonzero(again_M)[first][numbers > self._last]
        self.count += len(places)
        some = places[: FEW - len(self.named)]
        self.named += zip(ids_M[some - 1].tolist(), ids_M[some].tolist(), strict=True)
        self._last = int(numbers[-1]) if len(numbers) else self._last


@dataclass(slots=True)
class Tally:
    """What the images in use add up to."""

    counts: dict[Split, Counter[str]]  # images of each class; of masks: pixels
    images: Counter[Split] = field(default_factory=Counter)
    brightness: float = 0.0  # summed over the images
    duplicates: int = 0
    equal: Repeats = field(default_factory=Repeats)
    conflicting: Repeats = field(default_factory=Repeats)
    content_digest: str = ""
    split_digest: str = ""
    evaluation_digest: str = ""
    _before: Records = field(default_factory=lambda: np.empty(0, IMAGE))  # the last that was added

    def add(self, used: Records) -> None:
        """Count images that are equal, and those of them that differ in their truth; they come in the order of both."""
        numbers_M, truths_M, ids_M = (
            np.concatenate([self._before[name], used[name]]) for name in ("number", "truth", "id")
        )
        equal_M = ~changes(numbers_M)
        self.duplicates += int(np.count_nonzero(equal_M))
        self.equal.add(numbers_M, ids_M, equal_M)
        self.conflicting.add(numbers_M, ids_M, equal_M & changes(truths_M))
        self.brightness += float(used["facts"]["brightness"].sum(dtype=np.float64))
        self._before = used[-1:] if len(used) else self._before


def write_rows(images: Images, classes: tuple[str, ...], shape: tuple[int, ...]) -> Tally:
    """Write `rows.npy` of each split and, where images have labels, `labels.npy`; count and digest what is in a split.

    Within a split the images are in the order of the digests of their pixels, which has no meaning and is the same
    everywhere.
    """
    content, splits, evaluation = (hashlib.sha256(f"{shape}\n".encode()) for _ in range(3))
    tally = Tally(counts={split: Counter(dict.fromkeys(classes, 0)) for split in SPLITS})
    files = {split: _SplitFiles(_emptied(images.folder / split), labels=not images.masks) for split in SPLITS}
    for places, batch in images.batches():
        in_use = np.flatnonzero(images.splits_N[places])
        used, splits_M = batch.take(in_use), images.splits_N[places][in_use]
        tally.add(used)
        for digest, lines in zip((content, splits, evaluation), _digested(images, used, splits_M), strict=True):
            digest.update(lines)
        for split, file in files.items():
            chosen = used[["row", "label"]][splits_M == STRICTNESS.index(split)]
            file.write(chosen)
            tally.images[split] += len(chosen)
            tally.counts[split].update(_counts(images, chosen, classes))
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


class _SplitFiles:
    """`rows.npy` of a split and, where images have labels, `labels.npy`."""

    def __init__(self, folder: Path, labels: bool) -> None:
        self._rows = RowFile(folder / "rows.npy", (), np.int64)
        self._labels = RowFile(folder / "labels.npy", (), np.int64) if labels else None
        self._count = 0

    def write(self, images: Records) -> None:
        self._rows.write(self._count, images["row"].astype(np.int64))
        if self._labels is not None:
            self._labels.write(self._count, images["label"].astype(np.int64))
        self._count += len(images)

    def close(self) -> None:
        for file in filter(None, (self._rows, self._labels)):
            file.close(self._count)


def _digested(images: Images, used: Records, splits_M: NDArray[np.int8]) -> Iterator[bytes]:
    """Yield what is digested of images: truths and pixels; the same behind the splits; the same of what is evaluated
    on.
    """
    truths_MD = used["facts"]["truth"] if images.masks else digests(map(str.encode, images.names))[used["label"]]
    lines_MD = np.concatenate([splits_M.astype(np.uint8)[:, None], truths_MD, used["facts"]["digest"]], axis=1)
    yield lines_MD[:, 1:].tobytes()
    yield lines_MD.tobytes()
    yield lines_MD[splits_M != STRICTNESS.index("train")].tobytes()


def _counts(images: Images, chosen: Records, classes: tuple[str, ...]) -> dict[str, int]:
    """Return the images of each class; of masks, the pixels."""
    if images.masks:
        counts_K = Rows(images.folder / "counts.npy")[chosen["row"]].sum(axis=0, dtype=np.int64)
    else:
        counts_K = np.bincount(chosen["label"], minlength=len(classes))
    return dict(zip(classes, counts_K.tolist(), strict=True))


def _emptied(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():  # of a run that was cut off
        file.unlink()
    return folder


def _samples(folder: Path, pixels: Pixels, labelled: bool) -> Iterator[Shard]:
    names = ("rows.npy", "labels.npy") if labelled else ("rows.npy",)
    for rows_M, *labels in zip(*(Rows(folder / name).parts(BATCH) for name in names), strict=True):
        for place, row in enumerate(rows_M.tolist()):
            image_HWC, mask_HW = pixels.read(row)
            yield Shard(row, image_HWC, int(labels[0][place]) if mask_HW is None else mask_HW)
