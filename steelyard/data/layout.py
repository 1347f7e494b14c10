"""Images in use -> the files that a Dataset is read from, rows and labels or shards, and what they add up to."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from steelyard.data.dataset import SPLITS, Split
from steelyard.data.images import BATCH, STRICTNESS, Images, digests, prefixes
from steelyard.data.pixels import RowFile, Rows
from steelyard.data.shards import Shard, write_shards
from steelyard.data.sorting import Records, changes
from steelyard.data.workers import Pixels
from steelyard.store import ObjectStore

FEW = 3  # are named


@dataclass(slots=True)
class Tally:
    """What the images in use add up to."""

    counts: dict[Split, Counter[str]]  # images of each class; of masks: pixels
    images: Counter[Split] = field(default_factory=Counter)
    duplicates: int = 0
    conflicts: int = 0
    equal: list[list[int]] = field(default_factory=list)  # ids of the first few, FEW of each at most
    conflicting: list[list[int]] = field(default_factory=list)  # the same, one for each truth
    content_digest: str = ""
    split_digest: str = ""
    evaluation_digest: str = ""

    def add(self, used: Records, masks: bool) -> None:
        """Count images that are equal, and those of them that differ in their truth."""
        prefixes_M = used["prefix"]
        same_M = ~changes(prefixes_M)
        self.duplicates += int(same_M.sum())
        fresh_M = changes(prefixes_M, _truths(used, masks))
        conflicts = np.unique(prefixes_M[same_M & fresh_M])
        self.conflicts += len(conflicts)
        for prefix in np.unique(prefixes_M[same_M])[: FEW - len(self.equal)]:
            self.equal.append(used["id"][prefixes_M == prefix][:FEW].tolist())
        for prefix in conflicts[: FEW - len(self.conflicting)]:
            self.conflicting.append(used["id"][fresh_M & (prefixes_M == prefix)][:FEW].tolist())


def write_rows(images: Images, classes: tuple[str, ...], shape: tuple[int, ...], masks: bool) -> Tally:
    """Write `rows.npy` of each split and, where images have labels, `labels.npy`; count and digest what is in a split.

    Within a split the images are in the order of the digests of their pixels, which has no meaning and is the same
    everywhere.
    """
    content, splits, evaluation = (hashlib.sha256(f"{shape}\n".encode()) for _ in range(3))
    tally = Tally(counts={split: Counter(dict.fromkeys(classes, 0)) for split in SPLITS})
    files = {split: _SplitFiles(_emptied(images.folder / split), labels=not masks) for split in SPLITS}
    for places, batch in images.batches():
        used, splits_M = _in_use(batch, images.splits_N[places], masks)
        tally.add(used, masks)
        for digest, lines in zip((content, splits, evaluation), _digested(images, used, splits_M, masks), strict=True):
            digest.update(lines)
        for split, file in files.items():
            chosen = used[splits_M == STRICTNESS.index(split)]
            file.write(chosen)
            tally.images[split] += len(chosen)
            tally.counts[split].update(_counts(images, chosen, classes, masks))
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


def _in_use(batch: Records, splits_M: NDArray[np.int8], masks: bool) -> tuple[Records, NDArray[np.int8]]:
    """Return what is in a split, by pixels and then by truth, with the splits."""
    order_M = np.lexsort((_truths(batch, masks), batch["prefix"]))
    order_M = order_M[splits_M[order_M] > 0]
    return batch.take(order_M), splits_M[order_M]


def _truths(images: Records, masks: bool) -> NDArray[np.integer]:
    return prefixes(images["facts"]["truth"]) if masks else images["label"]


def _digested(images: Images, used: Records, splits_M: NDArray[np.int8], masks: bool) -> Iterator[bytes]:
    """Yield what is digested of images: truths and pixels; the same behind the splits; the same of what is evaluated
    on.
    """
    truths_MD = used["facts"]["truth"] if masks else digests(map(str.encode, images.names))[used["label"]]
    lines_MD = np.concatenate([splits_M.astype(np.uint8)[:, None], truths_MD, used["facts"]["digest"]], axis=1)
    yield lines_MD[:, 1:].tobytes()
    yield lines_MD.tobytes()
    yield lines_MD[splits_M != STRICTNESS.index("train")].tobytes()


def _counts(images: Images, chosen: Records, classes: tuple[str, ...], masks: bool) -> dict[str, int]:
    """Return the images of each class; of masks, the pixels."""
    if masks:
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
