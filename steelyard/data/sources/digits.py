"""The 1,797 handwritten digits of 8x8 pixels that ship with scikit-learn (UCI, Alpaydin & Kaynak 1998)."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from steelyard.data.decode import resize
from steelyard.data.item import Item, Sample, Shape, Source


class Digits(Source):
    """A real data set that needs no download."""

    parallel = remote = threads = False

    @cached_property
    def _digits(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None], bunch.target

    def items(self) -> Iterator[Item]:
        """Yield every digit."""
        for number, label in enumerate(self._digits[1].tolist()):
            yield Item(path="digits", part=number, label=str(label))

    def load(self, item: Item, shape: Shape) -> Sample:
        """Return one digit, resized."""
        return Sample(resize(self._digits[0][item.part], shape), width=8, height=8)
