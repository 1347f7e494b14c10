"""The detector process judges what comes over its socket, tells over HTTP, and outlives its worker."""

import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from serving_kit import CLASSES, EMBEDDING, Running, detector, eventually, listening, samples_of, traffic, write_profile
from test_tap import samples_at, worker_of

from steelyard.drift.samples import Samples
from steelyard.drift.wire import Layout, frame, rows

LAYOUT = Layout(len(CLASSES), EMBEDDING)


def send(path: Path, *parts: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(path))
        connection.sendall(b"".join(parts))


def frames(samples: Samples) -> list[bytes]:
    return [LAYOUT.handshake(), *(frame(part) for part in np.array_split(rows(samples), 10))]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "drift.sock"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("detector")


@pytest.fixture(scope="module")
def watching(profile_folder: Path, shared: Path) -> Iterator[Running]:
    with detector(profile_folder, shared / "drift.sock", shared) as running:
        yield running


@pytest.mark.parametrize(("flags", "address"), [((), "00000000"), (("--host", "127.0.0.1"), "0100007F")])
def test_the_pages_are_served_at_the_host_given(path: Path, flags: tuple[str, ...], address: str) -> None:
    with detector(path.parent, path, path.parent, *flags) as running:
        assert listening(worker_of(running)) == {(address, running.http_port)}


def test_drift_is_reported_logged_and_counted(watching: Running, shared: Path, bundle_folder: Path) -> None:
    seen = samples_at(watching)
    send(shared / "drift.sock", *frames(samples_of(bundle_folder, traffic(100, 11))))
    eventually(lambda: samples_at(watching) == seen + 100)
    assert watching.get("/report").json()["state"] != "DRIFT"
    send(shared / "drift.sock", *frames(samples_of(bundle_folder, traffic(200, 12, brightness=120))))
    eventually(lambda: samples_at(watching) == seen + 300)
    report = watching.get("/report").json()
    assert report["state"] == "DRIFT"
    (alarm,) = [alarm for alarm in report["alarms"] if alarm["level"] == "DRIFT"]
    assert seen + 100 < alarm["after_samples"] <= seen + 200
    assert alarm["statistic"] > alarm["threshold"]
    assert {reading["detector"] for reading in report["statistics"]} >= {alarm["detector"]}
    logged = [json.loads(line) for line in watching.log.read_text().splitlines() if line.startswith("{")]
    assert alarm | {"event": "drift_alarm"} in logged
    assert watching.metric("drift_state") == 2
    assert watching.metric('drift_alarms_total{kind="DRIFT"}') == 1
    assert watching.metric("drift_samples_total") == seen + 300
    text = watching.get("/metrics").body.decode()
    for name in ("drift_statistic", "drift_threshold", "drift_pvalue", "drift_kl_divergence", "drift_cross_entropy"):
        assert f"\n{name}" in text
    assert "\ndrift_estimated_accuracy " in text
    assert "\ndrift_profile_info{" in text


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"GET / HTTP/1.1\r\n\r\n    ", "does not speak the drift protocol"),
        (Layout(7, 9).handshake() + frame(np.ones((1, 20), np.float32)), "samples are of widths (7, 9, 4)"),
    ],
)
def test_nonsense_on_the_socket_harms_nobody(
    watching: Running, shared: Path, bundle_folder: Path, data: bytes, sentence: str
) -> None:
    send(shared / "drift.sock", data)
    eventually(lambda: sentence in watching.log.read_text())
    seen = samples_at(watching)
    send(shared / "drift.sock", *frames(samples_of(bundle_folder, traffic(10, 13))))
    eventually(lambda: samples_at(watching) == seen + 10)


def test_other_pages_are_not_found(watching: Running) -> None:
    assert watching.get("/nowhere").status == 404


def test_without_a_profile_it_says_so_once_and_waits_for_one(tmp_path: Path, path: Path, bundle_folder: Path) -> None:
    with detector(tmp_path, path, tmp_path) as running:
        send(path, *frames(samples_of(bundle_folder, traffic(10, 1))))
        eventually(lambda: samples_at(running) == 10)
        report = running.get("/report").json()
        assert (report["state"], report["alarms"]) == ("NO_PROFILE", [])
        assert "reference.json" in str(report["reason"])
        assert running.metric("drift_state") == -1
        time.sleep(1.5)
        assert running.log.read_text().count("no drift is detected") == 1
        write_profile(bundle_folder, tmp_path)
        eventually(lambda: running.get("/report").json()["state"] == "OK")


def test_a_killed_worker_is_started_again(
    profile_folder: Path, path: Path, tmp_path: Path, bundle_folder: Path
) -> None:
    with detector(profile_folder, path, tmp_path) as running:
        killed = worker_of(running)
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: "the worker ended with -9" in running.log.read_text())
        eventually(lambda: answers(running))
        assert worker_of(running) != killed
        send(path, *frames(samples_of(bundle_folder, traffic(10, 1))))
        eventually(lambda: samples_at(running) == 10)


@pytest.mark.skipif(sys.platform != "linux", reason="takes memory away from a running process, as only Linux can")
def test_a_worker_that_runs_out_of_memory_makes_way_for_another(
    profile_folder: Path, path: Path, tmp_path: Path
) -> None:
    with detector(profile_folder, path, tmp_path) as running:
        starved = worker_of(running)
        resource.prlimit(starved, resource.RLIMIT_DATA, (2**20, 2**20))
        eventually(lambda: "the worker ended with 1" in running.log.read_text())
        eventually(lambda: answers(running))
        assert worker_of(running) != starved


def answers(running: Running) -> bool:
    try:
        return running.get("/healthz").status == 200
    except OSError:
        return False


def test_sigterm_ends_it_promptly_and_the_next_goes_on(
    profile_folder: Path, path: Path, tmp_path: Path, bundle_folder: Path
) -> None:
    with detector(profile_folder, path, tmp_path) as running:
        send(path, *frames(samples_of(bundle_folder, traffic(200, 12, brightness=120))))
        eventually(lambda: samples_at(running) == 200)
        before = running.get("/report").json()
        start = time.monotonic()
        assert running.stop(5) == 0
        assert time.monotonic() - start < 2
    assert (tmp_path / "drift.snapshot").exists()
    with detector(profile_folder, path, tmp_path) as running:  # over the socket that the first left behind
        assert running.get("/report").json() == before
        assert running.metric('drift_alarms_total{kind="DRIFT"}') == 1
    other = write_profile(bundle_folder, tmp_path / "other", seed=5)
    with detector(other, path, tmp_path) as running:
        assert samples_at(running) == 0
        assert "under another reference profile" in running.log.read_text()


def test_a_worker_beyond_its_memory_does_not_end_the_container(
    profile_folder: Path, path: Path, tmp_path: Path
) -> None:
    with detector(profile_folder, path, tmp_path, "--memory-mib", "8", ready=None) as running:
        eventually(lambda: running.log.read_text().count("the worker ended with") >= 2)
        assert running.process.poll() is None
        assert running.stop(2) == 0
