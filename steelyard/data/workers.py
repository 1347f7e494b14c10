"""What is pending in a catalog -> rows of pixels, by as many processes as there are processors."""

import gc
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from steelyard.data.catalog import Catalog, Found
from steelyard.data.images import FACTS, STRICTNESS, digests, hashes
from steelyard.data.item import Item, Sample, Shape, Source
from steelyard.data.near import THUMB, fingerprints
from steelyard.data.pixels import RowFile
from steelyard.errors import SteelyardError, UnreadableImage, first_line
from steelyard.progress import Progress

CHUNK = 64
BYTES_AT_ONCE = 2**21  # of pixels, which are written and looked at together
FEW = 4 * CHUNK  # for so few, starting processes costs more than it saves
REQUESTS = 8  # at once, to an object store, from each process
MOST_PROCESSES = 8

Chunk = list[tuple[int, Item]]


class Pixels:
    """The row files of one dataset."""

    def __init__(self, folder: Path, shape: Shape, classes: int) -> None:
        """Open them; `classes` are those of masks, 0 where there are none."""
        self.images = RowFile(folder / "images.npy", shape)
        self.thumbs = RowFile(folder / "thumbs.npy", (THUMB * THUMB,))
        self.facts = RowFile(folder / "facts.npy", (), FACTS)
        self.items = RowFile(folder / "items.npy", (), np.int32)  # ids in the catalog; 0 where nothing was decoded
        self.masks = RowFile(folder / "masks.npy", shape[:2]) if classes else None
        self.counts = RowFile(folder / "counts.npy", (classes,), np.uint32) if classes else None

    def write(self, row: int, image_HWC: NDArray[np.uint8], mask_HW: NDArray[np.uint8] | None) -> None:
        """Write an image, and its mask."""
        self.images.write(row, image_HWC)
        if self.masks is not None and mask_HW is not None:
            self.masks.write(row, mask_HW)

    def lost(self, rows: int) -> NDArray[np.bool_]:
        """Return which of the first rows are not those whose digests were written with them."""
        lost_N, block = np.zeros(rows, bool), max(1, BYTES_AT_ONCE // self.images.row_bytes)
        for start in range(0, rows, block):
            count = min(block, rows - start)
            facts_M, images_NHWC = self.facts.block(start, count), self.images.block(start, count)
            lost_M = (facts_M["digest"] != digests(images_NHWC)).any(axis=1)
            if self.masks is not None:
                lost_M |= (facts_M["truth"] != digests(self.masks.block(start, count))).any(axis=1)
            lost_N[start : start + count] = lost_M | (self.items.block(start, count) == 0)
        return lost_N

    def read(self, row: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Return an image and its mask."""
        return self.images.read(row), None if self.masks is None else self.masks.read(row)

    @property
    def files(self) -> dict[str, RowFile]:
        """Those that there are, by name."""
        all_ = (self.images, self.thumbs, self.facts, self.items, self.masks, self.counts)
        return {file.file.stem: file for file in all_ if file is not None}

    def close(self, rows: int | None = None) -> None:
        """Close them; with `rows`, say how many each has."""
        for file in self.files.values():
            file.close(rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that a process needs to know."""

    source: Source
    folder: Path
    shape: Shape
    classes: int  # of masks; 0 where there are none


def processes() -> int:
    """Return how many processes decode where nobody says."""
    return min(
        MOST_PROCESSES, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )


def decode_pending(job: Job, catalog: Catalog, pending: int, row: int, workers: int) -> Generator[tuple[int, int]]:
    """Decode what is pending, and write it down as it comes.

    Yields, of each chunk, how many could not be used, and the row before which all is written down.

    Args:
        job: what to decode, and into which folder.
        catalog: what is pending.
        pending: how many these are.
        row: the first of theirs.
        workers: processes that decode; for a few items, threads.

    Raises:
        StoreError: the object store does not answer; what was decoded until then stays.
        SteelyardError: a process was killed, as happens where memory runs out.
    """
    progress = Progress("decoding", pending, "images")
    chunks = _numbered(catalog.pending(CHUNK), row)
    alone = workers == 1 or pending <= FEW or not job.source.parallel
    told = time.monotonic()
    waiting: list[Found] = []
    written = row
    try:
        for found in _here(job, chunks, workers) if alone else _by_processes(job, chunks, workers):
            waiting += found
            row += len(found)
            progress.advance(len(found))
            if time.monotonic() - told > 1:
                catalog.record(waiting)
                waiting, told, written = [], time.monotonic(), row
            yield sum(one.problem is not None for one in found), written
    finally:
        catalog.record(waiting)
        progress.close()


def _numbered(chunks: Iterable[Chunk], row: int) -> Iterator[tuple[int, Chunk]]:
    """Give each chunk the row where its pixels begin."""
    for chunk in chunks:
        yield row, chunk
        row += len(chunk)


def _here(job: Job, chunks: Iterable[tuple[int, Chunk]], threads: int) -> Iterator[list[Found]]:
    worker = _Worker(job, threads)
    for row, chunk in chunks:
        yield worker.decode(row, chunk)
    worker.pixels.close()


def _by_processes(job: Job, chunks: Iterator[tuple[int, Chunk]], workers: int) -> Iterator[list[Found]]:
    executor = ProcessPoolExecutor(workers, initializer=_start, initargs=(job, os.getpid()))
    running: deque[Future[list[Found]]] = deque()
    try:
        for row, chunk in chunks:
            running.append(executor.submit(_decode, row, chunk))
            if len(running) > 2 * workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    except BrokenProcessPool:
        raise SteelyardError("a process that decodes images was killed, as happens where memory runs out") from None
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


_worker: "_Worker"


def _start(job: Job, parent: int) -> None:
    global _worker  # noqa: PLW0603 - how an initializer hands on what it made
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    gc.freeze()  # what was inherited is not looked at again
    _worker = _Worker(job)


def _end_with(parent: int) -> None:
    """End when the parent was killed: rows must not be written that a next run gives to others."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _decode(row: int, chunk: Chunk) -> list[Found]:
    return _worker.decode(row, chunk)


class _Worker:
    def __init__(self, job: Job, threads: int = 1) -> None:
        self.job = job
        self._threads = (REQUESTS if job.source.remote else threads) if job.source.threads else 1
        self.pixels = Pixels(job.folder, job.shape, job.classes)
        self._at_once = max(1, BYTES_AT_ONCE // prod(job.shape))

    def decode(self, row: int, chunk: Chunk) -> list[Found]:
        """Decode items into the rows from `row` on, and return what is worth knowing of each."""
        found: list[Found] = []
        samples = zip(chunk, self._samples([item for _, item in chunk]), strict=True)
        while stretch := list(islice(samples, self._at_once)):
            found += (Found(number, str(one)) for (number, _), one in stretch if isinstance(one, UnreadableImage))
            decoded = [(*listed, one) for listed, one in stretch if not isinstance(one, UnreadableImage)]
            if decoded:
                self._keep(row, decoded)
            found += (Found(number, row=row + place) for place, (number, _, _) in enumerate(decoded))
            row += len(decoded)
        return found

    def _samples(self, items: list[Item]) -> Iterator[Sample | UnreadableImage]:
        pages = len({item.path for item in items}) < len(items)  # of stacks, which are read once for all of them
        if self._threads == 1 or pages:
            yield from map(self._load, items)
            return
        together = max(self._threads, self._at_once)  # else all of a chunk would be waiting in memory
        with ThreadPoolExecutor(self._threads) as threads:
            for start in range(0, len(items), together):
                yield from threads.map(self._load, items[start : start + together])

    def _load(self, item: Item) -> Sample | UnreadableImage:
        try:
            return self.job.source.load(item, self.job.shape)
        except UnreadableImage as error:
            return error
        except SteelyardError:
            raise
        except Exception as error:  # a decoder's, of bytes that nobody thought of
            return UnreadableImage(f"can't be decoded: {type(error).__name__}: {first_line(error)}")

    def _keep(self, row: int, decoded: list[tuple[int, Item, Sample]]) -> None:
        """Write samples from a row on, with what is worth knowing of each."""
        numbers, items, samples = zip(*decoded, strict=True)
        images_NHWC = np.ascontiguousarray([sample.pixels_HWC for sample in samples])
        facts_N = np.zeros(len(decoded), FACTS)
        facts_N["keys"], thumbs_NT = fingerprints(images_NHWC)
        facts_N["brightness"] = thumbs_NT.mean(axis=1) / 255
        facts_N["digest"] = digests(images_NHWC)
        facts_N["label"] = hashes(item.label for item in items)
        facts_N["given"] = [STRICTNESS.index(item.split) for item in items]
        facts_N["width"], facts_N["height"] = zip(*((sample.width, sample.height) for sample in samples), strict=True)
        if self.pixels.masks is not None and self.pixels.counts is not None:
            masks_NHW = np.ascontiguousarray([sample.mask_HW for sample in samples], np.uint8)
            facts_N["truth"] = digests(masks_NHW)
            self.pixels.masks.write(row, masks_NHW)
            self.pixels.counts.write(row, self._counts(masks_NHW))
        self.pixels.images.write(row, images_NHWC)
        self.pixels.thumbs.write(row, thumbs_NT)
        self.pixels.facts.write(row, facts_N)
        self.pixels.items.write(row, np.array(numbers, np.int32))

    def _counts(self, masks_NHW: NDArray[np.uint8]) -> NDArray[np.uint32]:
        """Return how many pixels of each class every mask has."""
        classes = self.job.classes
        counts = [np.bincount(mask_HW.ravel(), minlength=classes)[:classes] for mask_HW in masks_NHW]
        return np.array(counts, np.uint32)
