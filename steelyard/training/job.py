"""One training job: taken from memory, or trained, exported and remembered."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.bundle import ModelBundle
from steelyard.data.dataset import Dataset
from steelyard.errors import ArtifactError
from steelyard.params import Candidate
from steelyard.store import ObjectStore
from steelyard.training.pretrained import Weights, pretrained_weights
from steelyard.training.run_key import run_key

if TYPE_CHECKING:
    from steelyard.tracking.tracking import Tracking


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a training leaves what outlives it."""

    bundle: Path
    checkpoints: str  # folder or s3:// address, in which each run key has a folder of its own; "" leaves none
    store: ObjectStore | None


def run_job(candidate: Candidate, dataset: Dataset, places: Places, tracking: "Tracking | None") -> ModelBundle:
    """Train one candidate, unless that was done before; go on where an earlier job was cut off.

    Args:
        candidate: architecture, recipe and seed.
        dataset: what it learns.
        places: where results go. Without tracking, a bundle of the same run key that lies there is not made again.
        tracking: remembers trainings and shows this one as it goes on; None goes without.

    Raises:
        CandidateFailed: by its own fault.
        StoreError: the object store does not answer.
    """
    with pretrained_weights(candidate, places.store) as weights:
        key, folder = run_key(candidate, dataset, weights.sha256 if weights else ""), places.bundle
        found = tracking.recall(key, candidate.name, folder) if tracking else _found(folder, key, candidate.name)
        return found or _train(candidate, dataset, weights, key, places, tracking)


def _train(
    candidate: Candidate,
    dataset: Dataset,
    weights: Weights | None,
    key: str,
    places: Places,
    tracking: "Tracking | None",
) -> ModelBundle:
    from steelyard.training.checkpoint import Checkpoints
    from steelyard.training.export import export
    from steelyard.training.train import train

    checkpoints = Checkpoints(f"{places.checkpoints}/{key}", places.store) if places.checkpoints else None
    if tracking is None:
        trained = train(candidate, dataset, lambda epoch: None, checkpoints, weights)
        bundle = export(trained, candidate, dataset, key, places.bundle)
    else:
        with tracking.training(key, candidate) as run:
            trained = train(candidate, dataset, run.observe, checkpoints, weights)
            bundle = export(trained, candidate, dataset, key, places.bundle)
            run.keep(bundle)
    if checkpoints:
        checkpoints.clear()
    return bundle


def _found(folder: Path, key: str, name: str) -> ModelBundle | None:
    """Return the whole bundle of an earlier job, under the name it has now."""
    try:
        bundle = ModelBundle(folder)
        bundle.verify()
    except ArtifactError:
        return None
    if bundle.index.run_key != key:
        return None
    bundle.index.model_copy(update={"candidate": name, "remembered": True}).write(folder / "bundle.json")
    return ModelBundle(folder)
