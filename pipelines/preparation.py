"""`steelyard prepare`: the data alone, on this machine."""

import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from pipelines.output import DATASET_HOLDS, log_to_stderr, refuse_foreign_files
from pipelines.project import read_user_file, resolved
from steelyard.data.dataset import SPLITS, Dataset
from steelyard.data.prepare import prepare
from steelyard.data.workers import processes
from steelyard.params import Params
from steelyard.process import own_peak_mib
from steelyard.store import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What `steelyard prepare` answers."""

    dataset: Dataset
    seconds: float
    peak_mib: float

    def as_json(self) -> dict[str, object]:
        """Return what `--json` prints."""
        index = self.dataset.index
        images = sum(index.images.values())
        return {
            "images": images,
            "per_split": index.images,
            "classes": len(index.classes),
            "content_digest": index.content_digest,
            "split_digest": index.split_digest,
            "quarantined": [one.model_dump() for one in index.quarantined],
            "duplicates": index.duplicates,
            "conflicting_labels": index.conflicting_labels,
            "near_duplicates": index.near_duplicates,
            "warnings": list(index.warnings),
            "layout": index.layout,
            "card": str(self.dataset.card),
            "seconds": round(self.seconds, 3),
            "images_per_s": round(images / self.seconds, 1),
            "peak_mib": round(self.peak_mib, 1),
        }

    def as_text(self) -> str:
        """Return the summary for people."""
        index = self.dataset.index
        images, rate = sum(index.images.values()), sum(index.images.values()) / self.seconds
        sizes = ", ".join(f"{index.images[split]} {split}" for split in SPLITS)
        lines = [
            f"{images} images of {len(index.classes)} classes: {sizes}",
            f"  took        {self.seconds:.1f} s, {rate:.0f} images/s, at most {self.peak_mib:.0f} MiB of memory",
            f"  duplicates  {index.duplicates} equal to another, {index.near_duplicates} like one in a stricter split",
            f"  quarantined {len(index.quarantined)}",
            *(f"              {one.path}: {one.reason}" for one in index.quarantined[:5]),
            f"  data card   {self.dataset.card}",
        ]
        return "\n".join(lines) + "\n"


def prepare_file(params: Path, output: Path, workers: int | None) -> Prepared:
    """Prepare what a params.yaml names; a relative address in it is taken from its folder.

    Raises:
        InputError: the file or the images are wrong, or the output holds something else.
        StoreError: the object store does not answer.
    """
    parsed = Params.from_yaml(read_user_file(params), str(params))
    refuse_foreign_files(output, DATASET_HOLDS)
    log_to_stderr()
    started = time.monotonic()
    dataset = prepare(
        parsed.data.at(resolved(parsed.data.address, params.parent)),
        parsed.task,
        output,
        ObjectStore.from_environment(os.environ),
        workers,
    )
    return Prepared(dataset=dataset, seconds=time.monotonic() - started, peak_mib=_peak_mib(workers))


def _peak_mib(workers: int | None) -> float:
    """Return the most memory that was resident, as if all processes had peaked at once."""
    each = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return own_peak_mib() + each * (workers or processes())
