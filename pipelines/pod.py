"""The serving pod on this machine: predictor and drift detector, two processes joined by a unix socket."""

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import urllib3

from steelyard.errors import InputError, SteelyardError

READY_WITHIN_S = 60.0
ENDS_WITHIN_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """Where its two processes answer."""

    name: str
    predictor_url: str
    detector_url: str
    processes: tuple["subprocess.Popen[bytes]", ...]

    def check(self) -> None:
        """Raise SteelyardError if a process has ended."""
        for process in self.processes:
            if process.poll() is not None:
                raise SteelyardError(f"the model server or its drift detector ended with {process.returncode}")


@contextlib.contextmanager
def serving_pod(model: Path, name: str, http_port: int, grpc_port: int, drift_port: int, log: Path) -> Iterator[Pod]:
    """Start both processes, wait until they are ready, and end them when the block ends.

    Args:
        model: a packed ModelBundle.
        name: under which the model answers.
        http_port: of the predictor, as the two below: a free port.
        grpc_port: likewise.
        drift_port: of the detector's /metrics and /report.
        log: gets what both print.

    Raises:
        SteelyardError: a process ended or did not become ready.
    """
    for port in (http_port, grpc_port, drift_port):
        _refuse_taken(port)
    with contextlib.ExitStack() as stack:
        short = stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp"))  # a socket's path has at most 107 bytes
        output = stack.enter_context(log.open("w", encoding="utf-8"))
        common = ["--model-dir", str(model), "--host", "127.0.0.1"]
        detector = ["--socket", f"{short}/drift.sock", "--http-port", str(drift_port)]
        predictor = ["--name", name, "--http-port", str(http_port), "--grpc-port", str(grpc_port)]
        predictor += ["--drift-socket", f"{short}/drift.sock", "--drain-s", "0"]
        predictor_url, detector_url = f"http://127.0.0.1:{http_port}", f"http://127.0.0.1:{drift_port}"
        processes = []
        for module, arguments, ready in (
            ("serving.drift_detector", detector, f"{detector_url}/healthz"),
            ("serving.predictor", predictor, f"{predictor_url}/v2/models/{name}/ready"),
        ):
            command = [sys.executable, "-m", module, *common, *arguments]
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
            stack.callback(_end, process)
            _wait(module, process, ready, log)
            processes.append(process)
        yield Pod(name=name, predictor_url=predictor_url, detector_url=detector_url, processes=tuple(processes))


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise InputError(f"port {port} is taken; --help names the options for other ports")


def _wait(module: str, process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SteelyardError(f"{module} ended with exit code {process.returncode}; its output is in {log}")
        try:
            if urllib3.request("GET", url, retries=False, timeout=1.0).status == 200:
                return
        except urllib3.exceptions.HTTPError:
            pass
        time.sleep(0.1)
    raise SteelyardError(f"{module} was not ready within {READY_WITHIN_S:.0f} s; its output is in {log}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
