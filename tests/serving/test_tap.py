"""The tap hands samples over in order, never waits, and survives whatever happens to the detector."""

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from serving_kit import (
    SHAPE,
    Running,
    detector,
    eventually,
    noise,
    predictor,
    traffic,
    write_bundle,
    write_profile,
)

from serving.predictor.tap import Tap
from steelyard.bundle import ModelBundle
from steelyard.drift.wire import Decoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tap")


@pytest.fixture(scope="module")
def tapped(folder: Path) -> Iterator[Running]:
    """A predictor whose bundle has a profile; it puts a copy where the socket is, for the detectors below."""
    bundle = write_bundle(folder / "tiny")
    write_profile(bundle, bundle)
    with predictor(bundle, folder, "--drift-socket", str(folder / "drift.sock")) as running:
        yield running


def ask(server: Running, requests: int, images_NHWC: NDArray[np.uint8]) -> float:
    """Ask for the same images again and again over one connection; return the slowest answer's seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20)
    head = {"name": "images", "shape": list(images_NHWC.shape), "datatype": "UINT8"}
    parameters = {"binary_data_size": images_NHWC.size}
    json_part = json.dumps({"inputs": [head | {"parameters": parameters}]}).encode()
    slowest = 0.0
    for _ in range(requests):
        start = time.monotonic()
        headers = {"Inference-Header-Content-Length": str(len(json_part)), "Content-Type": "application/octet-stream"}
        connection.request("POST", "/v2/models/tiny/infer", json_part + images_NHWC.tobytes(), headers)
        response = connection.getresponse()
        assert (response.status, bool(response.read())) == (200, True)
        slowest = max(slowest, time.monotonic() - start)
    return slowest


def samples_at(server: Running) -> int:
    return int(str(server.get("/report").json()["samples"]))


def test_a_detector_sees_every_answer_dies_and_comes_back(tapped: Running, folder: Path) -> None:
    path = folder / "drift.sock"
    ask(tapped, 20, noise(1))  # nobody listens yet
    with detector(folder, path, folder, "--snapshot", "") as first:
        eventually(lambda: tapped.metric("drift_connected") == 1)
        eventually(lambda: tapped.metric("drift_sent_total") == samples_at(first) == 20)
        assert first.get("/report").json()["state"] != "NO_PROFILE"
        ask(tapped, 30, traffic(4, 7))
        eventually(lambda: samples_at(first) == 140)
        assert first.stop(2) == 0
    sent = tapped.metric("drift_sent_total")
    ask(tapped, 50, traffic(4, 8))
    assert tapped.metric("drift_sent_total") == sent
    eventually(lambda: tapped.metric("drift_connected") == 0, 5)
    with detector(folder, path, folder, "--snapshot", "") as second:
        eventually(lambda: tapped.metric("drift_connected") == 1)
        ask(tapped, 5, traffic(4, 9))
        eventually(lambda: tapped.metric("drift_sent_total") - sent == samples_at(second) > 20)


def test_a_hung_detector_costs_samples_but_no_answer(tapped: Running, folder: Path) -> None:
    with detector(folder, folder / "drift.sock", folder, "--snapshot", "") as hung:
        eventually(lambda: tapped.metric("drift_connected") == 1)
        processes = [hung.process.pid, worker_of(hung)]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        dropped = tapped.metric("drift_dropped_total")
        try:
            deadline = time.monotonic() + 15
            slowest = 0.0
            while tapped.metric("drift_dropped_total") == dropped:
                assert time.monotonic() < deadline
                slowest = max(slowest, ask(tapped, 20, noise(200)))
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)
        assert slowest < 2  # of a busy machine; the tap's own time-out is 0.2 s
        eventually(lambda: tapped.metric("drift_connected") == 1)
        seen = samples_at(hung)
        ask(tapped, 5, noise(1))
        eventually(lambda: samples_at(hung) > seen)


def worker_of(running: Running) -> int:
    children = subprocess.run(["pgrep", "-P", str(running.process.pid)], capture_output=True, text=True, check=True)
    return int(children.stdout)


class Listener:
    """The detector's side of a socket, in the hands of a test."""

    def __init__(self, path: Path) -> None:
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(path))
        self._server.listen()
        self._server.settimeout(10)
        self._decoder = Decoder()

    def brightness(self, count: int) -> NDArray[np.float32]:
        """Of the next samples, in the order they come."""
        connection, _ = self._server.accept()
        connection.settimeout(10)
        found: list[float] = []
        with connection:
            while len(found) < count:
                for samples in self._decoder.feed(connection.recv(2**16)):
                    found += samples.statistics_NS[:, 0].tolist()
        return np.array(found, np.float32)

    def close(self) -> None:
        self._server.close()


def ladder(count: int) -> NDArray[np.uint8]:
    """Images, each brighter than the one before."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, *SHAPE)).copy()


def test_samples_come_in_the_order_answered(bundle_folder: Path, tmp_path: Path) -> None:
    listener, bundle = Listener(tmp_path / "s"), ModelBundle(bundle_folder)
    tap = Tap(tmp_path / "s", bundle)
    for image_HWC in ladder(200):
        tap.offer(image_HWC[None], bundle.predict(image_HWC[None]))
    assert listener.brightness(200) == pytest.approx(np.arange(200) / 255, abs=1e-6)
    tap.close()
    listener.close()


def test_the_oldest_are_dropped_and_the_rate_thins(bundle_folder: Path, tmp_path: Path) -> None:
    bundle = ModelBundle(bundle_folder)
    images_NHWC = ladder(200)
    outputs = bundle.predict(images_NHWC)
    tap = Tap(tmp_path / "s", bundle, rate=0.25)
    for _ in range(101):  # 5,050 samples after thinning, of which 4,096 fit
        tap.offer(images_NHWC, outputs)
    listener = Listener(tmp_path / "s")
    found = listener.brightness(4096)
    assert len(found) == 4096
    assert found[-1] == pytest.approx(199 / 255)
    assert np.diff(found[-50:]) == pytest.approx(4 / 255, abs=1e-6)
    tap.close()
    listener.close()


def test_offering_without_a_detector_takes_no_time(bundle_folder: Path, tmp_path: Path) -> None:
    bundle = ModelBundle(bundle_folder)
    image_1HWC = noise(1)
    outputs = bundle.predict(image_1HWC)
    tap = Tap(tmp_path / "nobody", bundle)
    start = time.process_time()
    for _ in range(1000):
        tap.offer(image_1HWC, outputs)
    assert (time.process_time() - start) / 1000 < 0.001
    tap.close()
