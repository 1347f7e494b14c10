"""One training as MLflow sees it go on: parameters, curves, and the bundle or the reason why there is none."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.bundle import Epoch, ModelBundle
from steelyard.errors import CandidateFailed, OutOfDeviceMemory, Stopped, TrackingAway
from steelyard.params import Candidate
from steelyard.tracking.server import TrackingServer
from steelyard.tracking.spool import Spool

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from steelyard.training.live import Live

log = logging.getLogger(__name__)

PATIENCE_S = 300.0  # for a server that is away when a training has ended well
PATIENCE_AFTER_FAILURE_S = 10.0
SETTLE_S = 10.0  # for what was observed until then to arrive
MOST_RUNS = 1000
LONGEST_TAG = 500
FAILURE = "failure"  # tag of a run: why it failed, by the candidate's own fault
TOO_LARGE = "too_large"  # tag of a run: why it failed on that device, as it may not on another
STOPPED = "stopped"  # tag of a run: why halving ended it
DAMAGED = "damaged"  # tag of a run: its bundle can't be read


class Trainings:
    """The runs of trainings in an experiment."""

    def __init__(self, client: "MlflowClient", server: TrackingServer, experiment: Callable[[], str]) -> None:
        """Name the place.

        Args:
            client: connected to the server.
            server: the same.
            experiment: returns the experiment's id; asked for when the server answers.
        """
        self.client, self.server, self.experiment = client, server, experiment

    def whole(self, run_key: str) -> list[str]:
        """Return the runs that have a bundle, the first that was complete first; it is the one that counts."""
        return [str(run.info.run_id) for run in self._runs(run_key, "FINISHED") if DAMAGED not in run.data.tags]

    def set_aside(self, run_id: str) -> None:
        """Count on a run's bundle no more."""
        self.client.set_tag(run_id, DAMAGED, "true")

    def failures(self, run_key: str) -> dict[str, str]:
        """Return why trainings failed by the candidate's own fault, by run."""
        runs = self._runs(run_key, "FAILED")
        return {run.info.run_id: run.data.tags[FAILURE] for run in runs if FAILURE in run.data.tags}

    def end_lost(self, run_key: str, reason: str = "") -> None:
        """End the runs of trainings that could not do so themselves; as failed, where the candidate is the reason."""
        for run in self._runs(run_key, "RUNNING"):
            if reason:
                self.client.set_tag(run.info.run_id, FAILURE, reason[:LONGEST_TAG])
            self.client.set_terminated(run.info.run_id, "FAILED" if reason else "KILLED")

    @contextmanager
    def begun(self, run_key: str, candidate: Candidate) -> Iterator["TrainingRun"]:
        """Record a training from its first epoch to its bundle or its failure, as soon as the server answers."""
        spool = Spool(self.server, candidate.name)
        run = TrainingRun(self, spool, run_key, candidate)
        try:
            yield run
        except BaseException as error:
            run.fail(error)
            try:
                spool.close(PATIENCE_AFTER_FAILURE_S)
            except Exception as refused:  # the training's own failure says more
                log.warning("%s: the tracking server refused a record: %s", candidate.name, refused)
            raise
        run.end()
        if not spool.close(PATIENCE_S):
            log.warning("%s: is trained but will not be remembered: the tracking server stayed away", candidate.name)

    def tagged(self, name: str) -> list[dict[str, str]]:
        """Return the tags of the runs that have this one, the newest first."""
        condition = f"tags.stage = 'training' and tags.`{name}` LIKE '%'"
        found = self.client.search_runs([self.experiment()], condition, max_results=MOST_RUNS)
        return [dict(run.data.tags) for run in found]

    def _runs(self, run_key: str, status: str) -> "list[Run]":
        condition = f"tags.run_key = '{run_key}' and tags.stage = 'training' and attributes.status = '{status}'"
        return list(self.client.search_runs([self.experiment()], condition, order_by=["attributes.end_time"]))


