"""Halving, at the edge of a training: what a candidate is worth at a rung, beside what others were worth there."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from steelyard.bundle import Epoch, ModelBundle
from steelyard.contract import Contract
from steelyard.data.dataset import Dataset
from steelyard.errors import FootprintUnknown, Stopped, TrackingAway
from steelyard.evaluation.answers import Answers
from steelyard.evaluation.footprint import peak_memory_mib
from steelyard.evaluation.latency import measure_times
from steelyard.evaluation.metrics import quality
from steelyard.evaluation.times import QUANTILES, THROUGHPUT, TIMED
from steelyard.metrics import metric
from steelyard.params import Candidate
from steelyard.selection.halving import early_utility, goes_on, places, rung_epochs
from steelyard.selection.utility import IMAGES_PER_DOLLAR, images_per_dollar
from steelyard.tracking.rungs import RungRecord, Rungs

if TYPE_CHECKING:
    from steelyard.tracking.training_run import TrainingRun

log = logging.getLogger(__name__)

ROUNDS = 5  # in which the untrained model is timed


class Halving:
    """Judges one candidate at its rungs."""

    def __init__(
        self, candidate: Candidate, dataset: Dataset, contract: Contract, run_key: str, run: "TrainingRun"
    ) -> None:
        """Name what is judged.

        Args:
            candidate: whose epochs the rungs are shares of.
            dataset: on whose validation split it is measured.
            contract: by which it is worth something.
            run_key: of its training.
            run: where records lie.
        """
        self._candidate, self._dataset, self._contract, self._run_key = candidate, dataset, contract, run_key
        self._rungs = rung_epochs(candidate.training.epochs)
        self._records = Rungs(run, _comparable(dataset, contract))
        self._estimates: dict[str, float] | None = None

    def recall(self) -> None:
        """End the training before it begins, where an earlier one of it was ended.

        Raises:
            Stopped: says at which rung and why.
        """
        try:
            for epoch, rung in self._rungs.items():
                recorded = self._records.at(rung)
                record = recorded.get(self._run_key)
                if record is not None and record.goes_on is False:
                    raise self._stopped(rung, epoch, record, len(recorded))
        except TrackingAway as error:
            log.warning("%s: begins without asking how far it came before: %s", self._candidate.name, error)

    def judge(self, epoch: Epoch, answers: Callable[[], Answers | None]) -> None:
        """End the training at a rung unless the candidate is among the best that were recorded there.

        Without the tracking server nobody can be asked, and the candidate goes on. So it does where the memory that its
        model takes is wanted and can't be measured.

        Args:
            epoch: that has just ended, or ended before a cut.
            answers: to the validation split at its end; None where that is over.

        Raises:
            Stopped: says at which rung and why.
        """
        rung = self._rungs.get(epoch.epoch)
        if rung is None:
            return
        try:
            self._judge(rung, epoch, answers)
        except (TrackingAway, FootprintUnknown) as error:
            log.warning("%s: goes on from rung %d without a comparison: %s", self._candidate.name, rung, error)

    def _judge(self, rung: int, epoch: Epoch, answers: Callable[[], Answers | None]) -> None:
        others = self._records.at(rung)
        record = others.pop(self._run_key, None)
        if record is None:
            answered = answers()
            if answered is None:
                return
            record = self._measured(epoch, answered)
            self._records.write(rung, record)
            others = self._records.at(rung)
            del others[self._run_key]
        utilities = [other.utility for other in others.values()]
        stays = goes_on(record.utility, utilities) if record.goes_on is None else record.goes_on
        self._estimates = record.estimates
        self._records.write(rung, record.model_copy(update={"goes_on": stays}))
        if not stays:
            raise self._stopped(rung, epoch.epoch, record, len(others) + 1)

    def _stopped(self, rung: int, epoch: int, record: RungRecord, recorded: int) -> Stopped:
        return Stopped.at(
            rung,
            f"after epoch {epoch} of {self._candidate.training.epochs}, its early utility of {record.utility:.3f} "
            f"was not among the best {places(recorded)} of {recorded}",
        )

    def _measured(self, epoch: Epoch, answered: Answers) -> RungRecord:
        names, classes = self._contract.metrics, self._dataset.index.classes
        if self._estimates is None:
            self._estimates = estimates(self._candidate, self._dataset, names)
        wanted = [name for name in names if metric(name).quality]
        found = quality(answered, classes, np.ones((1, len(answered.labels_N))), wanted)
        values = self._estimates | {name: float(value_B[0]) for name, value_B in found.items()}
        values["training_minutes"] = epoch.seconds * self._candidate.training.epochs / 60
        if IMAGES_PER_DOLLAR in names:
            values[IMAGES_PER_DOLLAR] = float(images_per_dollar(values[THROUGHPUT], self._contract))
        return RungRecord(utility=early_utility(values, self._contract), estimates=self._estimates)


def estimates(candidate: Candidate, dataset: Dataset, names: Collection[str]) -> dict[str, float]:
    """Return what is known of a model before it is trained, from its ONNX file.

    Args:
        candidate: the model; the generator of its training, which goes on meanwhile, is left as it is.
        dataset: says how large its images are, and how many classes there are.
        names: of metrics; times and memory are measured where these need them.

    Raises:
        FootprintUnknown: the memory is needed and can't be measured.
    """
    from steelyard.training.export import export_untrained

    with tempfile.TemporaryDirectory() as folder:
        bundle = export_untrained(candidate, dataset, Path(folder) / "bundle")
        found = {"model_size_mib": bundle.size_mib, "parameters": float(bundle.index.parameters)}
        if not {*TIMED, IMAGES_PER_DOLLAR}.isdisjoint(names):
            found |= _times(bundle)
        if "peak_memory_mib" in names:
            found["peak_memory_mib"] = peak_memory_mib(bundle)
        return found


def _times(bundle: ModelBundle) -> dict[str, float]:
    times = measure_times({bundle.index.candidate: bundle}, rounds=ROUNDS)[bundle.index.candidate]
    quantiles = {name: float(np.quantile(times.latency_ms_RS, share)) for name, share in QUANTILES.items()}
    return {**quantiles, THROUGHPUT: float(np.median(times.throughput_R))}


def _comparable(dataset: Dataset, contract: Contract) -> str:
    agreed = {
        "task": dataset.index.task,
        "classes": dataset.index.classes,
        "images": dataset.ref.evaluated_on,
        "contract": contract.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).hexdigest()
