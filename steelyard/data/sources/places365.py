"""Places365 (Zhou et al. 2017) in torchvision's layout: lists of files beside the folders of images."""

import contextlib
import io
from collections.abc import Iterator

from steelyard.data.item import Item
from steelyard.data.sources.folders import EncodedFiles
from steelyard.errors import SourceError, UnreadableImage

LISTS = {"places365_train_standard.txt": "train", "places365_val.txt": "validation"}
FOLDERS = {"train": ("data_256_standard", "data_large_standard"), "validation": ("val_256", "val_large")}


class Places365(EncodedFiles):
    """`categories_places365.txt`, the lists of both splits, and the images in small or large size."""

    def items(self) -> Iterator[Item]:
        """Yield every line of the lists that has its image; its validation images stay validation images."""
        names = {number: name for name, number in self._lines("categories_places365.txt")}
        empty = True
        for file, split in LISTS.items():
            folder: str | None = None
            for listed, number in self._lines(file):
                path = listed.lstrip("/")
                folder = folder or self._folder(split, path)
                entry = self.files.entry(f"{folder or FOLDERS[split][0]}/{path}")
                empty = False
                yield Item(
                    path=entry.path,
                    version=entry.version,
                    label=_class(names[number]) if number in names else "",
                    split=split,
                    problem=entry.problem or ("" if number in names else f"its category {number} has no name"),
                )
        if empty:
            raise SourceError(f"data.root: the lists of Places365 in {self.files.address!r} are empty")

    def _folder(self, split: str, path: str) -> str | None:
        """Return in which of the two sizes an image is there; the small one where it is in both."""
        for folder in FOLDERS[split]:
            with contextlib.suppress(UnreadableImage):
                self.files.read(f"{folder}/{path}")
                return folder
        return None

    def _lines(self, name: str) -> Iterator[tuple[str, str]]:
        try:
            with self.files.open(name) as stream:
                for line in io.TextIOWrapper(stream, encoding="utf-8"):
                    path, _, number = line.strip().rpartition(" ")
                    if path:
                        yield path, number
        except (SourceError, UnicodeDecodeError):
            raise SourceError(f"data.root: {self.files.address!r} holds no {name}, as torchvision has it") from None


def _class(name: str) -> str:
    """'/a/apartment_building/outdoor' -> 'apartment_building/outdoor'."""
    return name.split("/", 2)[-1] if name.startswith("/") else name
