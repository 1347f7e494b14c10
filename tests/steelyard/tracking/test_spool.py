"""A training goes on while its tracking server is away; what was observed arrives later, once."""

import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from steelyard.bundle import Epoch, ModelBundle
from steelyard.data.dataset import Dataset
from steelyard.params import Candidate
from steelyard.tracking import claims, server, spool, training_run
from steelyard.tracking.server import TrackingServer
from steelyard.tracking.spool import Spool
from steelyard.tracking.tracking import Tracking
from steelyard.training.job import Places, run_job
from tests.mlflow_server import MlflowServer, serving

KEY = "0123456789abcdef"
FIGURES = ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy", "learning_rate", "seconds")


def epoch(number: int) -> Epoch:
    return Epoch(epoch=number, **dict.fromkeys(FIGURES, 1 / number))


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a server that is not there."""
    monkeypatch.setattr(claims, "SILENT_AFTER_S", 0.2)
    monkeypatch.setattr(training_run, "PATIENCE_S", 0.2)
    monkeypatch.setattr(server, "SECONDS_BETWEEN_TRIES", 0.1)
    return "http://127.0.0.1:9"


@pytest.fixture
def mlflow(migrated_database: Path, tmp_path: Path) -> Iterator[MlflowServer]:
    shutil.copyfile(migrated_database, tmp_path / "mlflow.db")
    with serving(tmp_path / "mlflow.db") as found:
        yield found


def steps(uri: str) -> Counter[int]:
    """Return how often each step of the only run's curve is there."""
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("steelyard").experiment_id])
    assert run.info.status == "FINISHED"
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"bundle"}
    return Counter(point.step for point in client.get_metric_history(run.info.run_id, "validation_loss"))


def test_a_server_that_hangs_and_is_killed_gets_each_point_once_when_it_is_back(
    mlflow: MlflowServer, candidate: Candidate, bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PROBE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(spool, "SECONDS_BETWEEN_TRIES", 0.1)
    with Tracking(mlflow.uri).training(KEY, candidate) as run:
        run.observe(epoch(1))
        mlflow.suspend()
        run.observe(epoch(2))
        mlflow.resume()
        run.observe(epoch(3))
        mlflow.stop()
        run.observe(epoch(4))
        run.observe(epoch(5))
        run.keep(bundle)
        mlflow.start()
    assert steps(mlflow.uri) == Counter([1, 2, 3, 4, 5])


def test_a_record_whose_answer_was_lost_is_sent_again_and_stays_one(
    tracking_uri: str, candidate: Candidate, bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "SECONDS_BETWEEN_TRIES", 0.01)
    lost: Counter[int] = Counter()
    log_batch = MlflowClient.log_batch

    def forgetful(client: MlflowClient, *words: object, **named: object) -> None:
        log_batch(client, *words, **named)
        lost.update([len(lost)])
        if lost.total() % 2:
            raise MlflowException("the answer was lost")

    monkeypatch.setattr(MlflowClient, "log_batch", forgetful)
    with Tracking(tracking_uri).training(KEY, candidate) as run:
        for number in (1, 2, 3):
            run.observe(epoch(number))
        run.keep(bundle)
    assert lost.total() == 8
    assert steps(tracking_uri) == Counter([1, 2, 3])


def test_what_the_server_refuses_is_raised_at_the_end_and_what_follows_is_sent(away: str) -> None:
    sent = []

    def refused() -> None:
        raise MlflowException.invalid_parameter_value("no such thing")

    records = Spool(TrackingServer("sqlite:///"), "x")
    for record in (lambda: sent.append(1), refused, lambda: sent.append(2)):
        records.put(record)
    with pytest.raises(MlflowException, match="no such thing"):
        records.close(patience_s=1)
    assert sent == [1, 2]


def test_with_tracking_away_a_training_ends_with_its_bundle_and_a_sentence(
    away: str, candidate: Candidate, dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "steelyard")
    places = Places(bundle=tmp_path / "bundle", checkpoints="", store=None)
    run_job(candidate, dataset, places, Tracking(away)).verify()
    said = [record.getMessage() for record in caplog.records if record.name.startswith("steelyard.tracking")]
    assert [line.partition(": ")[2][:44] for line in said] == [
        "training without asking whether others do or"[:44],
        "goes on without the tracking server, which d"[:44],
        "is trained but will not be remembered: the t"[:44],
    ]
