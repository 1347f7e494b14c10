"""`steelyard train`: one candidate, on this machine."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.output import claimed, log_to_stderr, refuse_foreign_files
from pipelines.project import check_architectures, read_user_file
from steelyard.bundle import WEIGHTS_FILE, ModelBundle, Stop
from steelyard.contract import Contract
from steelyard.data.dataset import Dataset
from steelyard.errors import InputError, InvalidFile, Stopped
from steelyard.params import Candidate, Params
from steelyard.report.training import write_training_page
from steelyard.store import ObjectStore
from steelyard.training.job import Places, run_job
from steelyard.yaml_file import nearest

if TYPE_CHECKING:
    from steelyard.tracking.tracking import Tracking

OF_A_MODEL = (
    *("weights_sha256", "remembered", "resumed_from_step", "images_per_s", "peak_mib", "device", "precision"),
    *("onnx_max_diff", "micro_batch", "bundle", "page"),
)
OUTPUT_HOLDS = {"bundle", "checkpoints", "profile", "training.html", ".lock"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedCandidate:
    """What `steelyard train` answers."""

    bundle: ModelBundle
    page: Path

    def as_json(self) -> dict[str, object]:
        """Return what `--json` prints."""
        index = self.bundle.index
        return {
            "stopped": None,
            "run_key": index.run_key,
            "weights_sha256": index.files[WEIGHTS_FILE],
            "remembered": index.remembered,
            "resumed_from_step": 0 if index.remembered else index.resumed_from_step,
            "images_per_s": round(index.images_per_s, 1),
            "peak_mib": round(index.peak_mib, 1),
            "device": index.device,
            "precision": index.precision,
            "onnx_max_diff": index.onnx_max_diff,
            "micro_batch": index.micro_batch,
            "bundle": str(self.bundle.folder),
            "page": str(self.page),
        }

    def as_text(self) -> str:
        """Return the summary for people."""
        index = self.bundle.index
        best = next(epoch for epoch in index.history if epoch.epoch == index.best_epoch)
        name, value = best.chief
        how = "remembered" if index.remembered else f"trained in {index.training_seconds:.1f} s"
        lines = [
            f"{index.candidate}: {how}, epoch {best.epoch} of {len(index.history)} was the best",
            f"  validation  {name} {value:.4f}, loss {best.validation_loss:.4f}",
            f"  speed       {index.images_per_s:.0f} images/s in {index.precision} on {index.device}, "
            f"at most {index.peak_mib:.0f} MiB",
            f"  bundle      {self.bundle.folder}",
            f"  curves      {self.page}",
        ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppedCandidate:
    """What `steelyard train` answers where halving ended the training."""

    candidate: str
    stopped: Stop
    run_key: str

    def as_json(self) -> dict[str, object]:
        """Return what `--json` prints: there is no model to tell of."""
        return {"stopped": self.stopped.model_dump(), "run_key": self.run_key, **dict.fromkeys(OF_A_MODEL)}

    def as_text(self) -> str:
        """Return the summary for people."""
        return f"{self.candidate}: stopped at rung {self.stopped.rung}, {self.stopped.reason}\n"


def train_file(
    params: Path, name: str, data: Path, output: Path, contract: Path | None = None
) -> TrainedCandidate | StoppedCandidate:
    """Train one candidate of a params.yaml on a prepared dataset.

    Args:
        params: the file.
        name: of the candidate.
        data: what `steelyard prepare` wrote.
        output: gets `bundle/`, `profile/` and `training.html`, and `checkpoints/` while training lasts.
        contract: by which halving, if the params have it, tells what a candidate is worth.

    Raises:
        InputError: the file, the name or the dataset is wrong, or the output holds something else.
        CandidateFailed: by its own fault.
        StoreError: the object store does not answer.
    """
    store = ObjectStore.from_environment(os.environ)
    dataset = Dataset(data, store)
    candidate = _candidate(params, name, dataset)
    client = _client(contract, dataset) if contract else None
    refuse_foreign_files(output, OUTPUT_HOLDS)
    log_to_stderr()
    tracking = _tracking()
    if candidate.halving and not (client and tracking):
        logging.warning("%s: is trained to its end, as halving takes --contract and MLFLOW_TRACKING_URI", name)
    with claimed(output):
        bundle, page, profile = output / "bundle", output / "training.html", output / "profile"
        places = Places(bundle=bundle, checkpoints=str(output / "checkpoints"), store=store, profile=profile)
        try:
            trained = run_job(candidate, dataset, places, tracking, client)
        except Stopped as stopped:
            stop = Stop(rung=stopped.rung, reason=stopped.reason)
            return StoppedCandidate(candidate=name, stopped=stop, run_key=stopped.run_key)
        write_training_page(trained.index, profile, page)
        return TrainedCandidate(bundle=trained, page=page)


def _client(file: Path, dataset: Dataset) -> Contract:
    contract = Contract.from_yaml(read_user_file(file), str(file))
    contract.check_task(dataset.index.task, str(file))
    contract.check_classes(dataset.index.classes, str(file))
    return contract


def _candidate(file: Path, name: str, dataset: Dataset) -> Candidate:
    params = Params.from_yaml(read_user_file(file), str(file))
    params.check_trainable(str(file))
    check_architectures(params, file)
    if name not in params.candidates:
        raise InvalidFile(file, f"there is no {name!r}{nearest(name, list(params.candidates))}", "candidates")
    index, shape = dataset.index, params.data.shape
    if (index.task, index.image_shape) != (params.task, shape):
        held, wanted = _words(index.task, index.image_shape), _words(params.task, shape)
        raise InputError(f"--data: {dataset.folder} is for {held}, but {file} wants {wanted}; prepare it anew")
    return params.candidates[name]


def _words(task: str, shape: tuple[int, int, int]) -> str:
    return f"{task} of {'x'.join(map(str, shape))}"


def _tracking() -> "Tracking | None":
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return None
    from steelyard.tracking.tracking import Tracking

    return Tracking(uri)
