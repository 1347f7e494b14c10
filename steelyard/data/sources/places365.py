"""Places365 (Zhou et al. 2017) in torchvision's layout: lists of files beside the folders of images."""

import io
from collections.abc import Callable, Iterator

from steelyard.data.files import Entry
from steelyard.data.item import Item
from steelyard.data.sources.folders import EncodedFiles
from steelyard.errors import SourceError

LISTS = {"places365_train_standard.txt": "train", "places365_val.txt": "validation"}
FOLDERS = {"train": ("data_256_standard", "data_large_standard"), "validation": ("val_256", "val_large")}


class Places365(EncodedFiles):
    """`categories_places365.txt`, the lists of both splits, and the images in small or large size."""

    def items(self) -> Iterator[Item]:
        """Yield every line of the lists that has its image; its validation images stay validation images."""
        names = {number: name for name, number in self._lines("categories_places365.txt")}
        empty = True
        with self.files.entries() as entry:
            for file, split in LISTS.items():
                folder = ""
                for listed, number in self._lines(file):
                    path, empty = listed.lstrip("/"), False
                    folder = folder or _folder(split, path, entry)
                    there = entry(f"{folder or FOLDERS[split][0]}/{path}")
                    yield Item(
                        path=there.path,
                        version=there.version,
                        label=_class(names[number]) if number in names else "",
                        split=split,
                        problem=there.problem or ("" if number in names else f"its category {number} has no name"),
                    )
        if empty:
            raise SourceError(f"data.root: the lists of Places365 in {self.files.address!r} are empty")

    def _lines(self, name: str) -> Iterator[tuple[str, str]]:
        try:
            with self.files.open(name) as stream:
                for line in io.TextIOWrapper(stream, encoding="utf-8"):
                    path, _, number = line.strip().rpartition(" ")
                    if path:
                        yield path, number
        except (SourceError, UnicodeDecodeError):
            raise SourceError(f"data.root: {self.files.address!r} holds no {name}, as torchvision has it") from None


def _folder(split: str, path: str, entry: Callable[[str], Entry]) -> str:
    """Return in which of the two sizes an image is there, "" where in none; the small one where it is in both."""
    return next((folder for folder in FOLDERS[split] if entry(f"{folder}/{path}").version), "")


def _class(name: str) -> str:
    """'/a/apartment_building/outdoor' -> 'apartment_building/outdoor'."""
    return name.split("/", 2)[-1] if name.startswith("/") else name
