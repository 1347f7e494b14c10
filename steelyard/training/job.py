"""One training job: taken from memory, or trained, exported and remembered."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from steelyard.bundle import ModelBundle
from steelyard.data.dataset import Dataset
from steelyard.errors import ArtifactError
from steelyard.params import Candidate
from steelyard.store import ObjectStore
from steelyard.training.pretrained import Weights, pretrained_weights
from steelyard.training.processes import Processes
from steelyard.training.run_key import run_key

if TYPE_CHECKING:
    from steelyard.tracking.tracking import Tracking
    from steelyard.training.checkpoint import Checkpoints
    from steelyard.training.group import Group


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a training leaves what outlives it."""

    bundle: Path
    checkpoints: str  # folder or s3:// address, in which each run key has a folder of its own; "" leaves none
    store: ObjectStore | None
    profile: Path | None = None  # None goes without


def run_job(
    candidate: Candidate,
    dataset: Dataset,
    places: Places,
    tracking: "Tracking | None",
    processes: Processes | None = None,
) -> ModelBundle:
    """Train one candidate, unless that was done before; go on where an earlier job was cut off.

    Args:
        candidate: architecture, recipe and seed.
        dataset: what it learns.
        places: where results go. Without tracking, a bundle of the same run key that lies there is not made again.
        tracking: remembers trainings and shows this one as it goes on; None goes without.
        processes: that learn together; None learns in this one.

    Raises:
        CandidateFailed: by its own fault.
        StoreError: the object store does not answer.
        SteelyardError: one of several processes is gone.
    """
    with pretrained_weights(candidate, places.store) as weights:
        key, folder = run_key(candidate, dataset, weights.sha256 if weights else ""), places.bundle
        found = tracking.recall(key, candidate.name, folder) if tracking else _found(folder, key, candidate.name)
        if found:
            return found
        job = _Job(candidate, dataset, weights, key, places)
        if processes:
            processes.run(_take_part, job, tracking.uri if tracking else "")
        else:
            _train(job, tracking)
    return ModelBundle(folder)


class _Job(NamedTuple):
    candidate: Candidate
    dataset: Dataset
    weights: Weights | None
    key: str
    places: Places


def _take_part(job: _Job, tracking_uri: str, group: "Group") -> None:
    """Train as one of several processes: the one that leads keeps what comes of it."""
    from steelyard.training.train import follow

    if group.rank:
        follow(job.candidate, job.dataset, _checkpoints(job), job.weights, group)
    elif tracking_uri:
        from steelyard.tracking.tracking import Tracking

        _train(job, Tracking(tracking_uri), group)
    else:
        _train(job, None, group)


def _train(job: _Job, tracking: "Tracking | None", group: "Group | None" = None) -> None:
    from steelyard.training.export import export
    from steelyard.training.group import ALONE
    from steelyard.training.profile import write_profile
    from steelyard.training.train import train

    checkpoints = _checkpoints(job)
    with tracking.training(job.key, job.candidate) if tracking else nullcontext() as run:
        observe, live = (run.observe, run.live) if run else (_unseen, _unseen)
        trained = train(job.candidate, job.dataset, observe, checkpoints, job.weights, group or ALONE, live)
        bundle = export(trained, job.candidate, job.dataset, job.key, job.places.bundle)
        if run:
            run.keep(bundle)
    if checkpoints:
        checkpoints.clear()
    if job.places.profile:
        write_profile(trained, job.candidate, job.dataset, job.key, job.places.profile)
        if run:
            run.attach(job.places.profile)


def _unseen(point: object) -> None:
    """Tell nobody."""


def _checkpoints(job: _Job) -> "Checkpoints | None":
    from steelyard.training.checkpoint import Checkpoints

    folder = job.places.checkpoints
    return Checkpoints(f"{folder}/{job.key}", job.places.store) if folder else None


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
