"""Dataset: prepared images in their splits, with digests that say exactly which they are."""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from steelyard.artifact import Index, Record

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class DatasetRef(Record):
    """Which data: enough to tell whether two artifacts speak of the same images."""

    content_digest: str
    split_digest: str


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
    counts: dict[Split, dict[str, int]]
    quarantined: tuple[Quarantined, ...] = ()


class Dataset:
    """A folder with `dataset.json` and, for each split, `images.npy` and `labels.npy`."""

    def __init__(self, folder: Path) -> None:
        """Open a dataset.

        Raises:
            ArtifactError: the folder is no dataset of a version known here.
        """
        self.folder = folder
        self.index = DatasetIndex.read(folder / "dataset.json")

    @property
    def ref(self) -> DatasetRef:
        """Its digests."""
        return DatasetRef(content_digest=self.index.content_digest, split_digest=self.index.split_digest)

    def images_NHWC(self, split: Split) -> NDArray[np.uint8]:
        """Return the images of a split, mapped into memory rather than read."""
        images: NDArray[np.uint8] = np.load(self.folder / split / "images.npy", mmap_mode="r", allow_pickle=False)
        return images

    def labels_N(self, split: Split) -> NDArray[np.int64]:
        """Return the labels of a split, as indices into the classes."""
        labels: NDArray[np.int64] = np.load(self.folder / split / "labels.npy", allow_pickle=False)
        return labels
