"""One training job: taken from memory, or trained, exported and remembered."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from steelyard.bundle import ModelBundle
from steelyard.contract import Contract
from steelyard.data.dataset import Dataset
from steelyard.errors import ArtifactError, CandidateFailed, SteelyardError, TrackingAway
from steelyard.params import Candidate
from steelyard.store import ObjectStore, is_remote
from steelyard.training.pretrained import Weights, pretrained_weights
from steelyard.training.processes import Processes
from steelyard.training.run_key import run_key

if TYPE_CHECKING:
    from steelyard.tracking.tracking import Tracking
    from steelyard.tracking.training_run import TrainingRun
    from steelyard.training.checkpoint import Checkpoints
    from steelyard.training.group import Group
    from steelyard.training.train import Judge

log = logging.getLogger(__name__)


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
    contract: Contract | None = None,
    processes: Processes | None = None,
) -> ModelBundle:
    """Train one candidate, unless that was done before; go on where an earlier job was cut off.

    Args:
        candidate: architecture, recipe and seed.
        dataset: what it learns.
        places: where results go. Without tracking, a bundle of the same run key that lies there is not made again.
        tracking: remembers trainings and shows this one as it goes on; None goes without.
        contract: by which halving, if the candidate has it, tells what it is worth; it takes tracking, too.
        processes: that learn together; None learns in this one.

    Raises:
        CandidateFailed: by its own fault; or, `Stopped`, by that of better ones.
        StoreError: the object store does not answer.
        SteelyardError: one of several processes is gone.
    """
    with pretrained_weights(candidate, places.store) as weights:
        key = run_key(candidate, dataset, weights.sha256 if weights else "")
        job = _Job(candidate, dataset, weights, key, places, contract)
        try:
            return _trained_alone(job, processes) if tracking is None else _trained_in_turn(job, processes, tracking)
        except CandidateFailed as error:
            error.run_key = key
            raise


def _trained_alone(job: "_Job", processes: Processes | None) -> ModelBundle:
    folder = job.places.bundle
    if found := _found(folder, job.key, job.candidate.name):
        return found
    _train_in(processes, job, job.own_checkpoints, None)
    return ModelBundle(folder)


def _trained_in_turn(job: "_Job", processes: Processes | None, tracking: "Tracking") -> ModelBundle:
    folder = job.places.bundle
    with tracking.turn(job.key, job.candidate.name, folder, job.own_checkpoints) as turn:
        if turn.bundle:
            return turn.bundle
        inherited = job.reaches(turn.checkpoints)
        _train_in(processes, job, turn.checkpoints if inherited else job.own_checkpoints, tracking)
    return ModelBundle(folder)


class _Job(NamedTuple):
    candidate: Candidate
    dataset: Dataset
    weights: Weights | None
    key: str
    places: Places
    contract: Contract | None

    @property
    def own_checkpoints(self) -> str:
        """The address of this training's checkpoints, the same in every process of this machine; "" for none."""
        place = self.places.checkpoints
        if place and not is_remote(place):
            place = str(Path(place).resolve())
        return place and f"{place}/{self.key}"

    def reaches(self, address: str) -> bool:
        """Whether the checkpoints of another process are of this training, and lie where this one reads and writes."""
        if not address.endswith(f"/{self.key}"):
            return False
        return bool(self.places.store) if is_remote(address) else os.access(address, os.W_OK)

    def checkpoints(self, address: str) -> "Checkpoints | None":
        """Return the checkpoints at an address; None for ""."""
        from steelyard.training.checkpoint import Checkpoints

        return Checkpoints(address, self.places.store) if address else None

    def judge(self, run: "TrainingRun | None") -> "Judge | None":
        """Return what may end the training at a rung, if anything.

        Raises:
            Stopped: it was ended before.
        """
        if not (run and self.contract and self.candidate.halving):
            return None
        from steelyard.halving import Halving

        halving = Halving(self.candidate, self.dataset, self.contract, self.key, run)
        halving.recall()
        return halving.judge


def _train_in(processes: Processes | None, job: _Job, checkpoints: str, tracking: "Tracking | None") -> None:
    if processes is None:
        _train(job, checkpoints, tracking)
        return
    try:
        processes.run(_take_part, job, checkpoints, tracking.uri if tracking else "")
    except SteelyardError as error:
        if tracking:
            with _unless_away(job.candidate.name, "its end is not told"):
                tracking.end_lost(job.key, error)  # the leader is ended where another process fails
        raise


def _take_part(job: _Job, checkpoints: str, tracking_uri: str, group: "Group") -> None:
    """Train as one of several processes: the one that leads keeps what comes of it."""
    from steelyard.training.train import follow

    if group.rank:
        follow(job.candidate, job.dataset, job.checkpoints(checkpoints), job.weights, group)
    elif tracking_uri:
        from steelyard.tracking.tracking import Tracking

        _train(job, checkpoints, Tracking(tracking_uri), group)
    else:
        _train(job, checkpoints, None, group)


def _train(job: _Job, address: str, tracking: "Tracking | None", group: "Group | None" = None) -> None:
    from steelyard.training.export import export
    from steelyard.training.group import ALONE
    from steelyard.training.profile import write_profile
    from steelyard.training.train import train

    candidate, dataset, places = job.candidate, job.dataset, job.places
    checkpoints = job.checkpoints(address)
    with tracking.training(job.key, candidate) if tracking else nullcontext() as run:
        observe, judge = run.observe if run else _unseen, job.judge(run)
        trained = train(candidate, dataset, observe, checkpoints, job.weights, group or ALONE, judge)
        bundle = export(trained, candidate, dataset, job.key, places.bundle)
        if run:
            run.keep(bundle)
    if checkpoints:
        checkpoints.clear()
    if places.profile:
        try:
            write_profile(trained, candidate, dataset, job.key, places.profile)
            if run:
                run.attach(places.profile)
        except Exception as error:  # of libraries and of the machine: the training has ended well
            log.warning("%s: is trained, but its profile is left out: %s", candidate.name, error)
    if tracking and run and run.overtaken:
        with _unless_away(candidate.name, "was trained twice, and keeps its own result"):
            tracking.recall(job.key, candidate.name, places.bundle)


@contextmanager
def _unless_away(name: str, otherwise: str) -> Iterator[None]:
    try:
        yield
    except TrackingAway as error:
        log.warning("%s: %s: %s", name, otherwise, error)


def _unseen(point: object) -> None:
    """Tell nobody."""


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
