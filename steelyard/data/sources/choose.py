"""params.yaml's data -> the source it names."""

from pathlib import PurePosixPath

from steelyard.data.files import files_at
from steelyard.data.item import Source
from steelyard.params import Data
from steelyard.store import ObjectStore

MANIFEST_SUFFIXES = (".csv", ".jsonl", ".ndjson")


def open_source(data: Data, store: ObjectStore | None = None) -> Source:
    """Return the source of the images.

    Args:
        data: `source` is `digits`; or `cifar10`, `cifar100` or `places365`, with their files below `root`; or the
            address of a CSV or JSON-lines manifest; or that of a folder: one folder for each class or, where `masks`
            says how to read them, `images` and `masks`. Addresses are local paths or s3://.
        store: for s3:// addresses.

    Raises:
        SourceError: there is no such folder.
    """
    if data.source == "digits":
        from steelyard.data.sources.digits import Digits

        return Digits()
    if data.source in ("cifar10", "cifar100"):
        from steelyard.data.sources.cifar import Cifar, downloaded

        return Cifar(data.source, files_at(data.root or downloaded(data.source), store, "data.root"))
    if data.source == "places365":
        from steelyard.data.sources.places365 import Places365

        return Places365(files_at(data.root or ".", store, "data.root"))
    if data.source.endswith(MANIFEST_SUFFIXES):
        from steelyard.data.sources.manifest import Manifest

        folder, name = _parent(data.source)
        return Manifest(files_at(folder, store), name)
    if data.masks is not None:
        from steelyard.data.sources.segmentation import Pairs

        return Pairs(files_at(data.source, store), data.masks, data.tiles)
    from steelyard.data.sources.folders import ClassFolders

    return ClassFolders(files_at(data.source, store))


def _parent(address: str) -> tuple[str, str]:
    scheme, mark, path = address.rpartition("://")
    folder = PurePosixPath(path).parent
    return f"{scheme}{mark}{folder}", PurePosixPath(path).name
