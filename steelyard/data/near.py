"""Near-duplicates: images that differ by compression, scale, brightness or a few pixels, found by a perceptual hash.

The hash holds the signs of the 59 lowest frequencies of a discrete cosine transform against their median (Zauner 2010).
Images are sorted by it KEYS times, its bits in another order each time, and each is compared with the WINDOW next on
either side (sorted neighbourhood, Hernández & Stolfo 1995) that are in a stricter split: those of its own, such as a
burst of one photo, are in nobody's way. A pair counts where its 16 x 16 reductions correlate by CORRELATION or more.

Of 400 copies each as JPEG at quality 60, at 80 % size, 10 % brighter or with one pixel changed, all but one in 400 of
those that correlate so were found among 600 scenes, 1,500 blood cells and 3,000 CIFAR images. Of distinct images,
three smooth round cells among 3,000 were taken for near. Images as small as 8 x 8 have too little to compare;
up to a tenth of such copies was missed there. All arithmetic is exact, so that every machine finds the same pairs.
"""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from steelyard.data.images import FACTS, STRICTNESS, Images
from steelyard.data.pixels import Rows
from steelyard.data.sorting import Records, Sorter, in_blocks

KEYS = FACTS["keys"].shape[0]
WINDOW, CORRELATION = 4, 0.99
MOST_BITS = 16  # that keys of near images differ by; chance makes it 29
BLOCK = 4096
FEW = 2**15  # reductions, which are read but once: 8 MiB
SIDE, THUMB = 32, 16
NEIGHBOUR = np.dtype([("key", np.int64), ("place", np.int32), ("row", np.int32)])
WEAKER = (STRICTNESS.index("train"), STRICTNESS.index("validation"))
FLAT = 4.0  # grey levels of standard deviation; below it, images are near where their brightness is


class Fingerprints(NamedTuple):
    """Of N images: the keys they are sorted by, and what they are compared by."""

    keys_NK: NDArray[np.int64]
    thumbs_NT: NDArray[np.uint8]


def fingerprints(images_NHWC: NDArray[np.uint8]) -> Fingerprints:
    """Return the fingerprints of images."""
    greys_NHW = _greys(images_NHWC)
    waves_NFF = _WAVES @ greys_NHW.astype(np.float64) @ _WAVES.T
    waves_NB = waves_NFF.reshape(len(greys_NHW), -1)[:, _LOWEST]
    bits_NB = waves_NB > np.partition(waves_NB, _MIDDLE, axis=1)[:, [_MIDDLE]]
    keys = [bits_NB[:, order] @ (1 << np.arange(len(_LOWEST), dtype=np.int64)) for order in _ORDERS]
    halves_NHW = greys_NHW[:, 0::2].astype(np.uint16) + greys_NHW[:, 1::2]
    thumbs_NHW = (halves_NHW[:, :, 0::2] + halves_NHW[:, :, 1::2]) >> 2
    return Fingerprints(np.stack(keys, axis=1), thumbs_NHW.astype(np.uint8).reshape(len(greys_NHW), -1))


