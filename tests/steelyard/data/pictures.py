"""Images on disk for the tests of preparation, and what became of them."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from steelyard.data.catalog import Catalog
from steelyard.data.dataset import SPLITS, Dataset
from steelyard.data.prepare import prepare
from steelyard.data.shards import read_shards
from steelyard.params import Data
from steelyard.store import ObjectStore

REAL = os.environ.get("STEELYARD_TEST_DATA", "")
needs_real_data = pytest.mark.skipif(not REAL, reason="STEELYARD_TEST_DATA names no folder with real images")

SIDE = 8
TASKS = {False: "classification", True: "segmentation"}


def noise(seed: int, height: int = SIDE, width: int = SIDE) -> NDArray[np.uint8]:
    """Return pixels that no other seed gives."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def smooth(seed: int, side: int = 64) -> Image.Image:
    """Return an image that survives compression and scaling, as photographs do."""
    return Image.fromarray(noise(seed, 6, 6)).resize((side, side), Image.Resampling.BICUBIC)


def save(file: Path, pixels: NDArray[np.generic] | Image.Image, **options: Any) -> Path:
    """Write an image in the format that its suffix names, in a folder that is made where it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, **options)
    return file


def class_folders(folder: Path, per_class: int = 12, first: int = 0) -> Path:
    """Write `cat` and `dog` with distinct images, counted from `first`."""
    for number in range(first, first + per_class):
        save(folder / "cat" / f"{number}.png", noise(2 * number))
        save(folder / "dog" / f"{number}.png", noise(2 * number + 1))
    return folder


def prepared(
    source: Path | str, target: Path, store: ObjectStore | None = None, workers: int | None = None, **changes: object
) -> Dataset:
    """Prepare a source in its own size, with other settings where they are given."""
    data = Data.model_validate({"source": str(source), "image_size": SIDE, **changes})
    return prepare(data, TASKS[data.masks is not None], target, store, workers)


class Row(NamedTuple):
    """What became of one item."""

    path: str
    part: int
    label: str
    split: str | None
    problem: str | None
    row: int | None  # of images.npy


def rows(dataset: Dataset) -> list[Row]:
    """Return what became of each item that was listed, by path, part and label."""
    catalog = Catalog(dataset.folder / "catalog.sqlite")
    dealt = _dealt(dataset)
    try:
        found = catalog.sql("SELECT path, part, label, problem, row FROM listed ORDER BY path, part, label")
        return [
            Row(path.decode("utf-8", "surrogateescape"), part, label, dealt.get(row), problem, row)
            for path, part, label, problem, row in found
        ]
    finally:
        catalog.close()


def _dealt(dataset: Dataset) -> dict[int, str]:
    """Return the split of each row that is in one."""
    if dataset.index.layout == "arrays":
        return {row: split for split in SPLITS for row in np.load(dataset.folder / split / "rows.npy").tolist()}
    shards = dataset.index.shards
    return {one.row: split for split in SPLITS for one in read_shards(shards[split], dataset.shard(split))}


def splits(dataset: Dataset) -> dict[str, str | None]:
    """Return the split of each path."""
    return {row.path: row.split for row in rows(dataset)}


def reasons(dataset: Dataset) -> dict[str, str]:
    """Return why each quarantined item was."""
    return {one.path: one.reason for one in dataset.index.quarantined}


def digests(dataset: Dataset) -> tuple[str, str]:
    """Return what tells whether two datasets are the same."""
    return dataset.index.content_digest, dataset.index.split_digest


def labelled(dataset: Dataset, split: str | None = None) -> dict[bytes, str]:
    """Return the class of each image, by its pixels."""
    return {
        image_HWC.tobytes(): dataset.index.classes[label]
        for one in SPLITS
        if split in (None, one)
        for images_NHWC, labels_N in dataset.batches(one, 64)
        for image_HWC, label in zip(images_NHWC, labels_N, strict=True)
    }
