"""One training job: taken from memory, or trained, exported and remembered."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.bundle import Epoch, ModelBundle
from steelyard.contract import Contract
from steelyard.data.dataset import Dataset
from steelyard.errors import ArtifactError
from steelyard.params import Candidate
from steelyard.store import ObjectStore, is_remote
from steelyard.training.pretrained import Weights, pretrained_weights
from steelyard.training.run_key import run_key

if TYPE_CHECKING:
    from steelyard.tracking.tracking import Tracking
    from steelyard.tracking.training_run import TrainingRun
    from steelyard.training.checkpoint import Checkpoints
    from steelyard.training.train import Judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a training leaves what outlives it."""

    bundle: Path
    checkpoints: str  # folder or s3:// address, in which each run key has a folder of its own; "" leaves none
    store: ObjectStore | None


def run_job(
    candidate: Candidate,
    dataset: Dataset,
    places: Places,
    tracking: "Tracking | None",
    contract: Contract | None = None,
) -> ModelBundle:
    """Train one candidate, unless that was done before; go on where an earlier job was cut off.

    Args:
        candidate: architecture, recipe and seed.
        dataset: what it learns.
        places: where results go. Without tracking, a bundle of the same run key that lies there is not made again.
        tracking: remembers trainings and shows this one as it goes on; None goes without.
        contract: by which halving, if the candidate has it, tells what it is worth; it takes tracking, too.

    Raises:
        CandidateFailed: by its own fault; or, `Stopped`, by that of better ones.
        StoreError: the object store does not answer.
    """
    with pretrained_weights(candidate, places.store) as weights:
        key = run_key(candidate, dataset, weights.sha256 if weights else "")
        job = _Job(candidate, dataset, weights, key, places, contract)
        return job.tracked(tracking) if tracking else job.alone()


@dataclass(frozen=True, slots=True)
class _Job:
    candidate: Candidate
    dataset: Dataset
    weights: Weights | None
    key: str
    places: Places
    contract: Contract | None

    def alone(self) -> ModelBundle:
        """Train, unless the bundle lies there."""
        if found := _found(self.places.bundle, self.key, self.candidate.name):
            return found
        with self._checkpoints(self._own_checkpoints) as checkpoints:
            return self._trained(checkpoints, lambda epoch: None)

    def tracked(self, tracking: "Tracking") -> ModelBundle:
        """Train, unless somebody did or does so."""
        name, folder, own = self.candidate.name, self.places.bundle, self._own_checkpoints
        with tracking.turn(self.key, name, folder, own) as turn:
            if turn.bundle:
                return turn.bundle
            address = turn.checkpoints if self._reaches(turn.checkpoints) else own
            with self._checkpoints(address) as checkpoints, tracking.training(self.key, self.candidate) as run:
                bundle = self._trained(checkpoints, run.observe, self._judge(run))
                run.keep(bundle)
            return (tracking.recall(self.key, name, folder) if run.overtaken else None) or bundle

    def _judge(self, run: "TrainingRun") -> "Judge | None":
        if not (self.contract and self.candidate.halving):
            return None
        from steelyard.halving import Halving

        return Halving(self.candidate, self.dataset, self.contract, self.key, run).judge

    def _trained(
        self, checkpoints: "Checkpoints | None", observe: Callable[[Epoch], None], judge: "Judge | None" = None
    ) -> ModelBundle:
        from steelyard.training.export import export
        from steelyard.training.train import train

        trained = train(self.candidate, self.dataset, observe, checkpoints, self.weights, judge)
        return export(trained, self.candidate, self.dataset, self.key, self.places.bundle)

    @contextmanager
    def _checkpoints(self, address: str) -> Iterator["Checkpoints | None"]:
        """Yield the checkpoints at an address, which are removed when the training has ended well; None for ""."""
        from steelyard.training.checkpoint import Checkpoints

        checkpoints = Checkpoints(address, self.places.store) if address else None
        yield checkpoints
        if checkpoints:
            checkpoints.clear()

    @property
    def _own_checkpoints(self) -> str:
        """The address of this training's checkpoints, the same in every process of this machine; "" for none."""
        place = self.places.checkpoints
        if place and not is_remote(place):
            place = str(Path(place).resolve())
        return place and f"{place}/{self.key}"

    def _reaches(self, checkpoints: str) -> bool:
        """Whether the checkpoints of another process lie where this one reads and writes too."""
        return bool(self.places.store) if is_remote(checkpoints) else os.access(checkpoints, os.W_OK)


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
