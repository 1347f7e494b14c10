"""Images in use -> the files that a Dataset is read from, rows and labels or shards, and what they add up to."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from steelyard.data.dataset import SPLITS, Split
from steelyard.data.images import BATCH, STRICTNESS, Images, changes, prefixes
from steelyard.data.pixels import gathered
from steelyard.data.shards import Shard, write_shards
from steelyard.data.workers import Pixels
from steelyard.store import ObjectStore


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


def write_rows(images: Images, classes: tuple[str, ...], shape: tuple[int, ...], masks: bool) -> Tally:
    """Write `rows.npy` of each split and, where images have labels, `labels.npy`; count and digest what is in a split.

    Within a split the images are in the order of the digests of their pixels, which has no meaning and is the same
    everywhere.
    """
    order_M, truths_M = _in_order(images, masks)
    splits_M, same_M = images.splits_N[order_M], ~changes(images.prefixes_N[order_M])
    differ_M = changes(truths_M) & same_M
    content, splits, evaluation = (hashlib.sha256(f"{shape}\n".encode()) for _ in range(3))
    for content_lines, split_lines, evaluation_lines in _lines(images, order_M, masks):
        content.update(content_lines)
        splits.update(split_lines)
        evaluation.update(evaluation_lines)
    tally = Tally(
        counts={},
        duplicates=int(same_M.sum()),
        conflicts=len(np.unique(images.prefixes_N[order_M][differ_M])),
        content_digest=content.hexdigest(),
        split_digest=splits.hexdigest(),
        evaluation_digest=evaluation.hexdigest(),
    )
    for split in SPLITS:
        chosen_S = order_M[splits_M == STRICTNESS.index(split)]
        folder = _emptied(images.folder / split)
        np.save(folder / "rows.npy", images.rows_N[chosen_S].astype(np.int64))
        if not masks:
            np.save(folder / "labels.npy", images.labels_N[chosen_S].astype(np.int64))
        tally.images[split] = len(chosen_S)
        tally.counts[split] = _counts(images, chosen_S, classes, masks)
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


def _in_order(images: Images, masks: bool) -> tuple[NDArray[np.intp], NDArray[np.uint64]]:
    """Return what is in a split, by pixels and then by truth, with the beginnings of the truths."""
    in_use_M = np.flatnonzero(images.splits_N)
    truths_M = images.labels_N[in_use_M].astype(np.uint64)
    if masks:
        truths_M = np.concatenate([prefixes(facts["truth"]) for facts in images.facts(in_use_M)])
    order_M = np.lexsort((truths_M, images.prefixes_N[in_use_M]))
    return in_use_M[order_M], truths_M[order_M]


def _lines(images: Images, order_M: NDArray[np.intp], masks: bool) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield what is digested of batches of images: truth and digest of the pixels; the same with the split; the same
    of what is evaluated on.
    """
    for start, facts in zip(range(0, len(order_M), BATCH), images.facts(order_M), strict=True):
        places = order_M[start : start + BATCH]
        truths = _hex(facts["truth"]) if masks else [images.names[label] for label in images.labels_N[places].tolist()]
        lines = [f"{truth}:{digest}\n" for truth, digest in zip(truths, _hex(facts["digest"]), strict=True)]
        splits = [STRICTNESS[split] for split in images.splits_N[places].tolist()]
        dealt = list(map("{}:{}".format, splits, lines))
        evaluated = (line for line, split in zip(dealt, splits, strict=True) if split != "train")
        yield tuple("".join(some).encode() for some in (lines, dealt, evaluated))  # type: ignore[misc]


def _hex(digests: NDArray[np.uint8]) -> list[str]:
    text = digests.tobytes().hex()
    return [text[start : start + 64] for start in range(0, len(text), 64)]


def _counts(images: Images, chosen_S: NDArray[np.intp], classes: tuple[str, ...], masks: bool) -> Counter[str]:
    """Return the images of each class; of masks, the pixels."""
    if masks:
        rows = (images.rows_N[chosen_S[start : start + BATCH]] for start in range(0, len(chosen_S), BATCH))
        counts = [gathered(images.folder / "counts.npy", some).sum(axis=0, dtype=np.int64) for some in rows]
        counts_K = np.sum([np.zeros(len(classes), np.int64), *counts], axis=0)
    else:
        counts_K = np.bincount(images.labels_N[chosen_S], minlength=len(classes))
    return Counter(dict(zip(classes, counts_K.tolist(), strict=True)))


def _emptied(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():  # of a run that was cut off
        file.unlink()
    return folder


def _samples(folder: Path, pixels: Pixels, labelled: bool) -> Iterator[Shard]:
    rows_N = np.load(folder / "rows.npy", mmap_mode="r")
    labels_N = np.load(folder / "labels.npy", mmap_mode="r") if labelled else None
    for position, row in enumerate(rows_N.tolist()):
        image_HWC, mask_HW = pixels.read(row)
        if labels_N is not None:
            yield Shard(row, image_HWC, int(labels_N[position]))
        elif mask_HW is not None:
            yield Shard(row, image_HWC, mask_HW)
