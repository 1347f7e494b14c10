"""Source -> Dataset: decode, quarantine, split, digest."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from steelyard.artifact import new_folder
from steelyard.data.dataset import SPLITS, Dataset, DatasetIndex, Quarantined, Split
from steelyard.data.sources import Item, Shape, check_classes, list_items
from steelyard.errors import SourceError, UnreadableImage
from steelyard.params import Data
from steelyard.params import Split as Shares
from steelyard.progress import Progress

log = logging.getLogger(__name__)


def prepare(data: Data, task: str, folder: Path, source: str | None = None) -> Dataset:
    """Decode a source once and write it as a Dataset.

    The splits are stratified, and depend on the pixels and the seed alone: neither the order nor the names of the
    files matter. Within a split the images lie in an order without meaning.

    Args:
        data: what to prepare.
        task: "classification".
        folder: where the Dataset goes; replaced when all is written.
        source: where the source lies now, if it was copied from elsewhere.

    Raises:
        SourceError: nothing to prepare, too many unreadable files, or a class too small to be split.
    """
    items = list_items(source or data.source)
    shape = (data.image_size, data.image_size, 1 if data.grayscale else 3)
    with new_folder(folder) as partial:
        scratch = partial / "decoded.npy"
        images_NHWC = open_memmap(scratch, mode="w+", dtype=np.uint8, shape=(len(items), *shape))
        kept, quarantined = _decode(items, shape, images_NHWC)
        _refuse_too_many(quarantined, len(items), data.max_quarantined)
        digests = [_digest(images_NHWC[i], items[i].label) for i in kept]
        distinct = dict(zip(digests, (items[i].label for i in kept), strict=True))
        classes = check_classes(distinct.values(), least=len(SPLITS))
        labels_N = np.array([classes.index(items[i].label) for i in kept], np.int64)
        assigned = _assign(digests, labels_N, data.split)
        for split, members in assigned.items():
            _write_split(partial / split, images_NHWC, np.array(kept)[members], labels_N[members])
        index = DatasetIndex(
            task=task,
            classes=tuple(classes),
            image_shape=shape,
            source=data.source,
            content_digest=_digest_of(digests),
            split_digest=_digest_of(f"{split}:{digests[i]}" for split, members in assigned.items() for i in members),
            counts={split: _counts(labels_N[members], classes) for split, members in assigned.items()},
            quarantined=tuple(quarantined),
        )
        del images_NHWC
        scratch.unlink()
        index.write(partial / "dataset.json")
    sizes = ", ".join(f"{sum(index.counts[split].values())} {split}" for split in SPLITS)
    log.info("prepared %s: %d classes; %s", data.source, len(classes), sizes)
    return Dataset(folder)


def _decode(items: Sequence[Item], shape: Shape, images_NHWC: NDArray[np.uint8]) -> tuple[list[int], list[Quarantined]]:
    kept, quarantined = [], []
    progress = Progress("decoding", len(items), "images")
    for number, item in enumerate(items):
        try:
            images_NHWC[number] = item.read(shape)
            kept.append(number)
        except UnreadableImage as error:
            log.warning("quarantined %s: %s", item.path, error)
            quarantined.append(Quarantined(path=item.path, reason=str(error)))
        progress.advance()
    return kept, quarantined


def _refuse_too_many(quarantined: Sequence[Quarantined], total: int, allowed: float) -> None:
    if len(quarantined) > allowed * total:
        first = quarantined[0]
        raise SourceError(
            f"data.max_quarantined: {len(quarantined)} of {total} images are unreadable, more than the allowed "
            f"share of {allowed:g}; the first: {first.path}: {first.reason}"
        )


def _assign(digests: Sequence[str], labels_N: NDArray[np.int64], shares: Shares) -> dict[Split, list[int]]:
    """Return the members of each split, each in an order that depends on pixels and seed alone.

    The shares are taken of the distinct images of each class, so that equal images stay together.
    """
    assigned: dict[Split, list[int]] = {split: [] for split in SPLITS}
    rank = [hashlib.sha256(f"{shares.seed}:{digest}".encode()).digest() for digest in digests]
    for label in range(int(labels_N.max()) + 1):
        members = sorted(np.flatnonzero(labels_N == label).tolist(), key=rank.__getitem__)
        groups = [list(equal) for _, equal in groupby(members, key=digests.__getitem__)]
        test = max(1, min(round(len(groups) * shares.test), len(groups) - 2))
        validation = max(1, min(round(len(groups) * shares.validation), len(groups) - test - 1))
        cuts = {
            "test": groups[:test],
            "validation": groups[test : test + validation],
            "train": groups[test + validation :],
        }
        for split in SPLITS:
            assigned[split] += [member for group in cuts[split] for member in group]
    return {split: sorted(members, key=rank.__getitem__) for split, members in assigned.items()}


def _write_split(
    folder: Path, images_NHWC: NDArray[np.uint8], rows: NDArray[np.int64], labels_N: NDArray[np.int64]
) -> None:
    folder.mkdir()
    target = open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=(len(rows), *images_NHWC.shape[1:]))
    for position, row in enumerate(rows):
        target[position] = images_NHWC[row]
    target.flush()
    np.save(folder / "labels.npy", labels_N)


def _counts(labels_N: NDArray[np.int64], classes: Sequence[str]) -> dict[str, int]:
    return dict(zip(classes, np.bincount(labels_N, minlength=len(classes)).tolist(), strict=True))


def _digest(image_HWC: NDArray[np.uint8], label: str) -> str:
    """Digest what a model sees of an image: its shape, its prepared pixels, and what it is called."""
    header = f"{image_HWC.shape}:{label}:".encode()
    return hashlib.sha256(header + image_HWC.tobytes()).hexdigest()


def _digest_of(digests: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()
