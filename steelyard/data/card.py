"""The data card: one HTML file that says what a dataset holds, shows some of it, and what looks wrong with it.

However many images there are, it looks at a few of them and counts the others.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from steelyard.data.catalog import Catalog
from steelyard.data.dataset import SPLITS, DatasetIndex, Split
from steelyard.data.files import place
from steelyard.data.images import STRICTNESS, Images
from steelyard.data.layout import Tally
from steelyard.data.pictures import TINY, colour, picture, tinted
from steelyard.data.pixels import Rows
from steelyard.page import environment

TEMPLATE = "card.html.jinja"
MOST_CLASSES, MOST_QUARANTINED, ON_PAPER = 1000, 200, 100  # rows of tables; on paper, which does not scroll
MOST_SAMPLED, SAMPLES, SAMPLE_SIDE = 24, 8, 96  # classes, images of each, their pixels: 1 MiB in all
MASKED, MASKED_SIDE = 16, 256
PAIRS, PAIR_SIDE = 8, 160
BARS = 25
BLOCK = 2**14

_PLACE = "SELECT path, part, label FROM items WHERE id = ?"


def write_card(index: DatasetIndex, images: Images, catalog: Catalog, tally: Tally) -> None:
    """Write `card.html`.

    Args:
        index: what the images add up to.
        images: those in use.
        catalog: where each came from.
        tally: which are equal.

    Raises:
        MissingExtra: Jinja is not installed.
    """
    template = environment(Path(__file__).parent).get_template(TEMPLATE)
    page = template.render(_facts(index, images, catalog, tally))
    (images.folder / "card.html").write_text(page, encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Class:
    """One class in numbers: of images or, in masks, of pixels."""

    name: str
    counts: dict[Split, int]
    total: int
    bar: float  # percent of the largest class
    colour: tuple[int, int, int]  # in masks


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How often each value occurs."""

    name: str
    low: str
    high: str
    bars: list[tuple[float, str]]  # percent of the highest, and what it stands for
    logarithmic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """An image with what there is to say about it."""

    picture: str
    place: str
    label: str
    split: str  # "" for none


def _facts(index: DatasetIndex, images: Images, catalog: Catalog, tally: Tally) -> dict[str, object]:
    classes = _classes(index)
    masks = index.task == "segmentation"
    return {
        "index": index,
        "name": PurePosixPath(index.source).name,
        "splits": SPLITS,
        "total": sum(index.images.values()),
        "totals": {split: sum(index.counts[split].values()) for split in SPLITS},
        "masks": masks,
        "tiny": max(index.image_shape) <= TINY,
        "classes": sorted(classes, key=lambda one: (-one.total, one.name))[:MOST_CLASSES],
        "legend": classes if masks else [],
        "samples": [] if masks else list(_samples(images.folder, index.classes)),
        "masked": list(_masked(images.folder)) if masks else [],
        "histograms": list(_histograms(images)),
        "copies": [catalog.named(ids) for ids in tally.equal.named],
        "conflicts": [catalog.named(ids) for ids in tally.conflicting.named],
        "pairs": list(_pairs(images, catalog)),
        "on_paper": ON_PAPER,
        "quarantined": index.quarantined[:MOST_QUARANTINED],
    }


def _classes(index: DatasetIndex) -> list[Class]:
    totals = {name: sum(index.counts[split][name] for split in SPLITS) for name in index.classes}
    largest = max(1, *totals.values())
    return [
        Class(
            name=name,
            counts={split: index.counts[split][name] for split in SPLITS},
            total=totals[name],
            bar=100 * totals[name] / largest,
            colour=colour(number),
        )
        for number, name in enumerate(index.classes)
    ]


