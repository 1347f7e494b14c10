"""The folder in which a dataset grows: kept when the work is cut off, begun from the result of an earlier time."""

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.artifact import link_or_copy
from steelyard.data.catalog import Catalog, settings_of
from steelyard.data.dataset import KNOWN, PIXELS, SPLITS, Dataset
from steelyard.data.images import digests
from steelyard.data.pixels import Rows
from steelyard.data.shards import read_shards
from steelyard.data.workers import Pixels
from steelyard.errors import ArtifactError, InputError, SourceError
from steelyard.store import ObjectStore

log = logging.getLogger(__name__)

CATALOG = "catalog.sqlite"
WAIT_S = 5.0  # for the processes of a run that was killed


@contextmanager
def workspace(folder: Path, settings: str, store: ObjectStore | None) -> Iterator[tuple[Path, Catalog]]:
    """Yield a folder and its catalog; the folder takes the place of `folder` once the block has ended well.

    It begins with what an interrupted run left behind, or else with the pixels of `folder` as it is, where either was
    made with the same settings. What was decoded survives an error, too.

    Raises:
        InputError: another process prepares the same folder.
    """
    folder = folder.resolve()
    partial = folder.with_name(f".{folder.name}.partial")
    lock = _locked(partial, folder)
    try:
        if settings_of(partial / CATALOG) != settings or not (partial / "images.npy").exists():
            _empty(partial)
            if settings_of(folder / CATALOG) == settings:
                try:
                    _begin_with(partial, Dataset(folder, store))
                except (ArtifactError, SourceError) as error:
                    log.warning("%s: can't be built upon, decoding all anew: %s", folder, error)
                    _empty(partial)
        catalog = Catalog(partial / CATALOG)
        catalog.state("settings", settings)
        try:
            yield partial, catalog
        except BaseException:
            if not catalog.census().next_row:
                _empty(partial)
                partial.rmdir()
            raise
        finally:
            catalog.close()
        _replace(folder, partial)
    finally:
        os.close(lock)


def _locked(partial: Path, folder: Path) -> int:
    """Lock the folder; processes that it started hold the lock with it."""
    deadline = time.monotonic() + WAIT_S
    while True:
        partial.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_RDONLY)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), partial.stat()):  # whoever held it may have moved it away
                return descriptor
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise InputError(f"{folder}: is being prepared by another process") from None
        time.sleep(0.1)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _begin_with(partial: Path, dataset: Dataset) -> None:
    """Take over pixels, and the catalog last, which says that all are there.

    Arrays are shared with the earlier result rather than copied: rows are only ever added, and it does not read beyond
    its own.
    """
    for name in (*KNOWN, *(PIXELS if dataset.index.layout == "arrays" else ())):
        if (dataset.folder / name).exists():
            link_or_copy(dataset.folder / name, partial / name)
    copy = partial / f"{CATALOG}.copy"
    shutil.copyfile(dataset.folder / CATALOG, copy)
    if dataset.index.layout == "shards":
        classes = len(dataset.index.classes) if dataset.index.task == "segmentation" else 0
        pixels = Pixels(partial, dataset.index.image_shape, classes)
        ids_M = Rows(partial / "items.npy").whole()
        lost_M = np.ones(len(ids_M), bool)  # in no shard, or not as it was: others write shards to the same address
        for split in SPLITS:
            for row, image_HWC, truth in read_shards(dataset.index.shards[split], dataset.shard(split)):
                mask_HW = None if isinstance(truth, int) else truth
                if row < len(lost_M) and _is(pixels.facts.read(row), image_HWC, mask_HW):
                    pixels.write(row, image_HWC, mask_HW)
                    lost_M[row] = False
        pixels.close()
        catalog = Catalog(copy)
        lost = zip(ids_M[lost_M].tolist(), np.flatnonzero(lost_M).tolist(), strict=True)
        catalog.many("UPDATE items SET row = NULL WHERE id = ? AND row = ?", lost)
        catalog.close()
    copy.rename(partial / CATALOG)


def _is(facts: Any, image_HWC: NDArray[np.uint8], mask_HW: NDArray[np.uint8] | None) -> bool:
    """Return whether these are the pixels of a row."""
    found = {"digest": image_HWC} if mask_HW is None else {"digest": image_HWC, "truth": mask_HW}
    return all(np.array_equal(facts[name], digests([np.ascontiguousarray(one)])[0]) for name, one in found.items())


def _replace(folder: Path, partial: Path) -> None:
    """Put the new result in the place of an earlier one."""
    if folder.exists():
        earlier = folder.with_name(f".{folder.name}.earlier")
        shutil.rmtree(earlier, ignore_errors=True)
        folder.rename(earlier)
        partial.rename(folder)
        shutil.rmtree(earlier)
    else:
        partial.rename(folder)
