"""A tiny real model, and real servers on free ports around it."""

import base64
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from steelyard.bundle import BundleIndex, ModelBundle, checksums
from steelyard.data.dataset import DatasetRef
from steelyard.drift.calibration import build_profile
from steelyard.drift.samples import Samples, image_statistics

SHAPE = (8, 8, 1)
CLASSES = ("cat", "dog", "eel")
EMBEDDING = 5
RUN_KEY = "0123456789abcdef" * 4
VERSION = RUN_KEY[:12]


def write_bundle(folder: Path) -> Path:
    """A linear model over the pixels: uint8 NHWC in, probabilities and embedding out."""
    rng = np.random.default_rng(0)
    pixels = int(np.prod(SHAPE))
    weights = {
        "scale": np.array(1 / 255, np.float32),
        "flat": np.array([-1, pixels], np.int64),
        "project": rng.normal(size=(pixels, EMBEDDING)).astype(np.float32),
        "classify": rng.normal(size=(EMBEDDING, len(CLASSES))).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "project"], ["embedding"]),
        helper.make_node("MatMul", ["embedding", "classify"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", *SHAPE])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(CLASSES)]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", EMBEDDING]),
        ],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    (folder / "1").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "1" / "model.onnx")
    write_index(folder)
    return folder


def write_mask_bundle(folder: Path) -> Path:
    """A linear model of each pixel: the darkest are cats, the brightest eels."""
    weights = {
        "scale": np.array(1 / 255, np.float32),
        "slope": np.float32([-8, 0, 8]).reshape(3, 1, 1, 1),
        "level": np.float32([3, 1, -5]),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "slope", "level"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ReduceMean", ["planes"], ["embedding"], axes=[2, 3], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", *SHAPE])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(CLASSES), *SHAPE[:2]]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 1]),
        ],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    (folder / "1").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "1" / "model.onnx")
    write_index(folder, task="segmentation", embedding_size=1)
    return folder


def write_index(folder: Path, task: str = "classification", embedding_size: int = EMBEDDING) -> None:
    BundleIndex(
        candidate="tiny",
        task=task,
        classes=CLASSES,
        input_shape=SHAPE,
        embedding_size=embedding_size,
        run_key=RUN_KEY,
        dataset=DatasetRef(content_digest="c", split_digest="s"),
        model={},
        training={},
        parameters=1,
        opset=17,
        history=(),
        best_epoch=0,
        training_seconds=0,
        device="cpu",
        files=dict(checksums(folder)),
    ).write(folder / "bundle.json")


def noise(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), np.uint8)


def png(image_HWC: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image_HWC[:, :, 0]).save(stream, "PNG")
    return stream.getvalue()


def traffic(count: int, seed: int, brightness: int = 60) -> NDArray[np.uint8]:
    """Images that differ, of about one brightness."""
    rng = np.random.default_rng(seed)
    return rng.normal(brightness, 20, (count, *SHAPE)).clip(0, 255).astype(np.uint8)


def samples_of(bundle: Path, images_NHWC: NDArray[np.uint8]) -> Samples:
    """What the tap would send of these images."""
    return Samples(*ModelBundle(bundle).predict_all(images_NHWC), image_statistics(images_NHWC))


def write_profile(bundle: Path, folder: Path, seed: int = 0) -> Path:
    """Calibrate on traffic."""
    train, held_out = (samples_of(bundle, traffic(count, seed + i)) for i, count in enumerate((400, 300)))
    labels = [part.probabilities_NC.argmax(axis=1) for part in (train, held_out)]
    folder.mkdir(parents=True, exist_ok=True)
    build_profile(
        train, labels[0], held_out, labels[1], classes=CLASSES, model_sha256="0" * 64, seed=seed, arl0=1000
    ).write(folder)
    return folder


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def listening(pid: int) -> set[tuple[str, int]]:
    """The addresses, in the kernel's hexadecimal, and TCP ports at which a process listens."""
    sockets = {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()}
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()
    ]
    ends = [line[1].split(":") for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in sockets]
    return {(address, int(port, 16)) for address, port in ends}


def eventually(condition: Callable[[], object], timeout_s: float = 30, what: str = "it") -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s} s"
        time.sleep(0.05)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, object]:
        content = json.loads(self.body)
        assert isinstance(content, dict)
        return content


@dataclass
class Running:
    """A process of ours and its HTTP port."""

    process: subprocess.Popen[bytes]
    http_port: int
    log: Path
    grpc_port: int = 0

    def get(self, path: str) -> Answer:
        return self._send(urllib.request.Request(self._url(path)))

    def post(self, path: str, body: bytes | dict[str, object], **headers: str) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {"Content-Type": "application/json"} | {key.replace("_", "-"): value for key, value in headers.items()}
        return self._send(urllib.request.Request(self._url(path), data, named, method="POST"))

    def metric(self, name: str) -> float:
        """Sum of a metric over its labels, or of one with the labels given; 0 where it has not been seen."""
        lines = self.get("/metrics").body.decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith((name + " ", name + "{")))

    def stop(self, within_s: float) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.http_port}{path}"

    def _send(self, request: urllib.request.Request) -> Answer:
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return Answer(response.status, dict(response.headers), response.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers), error.read())


def _answers(server: Running, path: str) -> bool:
    assert server.process.poll() is None, server.log.read_text()
    with contextlib.suppress(OSError):
        return server.get(path).status == 200
    return False


@contextlib.contextmanager
def running(
    module: str, log: Path, ready: str | None, *arguments: str, http_port: int, grpc_port: int | None = None
) -> Iterator[Running]:
    """Start `python -m module`, wait until a page answers, and end it."""
    command = [sys.executable, "-m", module, "--http-port", str(http_port), *arguments]
    if grpc_port is not None:
        command += ["--grpc-port", str(grpc_port)]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=Path(__file__).parents[2])
    server = Running(process, http_port, log, grpc_port or 0)
    try:
        if ready is not None:
            eventually(lambda: _answers(server, ready), 60, f"{module} ready")
        yield server
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def predictor(bundle: Path, folder: Path, *arguments: str, grpc_port: int | None = None) -> Iterator[Running]:
    """A predictor over a bundle, whose log lies in a folder."""
    with running(
        "serving.predictor",
        folder / "predictor.log",
        "/v2/models/tiny/ready",
        *("--model-dir", str(bundle), "--name", "tiny", "--host", "127.0.0.1", "--drain-s", "0", *arguments),
        http_port=free_port(),
        grpc_port=free_port() if grpc_port is None else grpc_port,
    ) as server:
        yield server


@contextlib.contextmanager
def detector(
    model_dir: Path, path: Path, folder: Path, *arguments: str, ready: str | None = "/healthz"
) -> Iterator[Running]:
    """A drift detector at a socket, whose log lies in a folder."""
    with running(
        "serving.drift_detector",
        folder / "detector.log",
        ready,
        *("--model-dir", str(model_dir), "--socket", str(path), *arguments),
        http_port=free_port(),
    ) as server:
        yield server
