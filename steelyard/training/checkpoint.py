"""Checkpoints: where a training stood, in a folder or an object store, whole or not there at all."""

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from steelyard.artifact import Index
from steelyard.bundle import Epoch
from steelyard.errors import ArtifactError, SourceError, StoreError
from steelyard.store import ObjectStore, is_remote, needed, patiently

log = logging.getLogger(__name__)

KEPT = 2


class CheckpointIndex(Index):
    """STEP.json, written after the STEP.safetensors that it speaks of."""

    step: int
    history: tuple[Epoch, ...]
    micro_batch: int
    batches: int  # this and the rest: of the epoch behind those in the history
    images: int
    loss: float
    hits: float
    counted: float
    weight: float
    learning_seconds: float


class Checkpoints:
    """The checkpoints of one training."""

    def __init__(self, address: str, store: ObjectStore | None = None) -> None:
        """Name the place.

        Args:
            address: a folder or an s3:// address, of this run key alone.
            store: where s3:// is.
        """
        self._place: _Place = _Prefix(address, needed(store, address)) if is_remote(address) else _Folder(address)

    def save(self, index: CheckpointIndex, tensors: dict[str, Tensor]) -> None:
        """Write a checkpoint, and remove all but it and the last before, KEPT in all.

        Raises:
            StoreError: the disk is full, or the object store does not answer; those before are whole.
        """
        name = f"{index.step:010d}"
        try:
            with self._place.writing() as folder:
                on_cpu = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
                save_file(on_cpu, folder / f"{name}.safetensors")
                index.write(folder / f"{name}.json")
                for suffix in (".safetensors", ".json"):
                    self._place.put(folder / f"{name}{suffix}")
        except (OSError, SafetensorError) as error:
            raise StoreError(f"{self._place}: a checkpoint can't be written: {error}") from None
        names = self._place.names()
        before, behind = [one for one in names if one < name], [one for one in names if one > name]
        for other in (*before[: 1 - KEPT], *behind):  # what lies behind could not be read
            self._remove(other)

    def latest(self) -> tuple[CheckpointIndex, dict[str, Tensor]] | None:
        """Return the last whole checkpoint; None if there is none.

        Raises:
            StoreError: the object store or the disk does not let it be read.
        """
        for name in reversed(self._place.names()):
            with tempfile.TemporaryDirectory() as temporary:
                try:
                    index = CheckpointIndex.read(self._place.fetch(f"{name}.json", Path(temporary)))
                    return index, load_file(self._place.fetch(f"{name}.safetensors", Path(temporary)))
                except (ArtifactError, SourceError, FileNotFoundError, SafetensorError) as error:
                    log.warning("%s: checkpoint %s is damaged, taking the one before: %s", self._place, name, error)
                except OSError as error:  # which may pass, and those behind the next that is saved are removed
                    raise StoreError(f"{self._place}: checkpoint {name} can't be read: {error}") from None
        return None

    def clear(self) -> None:
        """Remove all of them."""
        for name in self._place.names():
            self._remove(name)
        self._place.vanish()

    def _remove(self, name: str) -> None:
        for suffix in (".json", ".safetensors"):
            self._place.remove(f"{name}{suffix}")


class _Place(Protocol):
    def writing(self) -> contextlib.AbstractContextManager[Path]:
        """Yield a folder to write files in, before they are put."""

    def put(self, file: Path) -> None: ...

    def names(self) -> list[str]:
        """Return the names of all indexes, without their suffix, in the order of their steps."""

    def fetch(self, name: str, folder: Path) -> Path:
        """Return a file of that name, in `folder` if it was far away."""

    def remove(self, name: str) -> None: ...

    def vanish(self) -> None:
        """Remove what is left when all checkpoints are removed."""


class _Folder:
    def __init__(self, address: str) -> None:
        self._folder = Path(address)

    def __str__(self) -> str:
        return str(self._folder)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Path]:
        partial = self._folder / f".partial-{os.getpid()}"
        try:
            partial.mkdir(parents=True, exist_ok=True)
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def put(self, file: Path) -> None:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())  # else a machine that goes down may leave the name without the bytes
        file.rename(self._folder / file.name)

    def names(self) -> list[str]:
        return sorted(file.stem for file in self._folder.glob("*.json"))

    def fetch(self, name: str, folder: Path) -> Path:
        return self._folder / name

    def remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    def vanish(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)  # also what a killed process had not finished


class _Prefix:
    def __init__(self, address: str, store: ObjectStore) -> None:
        self._address, self._store = address, store

    def __str__(self) -> str:
        return self._address

    @contextlib.contextmanager
    def writing(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)

    def put(self, file: Path) -> None:
        patiently(lambda: self._store.upload(file, f"{self._address}/{file.name}"))

    def names(self) -> list[str]:
        found = patiently(lambda: list(self._store.walk(self._address)))
        return sorted(Path(name).stem for name, _ in found if name.endswith(".json"))

    def fetch(self, name: str, folder: Path) -> Path:
        def copy() -> None:
            with self._store.stream(f"{self._address}/{name}") as stream, (folder / name).open("wb") as file:
                shutil.copyfileobj(stream, file)

        patiently(copy)
        return folder / name

    def remove(self, name: str) -> None:
        patiently(lambda: self._store.remove(f"{self._address}/{name}"))

    def vanish(self) -> None:
        for name, _ in patiently(lambda: list(self._store.walk(self._address))):
            self.remove(name)
