"""What a source lists, and what it makes of it."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, int, int]


class Item(NamedTuple):
    """One labelled image; nothing of it has been decoded yet."""

    path: str  # bytes that are not UTF-8 as surrogate escapes
    version: str = ""  # changes when the file does
    part: int = 0  # of a file that holds several: page, tile, row
    label: str = ""
    group: str = ""  # never straddles splits
    split: str = ""  # "train", "validation" or "test" where the source says so
    mask: str = ""  # path of the mask
    problem: str = ""  # why it can't be used


class Sample(NamedTuple):
    """A decoded image in the shape that was asked for, with its mask, and the size it came in."""

    pixels_HWC: NDArray[np.uint8]
    width: int
    height: int
    mask_HW: NDArray[np.uint8] | None = None


class Listing(NamedTuple):
    """Some of what a source lists."""

    signature: str  # of two listings with the same one, the items are the same; "" is like no other
    items: Iterable[Item]  # made as they are asked for


class Source(Protocol):
    """Where labelled images come from."""

    parallel: bool  # whether loading is work worth sharing among processes
    remote: bool  # whether loading waits for a network
    threads: bool  # whether one process may load several at once

    def items(self) -> Iterator[Item]:
        """Yield every item, in no order that means anything.

        Raises:
            SourceError: the source is missing, or is not laid out as it should be.
            StoreError: the store does not answer.
        """

    def listings(self) -> Iterator[Listing]:
        """Yield the same in parts; those with a known signature need not be looked at. Errors as of `items`."""
        yield Listing("", self.items())

    def load(self, item: Item, shape: Shape) -> Sample:
        """Decode one item.

        Raises:
            UnreadableImage: with one short reason.
            StoreError: the store does not answer.
        """


SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
