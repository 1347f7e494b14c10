"""The images of a split, batch by batch, on the device that learns them."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steelyard.data.dataset import Dataset, Split

Batch = tuple[Tensor, Tensor]  # uint8 images (N, H, W, C); labels (N,) or masks (N, H, W)
Arrays = tuple[NDArray[np.uint8], NDArray[Any]]

RESIDENT_SHARE = 0.5  # of a GPU's free memory; the rest is the network's
CHUNK = 1024


class Batches:
    """A split as uint8: on a GPU all of it at once where it fits, else read one batch ahead.

    On a CPU the memory map of the dataset is already where it is needed.
    """

    def __init__(self, dataset: Dataset, split: Split, size: int, device: torch.device, few: bool = False) -> None:
        """Open a split; `few` batches of it are better read than all uploaded."""
        self._dataset, self._split, self._size, self._device = dataset, split, size, device
        self.images = dataset.index.images[split]
        resident = not few and _fits(dataset, split, device)
        self._resident = _upload(dataset, split, device) if resident else None

    def __len__(self) -> int:
        """Return how many batches there are: a last one of a single image joins the one before."""
        whole, rest = divmod(self.images, self._size)
        return max(1, whole + (rest > 1)) if self._size > 1 else self.images

    def shuffled(self, seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Yield an epoch's batches in the order that seed and epoch draw.

        Args:
            seed: of the training.
            epoch: its number.
            skip: how many batches to leave out at the beginning.
        """
        shuffle = np.random.default_rng((seed, epoch))
        if self._resident is None:
            yield from self._read(shuffle, skip)
            return
        order_N = torch.from_numpy(shuffle.permutation(self.images)).to(self._device)
        images_NHWC, truths = self._resident
        for chosen_N in order_N.tensor_split([self._size * batch for batch in range(1, len(self))])[skip:]:
            yield images_NHWC.index_select(0, chosen_N), truths.index_select(0, chosen_N).long()

    def in_order(self) -> Iterator[Batch]:
        """Yield the batches as they are stored."""
        if self._resident is None:
            yield from self._read(None, 0)
        else:
            images_NHWC, truths = self._resident
            for start in range(0, self.images, self._size):
                yield images_NHWC[start : start + self._size], truths[start : start + self._size].long()

    def _read(self, shuffle: np.random.Generator | None, skip: int) -> Iterator[Batch]:
        arrays = no_single(self._dataset.batches(self._split, self._size, shuffle))
        for images_NHWC, truths in _ahead(islice(arrays, skip, None)):
            yield _sent(images_NHWC, self._device), _sent(truths, self._device).long()


def no_single(batches: Iterable[Arrays]) -> Iterator[Arrays]:
    """Join a last batch of one image, which batch norm can't take, to the one before."""
    before: Arrays | None = None
    for images_NHWC, truths in batches:
        if before is not None and len(truths) == 1 < len(before[1]):
            before = (np.concatenate([before[0], images_NHWC]), np.concatenate([before[1], truths]))
            continue
        if before is not None:
            yield before
        before = images_NHWC, truths
    if before is not None:
        yield before


def mean_and_std(dataset: Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation per channel of the train split, in [0, 1]."""
    counts_CV = np.zeros((dataset.index.image_shape[2], 256), np.int64)
    for images_NHWC, _ in dataset.batches("train", CHUNK):
        for channel in range(len(counts_CV)):
            counts_CV[channel] += np.bincount(images_NHWC[..., channel].ravel(), minlength=256)
    shares_CV, values_V = counts_CV / counts_CV.sum(1, keepdims=True), np.arange(256) / 255
    mean_C = shares_CV @ values_V
    return mean_C, np.sqrt(np.maximum(shares_CV @ values_V**2 - mean_C**2, 1e-6))


def _ahead(batches: Iterator[Arrays]) -> Iterator[Arrays]:
    """Read the next batch while this one is learnt."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, batches, None)
            yield batch


def _fits(dataset: Dataset, split: Split, device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    height, width, channels = dataset.index.image_shape
    planes = channels + (dataset.index.task == "segmentation")
    needed = dataset.index.images[split] * height * width * planes
    return needed <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]


def _upload(dataset: Dataset, split: Split, device: torch.device) -> Batch:
    whole: list[Tensor] = []
    start = 0
    for batch in dataset.batches(split, CHUNK):
        parts = [torch.from_numpy(array) for array in batch]
        whole = whole or [
            part.new_empty((dataset.index.images[split], *part.shape[1:]), device=device) for part in parts
        ]
        for all_, part in zip(whole, parts, strict=True):
            all_[start : start + len(part)] = part
        start += len(parts[0])
    images_NHWC, truths = whole
    return images_NHWC, truths


def _sent(array: NDArray[Any], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