class TrainingRun:
    """One training as it goes on; nothing here waits for the server."""

    def __init__(self, trainings: Trainings, spool: Spool, run_key: str, candidate: Candidate) -> None:
        self._trainings, self._client, self._spool = trainings, trainings.client, spool
        self._run_key, self._candidate = run_key, candidate
        self._run_id = ""  # until the server answers
        self.overtaken = False  # once all has arrived: whether another's bundle was there first
        spool.put(self._begin)

    def observe(self, point: "Epoch | Live") -> None:
        """Record an epoch's figures, or some from inside one, as points of curves; sent twice, a point is the same."""
        from mlflow.entities import Metric

        now_ms, step = int(time.time() * 1000), point.epoch if isinstance(point, Epoch) else point.step
        points = [Metric(name, value, now_ms, step) for name, value in _figures(point).items()]
        self._spool.put(lambda: self._client.log_batch(self._run_id, metrics=points))

    def keep(self, bundle: ModelBundle) -> None:
        """Record the bundle, from which the training will be remembered, unless another's is there."""
        self._spool.put(lambda: self._keep(bundle))

    def attach(self, folder: Path) -> None:
        """Record a folder beside the bundle, under its own name, after the run has ended.

        Where the server is away, or has never heard of the run, the folder is left out.
        """
        if not self._run_id:
            return
        try:
            self._trainings.server.ask(lambda: self._client.log_artifacts(self._run_id, str(folder), folder.name))
        except TrackingAway as error:
            log.warning("%s: its %s is not recorded: %s", self._candidate.name, folder.name, error)

    def end(self) -> None:
        """End the run."""
        self._spool.put(lambda: self._client.set_terminated(self._run_id, "KILLED" if self.overtaken else "FINISHED"))

    def fail(self, error: BaseException) -> None:
        """End the run without a bundle, and say why if it is the candidate's fault or was stopped."""
        status = "FAILED"
        if isinstance(error, Stopped):
            status = "KILLED"
            self._spool.put(lambda: self._client.set_tag(self._run_id, STOPPED, str(error)[:LONGEST_TAG]))
        elif isinstance(error, CandidateFailed):
            tag = TOO_LARGE if isinstance(error, OutOfDeviceMemory) else FAILURE
            self._spool.put(lambda: self._client.set_tag(self._run_id, tag, str(error)[:LONGEST_TAG]))
        self._spool.put(lambda: self._client.set_terminated(self._run_id, status))

    def tag(self, name: str, value: str) -> None:
        """Put a tag on the run now.

        Raises:
            TrackingAway: the server does not answer.
        """
        if not self._spool.settle(SETTLE_S):
            raise TrackingAway(f"{self._trainings.server.uri}: does not answer")
        self._trainings.server.ask(lambda: self._client.set_tag(self._run_id, name, value))

    def all_tagged(self, name: str) -> list[dict[str, str]]:
        """Return the tags of every training's run that has this one, the newest first.

        Raises:
            TrackingAway: the server does not answer.
        """
        return self._trainings.server.ask(lambda: self._trainings.tagged(name))

    def _begin(self) -> None:
        from mlflow.entities import Param

        if not self._run_id:
            name, tags = self._candidate.name, {"stage": "training", "run_key": self._run_key}
            created = self._client.create_run(self._trainings.experiment(), tags=tags, run_name=name)
            self._run_id = str(created.info.run_id)
        values = self._candidate.training.model_dump() | {"model": self._candidate.model_spec()}
        self._client.log_batch(self._run_id, params=[Param(key, str(value)) for key, value in values.items()])

    def _keep(self, bundle: ModelBundle) -> None:
        self.overtaken = bool({*self._trainings.whole(self._run_key)} - {self._run_id})
        if not self.overtaken:
            self._client.log_artifacts(self._run_id, str(bundle.folder), "bundle")


def _figures(point: "Epoch | Live") -> dict[str, float]:
    if isinstance(point, Epoch):
        return point.model_dump(exclude={"epoch"}, exclude_none=True)
    return {f"live/{name}": value for name, value in point.figures().items()}
