"""One training job: taken from memory, or trained, exported and remembered."""

from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.bundle import ModelBundle
from steelyard.data.dataset import Dataset
from steelyard.errors import ArtifactError
from steelyard.params import Candidate
from steelyard.training.run_key import run_key

if TYPE_CHECKING:
    from steelyard.tracking.tracking import Tracking


def run_job(candidate: Candidate, dataset: Dataset, folder: Path, tracking: "Tracking | None" = None) -> ModelBundle:
    """Train one candidate, unless that was done before.

    Args:
        candidate: architecture, recipe and seed.
        dataset: what it learns.
        folder: where the bundle goes; one that lies there already, of the same run key, is not made again.
        tracking: remembers trainings and shows this one as it goes on; None goes without.

    Raises:
        CandidateFailed: by its own fault.
        StoreError: the object store does not answer.
    """
    key = run_key(candidate, dataset)
    found = tracking.recall(key, candidate.name, folder) if tracking else _found(folder, key, candidate.name)
    if found:
        return found

    from steelyard.training.export import export
    from steelyard.training.train import train

    if tracking is None:
        return export(train(candidate, dataset, lambda epoch: None), candidate, dataset, key, folder)
    with tracking.training(key, candidate) as run:
        bundle = export(train(candidate, dataset, run.observe), candidate, dataset, key, folder)
        run.keep(bundle)
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
