"""Tar shards in the WebDataset format: for each image `ROW.npy` (uint8 HWC) and `ROW.cls` or `ROW.mask.npy`."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import chain
from pathlib import Path
from random import Random
from tarfile import TarError
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.errors import ArtifactError, MissingExtra

SHARD_BYTES = 2**28
BUFFER_BYTES = 2**27  # of images among which the next is drawn, after the shards were shuffled

Truth = int | NDArray[np.uint8]  # index of a class, or mask (H, W)


class Shard(NamedTuple):
    """One sample."""

    row: int
    image_HWC: NDArray[np.uint8]
    truth: Truth


def write_shards(folder: Path, samples: Iterable[Shard], finished: Callable[[Path], None]) -> tuple[str, ...]:
    """Write samples, in their order, and return the names of the shards.

    Args:
        folder: where they go.
        samples: what to write; shards read in another order are only as shuffled as this one.
        finished: called with each shard, when it is whole.
    """
    wds = _webdataset()
    names: list[str] = []

    def done(file: str) -> None:
        names.append(Path(file).name)
        finished(Path(file))

    writer = wds.ShardWriter(
        f"{folder}/%06d.tar", maxcount=2**31, maxsize=SHARD_BYTES, post=done, verbose=0, mtime=0, encoder=False
    )
    with writer:
        for row, image_HWC, truth in samples:
            encoded = {"cls": str(truth).encode()} if isinstance(truth, int) else {"mask.npy": _npy(truth)}
            writer.write({"__key__": f"{row:012d}", "npy": _npy(image_HWC), **encoded})
    return tuple(names)


def read_shards(
    shards: Sequence[str], opened: Callable[[str], AbstractContextManager[IO[bytes]]], seed: int | None = None
) -> Iterator[Shard]:
    """Yield samples as they stream in: in the order in which they were written, or with a seed in a random one.

    Args:
        shards: their names.
        opened: opens one for reading from its beginning to its end.
        seed: shuffles the shards, and BUFFER_BYTES of samples at a time.

    Raises:
        ArtifactError: one is damaged or cut short.
    """
    wds = _webdataset()
    order = list(shards)
    if seed is not None:
        Random(seed).shuffle(order)
    samples = _samples(order, opened)
    if seed is None or (first := next(samples, None)) is None:
        yield from samples
        return
    buffer = max(2, BUFFER_BYTES // first.image_HWC.nbytes)
    yield from wds.shuffle(buffer, initial=buffer, seed=seed)(chain([first], samples))


def _samples(shards: Iterable[str], opened: Callable[[str], AbstractContextManager[IO[bytes]]]) -> Iterator[Shard]:
    wds = _webdataset()
    for shard in shards:
        with opened(shard) as stream:
            files = wds.tariterators.tar_file_expander([{"url": shard, "stream": stream}])
            try:
                for sample in wds.tariterators.group_by_keys(files):
                    truth = int(sample["cls"]) if "cls" in sample else _array(sample["mask.npy"])
                    yield Shard(int(sample["__key__"]), _array(sample["npy"]), truth)
            except (TarError, KeyError, ValueError) as error:
                raise ArtifactError(f"{shard}: is damaged or cut short: {error}") from None


def _npy(array: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _array(data: bytes) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = np.load(io.BytesIO(data), allow_pickle=False)
    return array


def _webdataset() -> Any:
    try:
        import webdataset
    except ImportError:
        raise MissingExtra("webdataset", "train") from None
    return webdataset
