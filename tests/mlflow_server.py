"""A real MLflow server on this machine that can be stopped and started again."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3


class MlflowServer:
    """A server over a sqlite file, always on the same port."""

    def __init__(self, database: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{port}"
        places = [
            "--backend-store-uri",
            f"sqlite:///{database}",
            "--artifacts-destination",
            str(database.parent / "kept"),
        ]
        command = [sys.executable, "-m", "mlflow", "server", *places, "--workers", "1"]
        self._command = [*command, "--host", "127.0.0.1", "--port", str(port)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # mlflow looks for uvicorn there
        environ = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PATH": path}
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(self._command, env=environ, stdout=quiet, stderr=quiet, start_new_session=True)
        for _ in range(600):
            try:
                if urllib3.request("GET", f"{self.uri}/health", retries=False).status == 200:
                    return
            except urllib3.exceptions.HTTPError:
                pass
            assert self._process.poll() is None, "the MLflow server ended"
            time.sleep(0.1)
        pytest.fail("the MLflow server did not become ready")

    def stop(self) -> None:
        """End it at once, as a power cut would."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def suspend(self) -> None:
        """Let it take connections and answer none."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)


@contextmanager
def serving(database: Path) -> Iterator[MlflowServer]:
    """Serve a migrated database, with artifacts beside it."""
    server = MlflowServer(database)
    server.start()
    try:
        yield server
    finally:
        server.stop()
