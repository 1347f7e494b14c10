"""One folder for each class, with or without folders for the splits above them."""

import hashlib
from collections.abc import Iterator
from itertools import chain

from steelyard.data.decode import TIFF, decode_sized, one_at_a_time, pages
from steelyard.data.files import Entry, Files, RemoteFiles, printable
from steelyard.data.item import SPLIT_NAMES, Item, Listing, Sample, Shape, Source
from steelyard.errors import SourceError, UnreadableImage

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k"),
)


class EncodedFiles(Source):
    """What sources have in common whose items are one encoded image each."""

    parallel = threads = True

    def __init__(self, files: Files) -> None:
        self.files = files
        self.remote = isinstance(files, RemoteFiles)

    def load(self, item: Item, shape: Shape) -> Sample:
        """Decode one file."""
        data = self.files.read(item.path)
        if item.path.lower().endswith(TIFF) and (found := len(pages(data))) > 1:
            raise UnreadableImage(f"has {found} pages, where a file is one image")
        with one_at_a_time() as if_large:
            return Sample(*decode_sized(data, shape, if_large=if_large)[:3])


class ClassFolders(EncodedFiles):
    """`CLASS/.../file`, or `train/CLASS/.../file` where all folders at the top that hold files are named as splits are.

    Images beside the class folders belong to no class, and are listed as such; other files there are left alone.
    """

    def items(self) -> Iterator[Item]:
        """Yield every file below the class folders, and every image beside them with that problem."""
        return chain.from_iterable(listing.items for listing in self.listings())

    def listings(self) -> Iterator[Listing]:
        """Yield the items of each folder; they are the same where its files are, and the names at the top."""
        splits = _splits(self.files)
        empty, astray = True, 0
        for together in self.files.walk():
            below = together[0].path.count("/") > bool(splits)
            empty &= not below and not any(entry.problem for entry in together)
            entries = together if below else list(_astray(together))
            astray += 0 if below else len(entries)
            if entries:
                yield Listing(signature_of(splits, entries), _items(splits, entries))
        if empty:
            holds = f"has {astray} {'image' if astray == 1 else 'images'} in no folder" if astray else "is empty"
            raise SourceError(
                f"data.source: {self.files.address!r} {holds}: it needs one folder per class, with images in it"
            )


def signature_of(splits: dict[str, str], entries: list[Entry]) -> str:
    """Return what is the same for the same files in the same state, and for no others."""
    words = "\0".join(chain(*splits.items(), *entries))
    return hashlib.sha256(words.encode("utf-8", "surrogateescape")).hexdigest()


def _items(splits: dict[str, str], entries: list[Entry]) -> Iterator[Item]:
    top = bool(splits)
    for path, version, problem in entries:
        names = path.split("/", 2)
        label = printable(names[top]) if len(names) > top else ""
        yield Item(path=path, version=version, label=label, split=splits.get(names[0], ""), problem=problem)


def _astray(entries: list[Entry]) -> Iterator[Entry]:
    """Yield the images among files beside the class folders, and what can't be read there."""
    for entry in entries:
        if entry.problem:
            yield entry
        elif entry.path.lower().endswith(IMAGE_SUFFIXES):
            yield entry._replace(problem="lies in no class folder")


def _splits(files: Files) -> dict[str, str]:
    """Return the splits by the names of their folders; nothing where the folders at the top are classes."""
    tops = set(files.folders())
    given = {name: SPLIT_NAMES[name.lower()] for name in tops if name.lower() in SPLIT_NAMES}
    if (len(given) < 2 and len(tops) > 1) or "train" not in given.values():  # a train may be a class, among others
        return {}
    if others := sorted(name for name in tops - given.keys() if any(files.below(name).walk())):
        raise SourceError(
            f"data.source: {files.address!r} has folders for splits, {', '.join(sorted(given))}, and beside them "
            f"{', '.join(map(printable, others))}; move either elsewhere"
        )
    return given