def _greys(images_NHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return images as 32 x 32 grey levels, all at once: a box filter does not look beyond the edge of one."""
    count, height, width, channels = images_NHWC.shape
    tall = images_NHWC.reshape(count * height, width, channels)
    image = Image.fromarray(tall if channels == 3 else tall[:, :, 0]).convert("L")
    if height % SIDE == width % SIDE == 0:  # four times as fast
        image = image.reduce((width // SIDE, height // SIDE))
    else:
        image = image.resize((SIDE, SIDE * count), Image.Resampling.BOX)
    return np.asarray(image).reshape(count, SIDE, SIDE)


def find_near(images: Images, splits_N: NDArray[np.int8]) -> NDArray[np.int32]:
    """Return for each image the place of a near-duplicate in a stricter split; -1 where there is none."""
    near_N, reductions = np.full(len(images), -1, np.int32), _Reductions(images.folder)
    for key in range(KEYS):
        by_key = Sorter(images.folder, "key", "place")
        for places, batch in images.batches():
            neighbours = np.empty(len(batch), NEIGHBOUR)
            neighbours["key"], neighbours["row"] = batch["facts"]["keys"][:, key], batch["row"]
            neighbours["place"] = np.arange(places.start, places.stop)
            by_key.add(neighbours)
        before = np.empty(0, NEIGHBOUR)
        for block in in_blocks(by_key.batches(), BLOCK):
            stretch = np.concatenate([before, block])
            splits_M = splits_N[stretch["place"]]
            _compare(reductions, stretch, splits_M, near_N)
            before = stretch[_needed(splits_M, near_N[stretch["place"]] < 0)]
    return near_N


def _needed(splits_M: NDArray[np.int8], wanted_M: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return what is compared with the next block: the last of the stricter splits, and those with fewer behind them.

    Of the latter, no more than a block.
    """
    needed = []
    for split in WEAKER:
        strict = np.flatnonzero(splits_M > split)[-WINDOW:]
        start = strict[0] if len(strict) == WINDOW else 0
        needed += [strict, start + np.flatnonzero((splits_M == split)[start:] & wanted_M[start:])[-BLOCK:]]
    return np.unique(np.concatenate(needed))


def _compare(
    reductions: "_Reductions", stretch_M: Records, splits_M: NDArray[np.int8], near_N: NDArray[np.int32]
) -> None:
    """Look at neighbours, the next first; of images that are near to one in a stricter split, note the first found."""
    keys_M, places_M = stretch_M["key"], stretch_M["place"]
    wanted_M = near_N[places_M] < 0
    pairs = _pairs(keys_M, splits_M, wanted_M)
    reduced, at_M = reductions.of(stretch_M["row"], pairs)
    for weak, strict in pairs:
        still = np.flatnonzero(wanted_M[weak])
        first, second = weak[still], strict[still]
        alike = reduced.alike(at_M[first], at_M[second])
        wanted_M[first[alike]] = False
        near_N[places_M[first[alike][::-1]]] = places_M[second[alike][::-1]]  # turned round: the first found stays


def _pairs(
    keys_M: NDArray[np.int64], splits_M: NDArray[np.int8], wanted_M: NDArray[np.bool_]
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Return pairs with close keys: what is wanted, with the next in a stricter split on either side; the next but one;
    and so on.
    """
    found, sides = [], []
    for split in WEAKER:
        weak, strict = np.flatnonzero(wanted_M & (splits_M == split)), np.flatnonzero(splits_M > split)
        sides.append((weak, strict, np.searchsorted(strict, weak)))
    for step in range(WINDOW):
        ones, others = [], []
        for weak, strict, behind in sides:
            after, before = np.searchsorted(behind, (len(strict) - step, step + 1))
            ones += [weak[:after], weak[before:]]
            others += [strict[behind[:after] + step], strict[behind[before:] - step - 1]]
        weak_P, strict_P = np.concatenate(ones), np.concatenate(others)
        close = np.bitwise_count(keys_M[weak_P] ^ keys_M[strict_P]) <= MOST_BITS
        found.append((weak_P[close], strict_P[close]))
    return found


class _Reduced(NamedTuple):
    """Of C images: reductions, their sums and their spread, which is exact."""

    pixels_CT: NDArray[np.uint8]
    sums_C: NDArray[np.float64]
    spread_C: NDArray[np.float64]

    @classmethod
    def of(cls, thumbs_CT: NDArray[np.uint8]) -> "_Reduced":
        sums_C = np.einsum("ct->c", thumbs_CT, dtype=np.float32).astype(np.float64)
        return cls(thumbs_CT, sums_C, thumbs_CT.shape[1] * _products(thumbs_CT, thumbs_CT) - sums_C**2)

    def alike(self, first: NDArray[np.int32], second: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return which pairs correlate or, where both are plain, are as bright."""
        pixels = self.pixels_CT.shape[1]
        sums, others, spread, other_spread = (
            column[which] for column in (self.sums_C, self.spread_C) for which in (first, second)
        )
        covariance = pixels * _products(self.pixels_CT[first], self.pixels_CT[second]) - sums * others
        alike: NDArray[np.bool_] = (covariance > 0) & (covariance**2 >= CORRELATION**2 * spread * other_spread)
        plain = np.maximum(spread, other_spread) < (FLAT * pixels) ** 2
        alike[plain] = (np.abs(sums - others) <= FLAT * pixels)[plain]
        return alike


class _Reductions:
    """The reductions of all images, which are read once if these are few."""

    def __init__(self, folder: Path) -> None:
        self._rows = Rows(folder / "thumbs.npy")
        self._all = _Reduced.of(self._rows.whole()) if len(self._rows) <= FEW else None

    def of(
        self, rows_M: NDArray[np.int32], pairs: Iterable[tuple[NDArray[np.intp], NDArray[np.intp]]]
    ) -> tuple[_Reduced, NDArray[np.int32]]:
        """Return the reductions of those rows that are in pairs, and where each row is among them."""
        if self._all is not None:
            return self._all, rows_M
        compared_M = np.zeros(len(rows_M), bool)
        for some in chain.from_iterable(pairs):
            compared_M[some] = True
        return _Reduced.of(self._rows[rows_M[compared_M]]), np.cumsum(compared_M, dtype=np.int32) - 1


def _products(one_NT: NDArray[np.uint8], other_NT: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the sums of 256 products of bytes each: they stay below 2^24, so that float32 holds them exactly."""
    sums_N: NDArray[np.float64] = np.einsum("nt,nt->n", one_NT, other_NT, dtype=np.float32).astype(np.float64)
    return sums_N


def _waves() -> NDArray[np.float64]:
    """The 9 lowest frequencies of a cosine transform over 32 points, as whole numbers: their sums are exact."""
    points, frequencies = np.arange(SIDE), np.arange(9)
    return np.round(4096 * np.cos(np.pi * (2 * points[None] + 1) * frequencies[:, None] / (2 * SIDE)))


_WAVES = _waves()
_LOWEST = [9 * row + column for row in range(9) for column in range(9) if 0 < row + column <= 10]
_MIDDLE = len(_LOWEST) // 2
_ORDERS = [np.random.default_rng(key).permutation(len(_LOWEST)) for key in range(KEYS)]
