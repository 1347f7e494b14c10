"""Where images come from: each source lists its items; nothing is decoded until an item is read."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from steelyard.data.decode import decode, resize
from steelyard.errors import SourceError, UnreadableImage

Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled image; `read(shape)` returns it as uint8 HWC or raises UnreadableImage."""

    path: str
    label: str
    read: Callable[[Shape], NDArray[np.uint8]]


def list_items(source: str) -> list[Item]:
    """Return the items of a source.

    Args:
        source: `digits`, or a local folder that holds one folder per class.

    Raises:
        SourceError: it is missing or holds no images.
    """
    if source == "digits":
        return list(_digits())
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise SourceError(f"data.source: {source!r} is neither 'digits' nor an existing folder")
    items = list(_class_folders(folder))
    if not items:
        raise SourceError(f"data.source: {source!r} is empty: it needs one folder per class, with images in it")
    return items


def check_classes(labels: Iterable[str], least: int) -> list[str]:
    """Return the classes, sorted.

    Args:
        labels: one for each image.
        least: how many images a class needs.

    Raises:
        SourceError: there is but one class, or one has too few images.
    """
    counts = Counter(labels)
    if len(counts) < 2:
        raise SourceError("data.source: holds one class only; there is nothing to tell apart")
    label, fewest = min(counts.items(), key=lambda entry: entry[1])
    if fewest < least:
        raise SourceError(
            f"data.source: class {label!r} has {fewest} distinct image(s); train, validation and test need one each"
        )
    return sorted(counts)


def _digits() -> Iterator[Item]:
    """The 1,797 handwritten digits of 8x8 pixels that ship with scikit-learn (UCI, Alpaydin & Kaynak 1998)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images_NHWC = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    for number, (image_HWC, label) in enumerate(zip(images_NHWC, bunch.target, strict=True)):
        yield Item(f"digits/{number}", str(label), partial(resize, image_HWC))


def _class_folders(folder: Path) -> Iterator[Item]:
    for class_folder in sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."):
        for file in sorted(class_folder.rglob("*")):
            if file.is_file() and not file.name.startswith("."):
                yield Item(str(file.relative_to(folder)), class_folder.name, _FileReader(file))


@dataclass(frozen=True, slots=True)
class _FileReader:
    file: Path

    def __call__(self, shape: Shape) -> NDArray[np.uint8]:
        try:
            return decode(self.file.read_bytes(), shape)
        except OSError as error:
            raise UnreadableImage(str(error.strerror)) from None
