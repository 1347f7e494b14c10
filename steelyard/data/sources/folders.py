"""One folder for each class, with or without folders for the splits above them."""

from collections.abc import Iterator

from steelyard.data.decode import decode_sized
from steelyard.data.files import Entry, Files, RemoteFiles, printable
from steelyard.data.item import SPLIT_NAMES, Item, Sample, Shape
from steelyard.errors import SourceError


class EncodedFiles:
    """What sources have in common whose items are one encoded image each."""

    parallel, repeats = True, False

    def __init__(self, files: Files) -> None:
        self.files = files
        self.remote = isinstance(files, RemoteFiles)

    def load(self, item: Item, shape: Shape) -> Sample:
        """Decode one file."""
        return Sample(*decode_sized(self.files.read(item.path), shape))


class ClassFolders(EncodedFiles):
    """`CLASS/.../file`, or `train/CLASS/.../file` where all folders at the top are named as splits are."""

    def items(self) -> Iterator[Item]:
        """Yield every file below the class folders; files beside them belong to no class and are left alone."""
        splits = _splits(self.files)
        empty = True
        for entry in self.files.walk():
            folders = entry.path.split("/")[:-1] if not entry.problem else entry.path.split("/")
            below = folders[bool(splits) :]
            if below or entry.problem:
                empty = False
                yield _item(entry, below[0] if below else "", splits.get(folders[0], ""))
        if empty:
            raise SourceError(
                f"data.source: {self.files.address!r} is empty: it needs one folder per class, with images in it"
            )


def _item(entry: Entry, label: str, split: str) -> Item:
    return Item(path=entry.path, version=entry.version, problem=entry.problem, label=printable(label), split=split)


def _splits(files: Files) -> dict[str, str]:
    """Return the splits by the names of their folders; nothing where the folders at the top are classes."""
    tops = set(files.folders())
    given = {name: SPLIT_NAMES[name.lower()] for name in tops if name.lower() in SPLIT_NAMES}
    return given if len(given) == len(tops) > 1 and "train" in given.values() else {}
