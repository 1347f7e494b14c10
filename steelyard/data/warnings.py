"""What a data engineer would want to be told before training on a dataset."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from steelyard.data.catalog import Catalog
from steelyard.data.dataset import SPLITS
from steelyard.data.images import Images
from steelyard.data.layout import FEW, Tally
from steelyard.data.splits import Dealt
from steelyard.params import Data

DARK = 0.05  # mean brightness, where white is 1
IMBALANCE = {"images": 10, "pixels": 100}  # times as many in the largest class as in the smallest


def warnings(images: Images, dealt: Dealt, tally: Tally, data: Data, catalog: Catalog) -> Iterator[str]:
    """Yield one sentence for each thing that looks wrong, the gravest first."""
    near = np.count_nonzero(images.near_N >= 0)
    if near and data.near_duplicates == "report":
        yield (
            f"leakage: near-duplicates in a stricter split of images in train or validation: {near}; "
            "data.near_duplicates: remove leaves them out"
        )
    if conflicts := tally.conflicting.count:
        what = "labels" if data.masks is None else "masks"
        named = "; ".join(map(catalog.named, tally.conflicting.named))
        occur = "image occurs" if conflicts == 1 else "images occur"
        more = "; ..." * (conflicts > FEW)
        yield f"{conflicts} {occur} with different {what}, all of which are learnt: {named}{more}"
    moved = np.count_nonzero(dealt.moved_N & (images.splits_N > 0))
    if moved:
        yield f"{moved} images were moved to the stricter split that the source gives to their copies or groups"
    if (brightness := tally.brightness / max(1, tally.images.total())) < DARK:
        yield (
            f"the images are nearly black: their mean brightness is {brightness:.3f}, where white is 1; "
            "of files with 16 bits, all of 0 to 65535 is read, however little of it is used"
        )
    folded = Counter(map(str.casefold, images.names))
    if alike := [name for name in images.names if folded[name.casefold()] > 1]:
        yield f"classes whose names differ in capitals alone: {', '.join(sorted(alike, key=str.casefold))}"
    yield from _absent(tally, "images" if data.masks is None else "pixels")
    yield from _imbalance(tally, "images" if data.masks is None else "pixels")
    if dealt.alone and images.groups:
        unfit = f"data.group: '{data.group}' does not fit {dealt.alone} of the paths"
        yield f"{unfit if data.group else f'{dealt.alone} images have no group'}; each such image is a group of its own"


def _absent(tally: Tally, what: str) -> Iterator[str]:
    for split in SPLITS:
        absent = [label for label, count in tally.counts[split].items() if not count]
        if absent:
            more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
            yield f"no {what} in {split} of: {', '.join(absent[:3])}{more}"


def _imbalance(tally: Tally, what: str) -> Iterator[str]:
    counts = {label: count for label, count in tally.counts["train"].items() if count}
    most, least = max(counts, key=counts.__getitem__, default=""), min(counts, key=counts.__getitem__, default="")
    if counts and counts[most] >= IMBALANCE[what] * counts[least]:
        yield f"class imbalance: {counts[most]} training {what} of {most!r}, {counts[least]} of {least!r}"