def _samples(folder: Path, classes: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield classes, evenly through all of them, with pictures."""
    images = Rows(folder / "images.npy")
    sampled = min(len(classes), MOST_SAMPLED)
    numbers = [place * len(classes) // sampled for place in range(sampled)]
    for number, rows in _first_rows(folder / "train", numbers).items():
        yield classes[number], [picture(image_HWC, SAMPLE_SIDE) for image_HWC in images[np.array(rows, np.int64)]]


def _first_rows(folder: Path, numbers: Sequence[int]) -> dict[int, list[int]]:
    """Return the rows of the first images of some classes: files are in the order of the pixels' digests."""
    found: dict[int, list[int]] = {number: [] for number in numbers}
    parts = (Rows(folder / name).parts(BLOCK) for name in ("rows.npy", "labels.npy"))
    for rows_M, labels_M in zip(*parts, strict=True):
        for number, rows in found.items():
            if len(rows) < SAMPLES:
                rows.extend(rows_M[np.flatnonzero(labels_M == number)[: SAMPLES - len(rows)]].tolist())
        if all(len(rows) == SAMPLES for rows in found.values()):
            break
    return found


def _masked(folder: Path) -> Iterator[str]:
    images, masks, rows = (Rows(folder / name) for name in ("images.npy", "masks.npy", "train/rows.npy"))
    rows_M = next(rows.parts(MASKED))
    for image_HWC, mask_HW in zip(images[rows_M], masks[rows_M], strict=True):
        yield picture(tinted(image_HWC, mask_HW), MASKED_SIDE)


def _pairs(images: Images, catalog: Catalog) -> Iterator[tuple[Shown, Shown]]:
    pixels = Rows(images.folder / "images.npy")

    def shown(at: int) -> Shown:
        image = images.at(at)
        path, part, label = catalog.sql(_PLACE, int(image["id"])).fetchone()
        (image_HWC,) = pixels[image["row"][None]]
        return Shown(
            picture=picture(image_HWC, PAIR_SIDE),
            place=place(path, part),
            label=label,
            split=STRICTNESS[images.splits_N[at]],
        )

    for at in np.flatnonzero(images.near_N >= 0)[:PAIRS].tolist():
        yield shown(at), shown(int(images.near_N[at]))


def _histograms(images: Images) -> Iterator[Histogram]:
    widths, heights, levels = Counter[int](), Counter[int](), Counter[int]()
    for _, batch in images.batches():
        facts = batch["facts"]
        _count(widths, facts["width"])
        _count(heights, facts["height"])
        _count(levels, (facts["brightness"] * BARS).astype(np.int32))
    yield _sizes("width", widths)
    yield _sizes("height", heights)
    yield _brightness(levels)


def _count(counter: Counter[int], values_M: NDArray[np.int32]) -> None:
    values_G, counts_G = np.unique(values_M, return_counts=True)
    counter.update(dict(zip(values_G.tolist(), counts_G.tolist(), strict=True)))


def _sizes(side: str, counter: Counter[int]) -> Histogram:
    low, high = min(counter), max(counter)
    logarithmic = high > 10 * low
    if logarithmic:
        edges = np.unique(np.geomspace(low, high + 1, BARS + 1).round().astype(int)).tolist()
    else:
        step = -(-(high + 1 - low) // BARS)
        edges = list(range(low, high + 1 + step, step))
    values = [str(a) if b - a == 1 else f"{a} to {b - 1}" for a, b in pairwise(edges)]
    bars = _bars(_histogram(counter, edges), [f"{value} pixels" for value in values])
    return Histogram(name=side, low=f"{low}", high=f"{high} pixels", bars=bars, logarithmic=logarithmic)


def _brightness(counter: Counter[int]) -> Histogram:
    values = [f"{bar / BARS:.2f} to {(bar + 1) / BARS:.2f}" for bar in range(BARS)]
    bars = _bars(_histogram(counter, range(BARS + 1)), values)
    return Histogram(name="brightness", low="0, black", high="1, white", bars=bars)


def _histogram(counter: Counter[int], edges: Sequence[int]) -> NDArray[np.int64]:
    return np.histogram(list(counter), edges, weights=list(counter.values()))[0]


def _bars(counts: NDArray[np.int64], values: Sequence[str]) -> list[tuple[float, str]]:
    """Return bars; where there is anything at all, enough of one to be seen."""
    return [
        (max(2.0, 100 * count / counts.max()) if count else 0.0, f"{value}: {count:.0f}")
        for value, count in zip(values, counts.tolist(), strict=True)
    ]
