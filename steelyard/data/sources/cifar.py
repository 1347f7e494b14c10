"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in the Python layout that torchvision reads, whole or a part of them."""

import hashlib
import pickle
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from steelyard.artifact import new_folder
from steelyard.data.decode import resize
from steelyard.data.files import Files
from steelyard.data.item import Item, Sample, Shape, Source
from steelyard.errors import SourceError
from steelyard.progress import Progress

SIDE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    folder: str
    files: dict[str, tuple[str, ...]]  # by split
    labels: str
    names: tuple[str, str]  # file and key of the classes' names
    archive: str
    md5: str


LAYOUTS = {
    "cifar10": _Layout(
        folder="cifar-10-batches-py",
        files={"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
        labels="labels",
        names=("batches.meta", "label_names"),
        archive="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
    ),
    "cifar100": _Layout(
        folder="cifar-100-python",
        files={"train": ("train",), "test": ("test",)},
        labels="fine_labels",
        names=("meta", "fine_label_names"),
        archive="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
    ),
}


class Cifar(Source):
    """Pickles of arrays; nothing but what they hold is admitted when they are read."""

    parallel = remote = threads = False  # the pixels are there as they are

    def __init__(self, name: str, files: Files) -> None:
        self.name, self.files, self.layout = name, files, LAYOUTS[name]
        self._open: tuple[str, NDArray[np.uint8]] = ("", np.empty((0, SIDE, SIDE, 3), np.uint8))

    def items(self) -> Iterator[Item]:
        """Yield every image of the files that are there; the training images and those of the test are kept apart."""
        there = {}
        for entry in chain.from_iterable(self.files.walk()):
            folder, _, name = entry.path.rpartition("/")
            if folder in ("", self.layout.folder):
                there[name] = entry
        names_file = self.layout.names[0]
        if names_file not in there or not any(part in there for part in self.layout.files["train"]):
            raise SourceError(
                f"data.root: {self.files.address!r} holds no {self.layout.folder} with {names_file} and "
                f"{self.layout.files['train'][0]}"
            )
        names = self._names(there[names_file].path)
        for split, parts in self.layout.files.items():
            for entry in (there[part] for part in parts if part in there):
                for row, label in enumerate(self._labels(entry.path, len(names))):
                    yield Item(path=entry.path, version=entry.version, part=row, label=names[label], split=split)

    def load(self, item: Item, shape: Shape) -> Sample:
        """Return one image, resized."""
        if self._open[0] != item.path:
            self._open = ("", self._open[1][:0])  # let go of one file before the next is read
            self._open = (item.path, self._pixels(item.path))
        return Sample(resize(self._open[1][item.part], shape), width=SIDE, height=SIDE)

    def _names(self, path: str) -> list[str]:
        with self._content(path) as content:
            return [str(name) for name in content[self.layout.names[1]]]

    def _labels(self, path: str, classes: int) -> list[int]:
        with self._content(path) as content:
            labels = [int(label) for label in content[self.layout.labels]]
            if len(labels) != len(content["data"]) or not all(0 <= label < classes for label in labels):
                raise ValueError("it does not have a label with a name for each image")
            return labels

    def _pixels(self, path: str) -> NDArray[np.uint8]:
        with self._content(path) as content:
            data = content["data"]
            if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3 * SIDE**2,):
                raise ValueError("it holds no uint8 images of 3 x 32 x 32")
            return data.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)

    @contextmanager
    def _content(self, path: str) -> Iterator[dict[str, Any]]:
        """Yield what a file holds; what it is found not to hold is the file's fault."""
        with self.files.open(path) as stream:
            try:
                content = _Restricted(stream, encoding="bytes").load()
                yield {_text(key): _texts(value) for key, value in content.items()}
            except (
                pickle.UnpicklingError,
                ArithmeticError,
                AttributeError,
                EOFError,
                ImportError,
                LookupError,
                MemoryError,
                TypeError,
                ValueError,
            ) as error:
                said = " ".join(str(error).split())
                raise SourceError(f"data.root: {path}: is not a file of {self.name}: {said}") from None


class _Restricted(pickle.Unpickler):
    """Admits numpy arrays and what Python itself pickles without a name."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            from numpy._core.multiarray import _reconstruct

            return _reconstruct
        if name == "_frombuffer" and module in ("numpy.core.numeric", "numpy._core.numeric"):
            from numpy._core.numeric import _frombuffer  # type: ignore[attr-defined]

            return _frombuffer
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return str.encode
        raise pickle.UnpicklingError(f"{module}.{name} is not admitted")


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _texts(value: Any) -> Any:
    return [_text(one) for one in value] if isinstance(value, list) and isinstance((value or [0])[0], bytes) else value


def downloaded(name: str) -> str:
    """Return the folder of a data set in the user's cache; fetch it where there is a network.

    Raises:
        SourceError: it is not there and can't be fetched.
    """
    layout, folder = LAYOUTS[name], Path("~/.cache/steelyard").expanduser() / name
    if not folder.exists():
        with TemporaryDirectory() as temporary:
            archive = Path(temporary) / "archive.tar.gz"
            try:
                with urllib.request.urlopen(layout.archive, timeout=30) as response, archive.open("wb") as target:
                    md5 = _copy(response, target, int(response.headers["Content-Length"]), name)
            except (urllib.error.URLError, OSError, TypeError) as error:
                raise SourceError(
                    f"data.source: {name} can't be downloaded ({error}); give data.root: a folder with {layout.folder}"
                ) from None
            if md5 != layout.md5:
                raise SourceError(f"data.source: what {layout.archive} sent is damaged or was changed")
            with new_folder(folder) as partial, tarfile.open(archive) as packed:
                packed.extractall(partial, filter="data")
    return str(folder)


def _copy(source: Any, target: IO[bytes], total: int, name: str) -> str:
    digest, progress = hashlib.md5(usedforsecurity=False), Progress(f"downloading {name}", total, "bytes")
    while chunk := source.read(1 << 20):
        digest.update(chunk)
        target.write(chunk)
        progress.advance(len(chunk))
    return digest.hexdigest()
