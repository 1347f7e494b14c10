"""Equal trainings at once, in processes of their own, over a real database and a real server."""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from mlflow import MlflowClient

from steelyard.bundle import ModelBundle
from steelyard.data.dataset import Dataset
from steelyard.errors import CandidateFailed, OutOfDeviceMemory, TrainingDiverged
from steelyard.params import Candidate
from steelyard.tracking import claims, server
from steelyard.tracking.tracking import Tracking, Turn
from steelyard.training.job import Places, run_job
from tests.mlflow_server import serving
from tests.processes import processes

AT_ONCE = 8
ROUNDS = {"sqlite": 20, "http": 4}


@pytest.fixture(params=["database", "server"])
def uri(request: pytest.FixtureRequest, tracking_uri: str, tmp_path: Path) -> Iterator[str]:
    """Where everybody meets."""
    Tracking(tracking_uri).connect()
    if request.param == "database":
        yield tracking_uri
        return
    with serving(tmp_path / "mlflow.db") as found:
        yield found.uri


def hurry(silent_after_s: float = 60.0) -> None:
    """Wait for less long than in earnest."""
    claims.SECONDS_BETWEEN_LOOKS, claims.SECONDS_BETWEEN_BEATS = 0.2, 0.2
    claims.SILENT_AFTER_S, server.SECONDS_BETWEEN_TRIES = silent_after_s, 0.1


def rounds_at(uri: str) -> int:
    return ROUNDS[uri.partition(":")[0]]


def take_turns(uri: str, candidate: Candidate, trained: Path, place: Path, begin: Barrier) -> None:
    """Want the same as seven others, again and again; "train" by copying a bundle and leaving a line."""
    hurry()
    tracking = Tracking(uri)
    for number in range(rounds_at(uri)):
        key = f"{number:016x}"
        begin.wait(60)
        with tracking.turn(key, candidate.name, place / f"bundle-{number}", "") as turn:
            if turn.bundle is None:
                with (place.parent / key).open("a") as lines:
                    lines.write(f"{os.getpid()}\n")
                with tracking.training(key, candidate) as run:
                    run.keep(ModelBundle(trained))


def test_of_eight_that_begin_at_once_one_trains_each_time(
    uri: str, candidate: Candidate, bundle: ModelBundle, tmp_path: Path
) -> None:
    begin = processes.Barrier(AT_ONCE)
    places = [tmp_path / f"process-{number}" for number in range(AT_ONCE)]
    workers = [
        processes.Process(target=take_turns, args=(uri, candidate, bundle.folder, place, begin)) for place in places
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * AT_ONCE
    for number in range(rounds_at(uri)):
        assert len((tmp_path / f"{number:016x}").read_text().splitlines()) == 1
        assert sum((place / f"bundle-{number}").exists() for place in places) == AT_ONCE - 1
    assert MlflowClient(tracking_uri=uri, registry_uri=uri).search_registered_models() == []


def do_job(uri: str, candidate: Candidate, dataset: Path, place: Path) -> None:
    """Do a real training job, with checkpoints where nobody else looks."""
    place.mkdir()
    logging.basicConfig(filename=place / "log", level=logging.INFO, format="%(message)s")
    hurry(silent_after_s=2)
    places = Places(bundle=place / "bundle", checkpoints=str(place / "checkpoints"), store=None)
    run_job(candidate, Dataset(dataset), places, Tracking(uri))


def until(found: Callable[[], object]) -> None:
    while not found():
        time.sleep(0.01)


def test_a_killed_owner_is_taken_over_once_from_its_checkpoint(
    tracking_uri: str, candidate: Candidate, dataset: Dataset, tmp_path: Path
) -> None:
    Tracking(tracking_uri).connect()
    longer = candidate.model_copy(update={"training": candidate.training.model_copy(update={"epochs": 20})})
    places = {name: tmp_path / name for name in ("owner", "second", "third")}
    jobs = {
        name: processes.Process(
            target=do_job,
            args=(tracking_uri, longer.model_copy(update={"name": name}), dataset.folder, place),
        )
        for name, place in places.items()
    }
    jobs["owner"].start()
    until(lambda: "epoch 3 of" in logged(places["owner"]))
    os.kill(int(jobs["owner"].pid or 0), signal.SIGSTOP)
    for name in ("second", "third"):
        jobs[name].start()
        until(lambda name=name: "waiting for owner" in logged(places[name]))
    os.kill(int(jobs["owner"].pid or 0), signal.SIGKILL)
    for job in jobs.values():
        job.join()
    assert [job.exitcode for job in jobs.values()] == [-signal.SIGKILL, 0, 0]
    bundles = [ModelBundle(places[name] / "bundle").index for name in ("second", "third")]
    assert sorted(bundle.remembered for bundle in bundles) == [False, True]
    assert all(bundle.resumed_from_step > 0 for bundle in bundles)
    assert sum("owner (process" in logged(place) and "taking over" in logged(place) for place in places.values()) == 1
    client = MlflowClient(tracking_uri=tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("steelyard").experiment_id])
    assert sorted(run.info.status for run in runs) == ["FINISHED", "KILLED"]
    assert client.search_registered_models() == []
    assert not list((places["owner"] / "checkpoints").iterdir())


def logged(place: Path) -> str:
    return (place / "log").read_text() if (place / "log").exists() else ""


def test_an_owner_s_own_failure_is_the_result_of_those_who_wait(
    tracking_uri: str,
    candidate: Candidate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(claims, "SECONDS_BETWEEN_LOOKS", 0.05)
    caplog.set_level(logging.INFO, "steelyard")
    owner, other = Tracking(tracking_uri), Tracking(tracking_uri)
    owner.connect()

    def fail_while_another_waits(error: CandidateFailed) -> None:
        with owner.turn("a" * 16, "first", tmp_path / "first", ""), owner.training("a" * 16, candidate):
            waiting.append(pool.submit(other.turn("a" * 16, "second", tmp_path / "second", "").__enter__))
            until(lambda: "waiting for first" in caplog.text)
            raise error

    waiting: list[Future[Turn]] = []
    with ThreadPoolExecutor() as pool:
        with pytest.raises(TrainingDiverged):
            fail_while_another_waits(TrainingDiverged("the loss became nan"))
        with pytest.raises(CandidateFailed, match="the loss became nan"):
            waiting[0].result()
        caplog.clear()
        with pytest.raises(OutOfDeviceMemory):
            fail_while_another_waits(OutOfDeviceMemory("not even one image fits the device"))
        assert waiting[1].result().bundle is None  # another device may have more


def test_an_owner_that_was_only_slow_takes_the_result_that_was_there_first(
    tracking_uri: str, candidate: Candidate, bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "SILENT_AFTER_S", 0.3)
    monkeypatch.setattr(claims, "SECONDS_BETWEEN_LOOKS", 0.05)
    slow, fast = Tracking(tracking_uri), Tracking(tracking_uri)
    with slow.turn("a" * 16, "slow", tmp_path / "slow", "") as turn, slow.training("a" * 16, candidate) as late:
        assert turn.bundle is None
        with fast.turn("a" * 16, "fast", tmp_path / "fast", "") as taken, fast.training("a" * 16, candidate) as run:
            assert taken.bundle is None
            run.keep(bundle)
        late.keep(bundle)
    assert (run.overtaken, late.overtaken) == (False, True)
    client = MlflowClient(tracking_uri=tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("steelyard").experiment_id])
    assert sorted(run.info.status for run in runs) == ["FINISHED", "KILLED"]
    assert client.search_registered_models() == []
