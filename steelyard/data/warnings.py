"""What a data engineer would want to be told before training on a dataset."""

from collections.abc import Iterator

from steelyard.data.catalog import Catalog
from steelyard.data.dataset import SPLITS
from steelyard.data.layout import Tally
from steelyard.params import Data

IMBALANCE = 10  # times as many images in the largest class as in the smallest

_MOVED = " OR ".join(
    f"split = '{split}' AND unit IN (SELECT unit FROM kept WHERE given = '{split}')" for split in ("validation", "test")
)


def warnings(catalog: Catalog, tally: Tally, data: Data) -> Iterator[str]:
    """Yield one sentence for each thing that looks wrong, the gravest first."""
    near = catalog.count("near")
    if near and data.near_duplicates == "report":
        yield (
            f"leakage: near-duplicates in a stricter split of images in train or validation: {near}; "
            "data.near_duplicates: remove leaves them out"
        )
    if tally.conflicts:
        what = "labels" if data.masks is None else "masks"
        yield f"{tally.conflicts} images occur with different {what}"
    moved = catalog.count("kept", f"(given = 'train' AND ({_MOVED})) OR (given = 'validation' AND split = 'test')")
    if moved:
        yield f"{moved} images were moved to the stricter split that the source gives to their copies or groups"
    if data.masks is None:
        yield from _absent(tally)
        yield from _imbalance(tally)
    alone = catalog.count("kept", "unit = digest") if data.group else 0
    if alone:
        yield f"data.group: '{data.group}' does not fit {alone} of the paths; each such image is a group of its own"


def _absent(tally: Tally) -> Iterator[str]:
    for split in SPLITS:
        absent = [label for label, count in tally.counts[split].items() if not count]
        if absent:
            more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
            yield f"no images in {split} of: {', '.join(absent[:3])}{more}"


def _imbalance(tally: Tally) -> Iterator[str]:
    counts = tally.counts["train"]
    most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    if counts[most] >= IMBALANCE * max(1, counts[least]):
        yield f"class imbalance: {counts[most]} training images of {most!r}, {counts[least]} of {least!r}"
