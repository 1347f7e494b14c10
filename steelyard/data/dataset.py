"""Dataset: prepared images in their splits, with digests that say exactly which they are."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from steelyard.artifact import Index, Record
from steelyard.data.shards import read_shards
from steelyard.errors import ArtifactError
from steelyard.store import ObjectStore, needed

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
PIXELS = ("images.npy", "masks.npy")  # a row for each image, which shards take the place of
KNOWN = ("thumbs.npy", "facts.npy", "items.npy", "counts.npy")  # what is known of each row


class DatasetRef(Record):
    """Which data: enough to tell whether two artifacts speak of the same images."""

    content_digest: str
    split_digest: str
    evaluation_digest: str = ""

    @property
    def evaluated_on(self) -> str:
        """What two Scorecards must agree in to be compared."""
        return self.evaluation_digest or f"{self.content_digest} {self.split_digest}"


class Quarantined(Record):
    """A file that could not be used."""

    path: str
    reason: str


class DatasetIndex(Index):
    """dataset.json."""

    task: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    source: str
    content_digest: str
    split_digest: str
    evaluation_digest: str
    images: dict[Split, int]
    counts: dict[Split, dict[str, int]]  # images of each class; of masks: pixels
    quarantined: tuple[Quarantined, ...] = ()
    groups: int = 0  # none of which straddles splits
    duplicates: int = 0  # images equal to another
    conflicting_labels: int = 0  # distinct images that come under several labels, or with several masks
    near_duplicates: int = 0  # images with one like them in a stricter split
    near_removed: bool = False
    warnings: tuple[str, ...] = ()
    layout: Literal["arrays", "shards"] = "arrays"
    shards: dict[Split, tuple[str, ...]] = Field(default_factory=dict)
    shards_at: str = ""  # where they are; "" is beside this file


class Dataset:
    """A folder with `dataset.json`, and the images as one memory-mapped array or as shards to be streamed.

    Arrays: `images.npy`, for each split `rows.npy` that says which of them belong to it, and `labels.npy`; or
    `masks.npy` beside the images. Shards: in each split's folder, or in an object store.
    """

    def __init__(self, folder: Path, store: ObjectStore | None = None) -> None:
        """Open a dataset.

        Args:
            folder: what `prepare` wrote.
            store: from which shards are streamed that lie there.

        Raises:
            ArtifactError: the folder is no dataset of a version known here.
        """
        self.folder, self._store = folder, store
        self.index = DatasetIndex.read(folder / "dataset.json")

    @property
    def ref(self) -> DatasetRef:
        """Its digests."""
        return DatasetRef(
            content_digest=self.index.content_digest,
            split_digest=self.index.split_digest,
            evaluation_digest=self.index.evaluation_digest,
        )

    @property
    def card(self) -> Path:
        """The data card, a page that opens offline."""
        return self.folder / "card.html"

    def labels_N(self, split: Split) -> NDArray[np.int64]:
        """Return the labels of a split, as indices into the classes, in the order of unshuffled batches."""
        labels: NDArray[np.int64] = np.load(self.folder / split / "labels.npy", allow_pickle=False)
        return labels

    def batches(
        self, split: Split, size: int, shuffle: np.random.Generator | None = None
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[Any]]]:
        """Yield images (N, H, W, C) with their labels (N,) or masks (N, H, W), `size` of them at a time.

        Args:
            split: which.
            size: of a batch; the last may be smaller.
            shuffle: draws the order anew.

        Raises:
            StoreError: the object store does not answer.
            ArtifactError: shards hold less than they should.
        """
        if self.index.layout == "shards":
            yield from self._streamed(split, size, shuffle)
            return
        images_NHWC, rows_N = self._array("images.npy"), np.load(self.folder / split / "rows.npy")
        masks_NHW = self._array("masks.npy") if self.index.task == "segmentation" else None
        labels_N = None if masks_NHW is not None else self.labels_N(split)
        order_N = np.arange(len(rows_N)) if shuffle is None else shuffle.permutation(len(rows_N))
        for start in range(0, len(order_N), size):
            chosen_N = order_N[start : start + size]
            rows = rows_N[chosen_N]
            truths = masks_NHW[rows] if masks_NHW is not None else labels_N[chosen_N]  # type: ignore[index]
            yield images_NHWC[rows], truths

    def head(self, split: Split, images: int | None = None) -> NDArray[np.uint8]:
        """Return the first images of a split, as an array in memory; all of them without a number."""
        wanted = min(self.index.images[split], images if images is not None else sys.maxsize)
        if not wanted:
            return np.empty((0, *self.index.image_shape), np.uint8)
        taken: list[NDArray[np.uint8]] = []
        for batch_NHWC, _ in self.batches(split, min(wanted, 1024)):
            taken.append(batch_NHWC)
            if sum(map(len, taken)) >= wanted:
                break
        return np.concatenate(taken)[:wanted]

    def shard(self, split: Split) -> Callable[[str], AbstractContextManager[IO[bytes]]]:
        """Return what opens a split's shards."""
        if not self.index.shards_at:
            return lambda name: (self.folder / split / name).open("rb")
        address = f"{self.index.shards_at}/{split}"
        return lambda name: needed(self._store, address).stream(f"{address}/{name}")

    def _array(self, name: str) -> NDArray[np.uint8]:
        array: NDArray[np.uint8] = np.load(self.folder / name, mmap_mode="r", allow_pickle=False)
        return array

    def _streamed(
        self, split: Split, size: int, shuffle: np.random.Generator | None
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[Any]]]:
        seed = None if shuffle is None else int(shuffle.integers(2**31))
        samples = read_shards(self.index.shards[split], self.shard(split), seed)
        lacking = self.index.images[split]
        while batch := list(islice(samples, size)):
            lacking -= len(batch)
            yield np.stack([one.image_HWC for one in batch]), np.array([one.truth for one in batch])
        if lacking:
            raise ArtifactError(f"{self.folder}: {lacking} images of {split} are not in its shards: prepare it again")
