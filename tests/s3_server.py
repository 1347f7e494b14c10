"""A real S3 server on this machine, and what tests put into it."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from steelyard.store import ObjectStore

BUCKET = "s3://bucket"
_number = count()


class S3Server:
    """A server over a folder in which each folder is a bucket, always on the same port."""

    def __init__(self, root: Path) -> None:
        (root / "bucket").mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        key = ["--auth-key", "key,secret-of-this-test"]
        rclone = str(Path(sys.executable).with_name("rclone"))
        address = f"127.0.0.1:{self._port}"
        self._command = [rclone, "serve", "s3", "--addr", address, *key, "--vfs-cache-mode", "off", str(root)]
        self.store = ObjectStore(endpoint=f"http://{address}", access_key="key", secret_key="secret-of-this-test")

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        _wait_for(self._port)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


@contextmanager
def serving(root: Path) -> Iterator[ObjectStore]:
    """Serve a folder while the block lasts."""
    server = S3Server(root)
    server.start()
    try:
        yield server.store
    finally:
        server.stop()


def uploaded(folder: Path, store: ObjectStore) -> str:
    """Upload all files of a folder, and return the address that stands for it."""
    address = f"{BUCKET}/{next(_number)}"
    for file in folder.rglob("*"):
        if file.is_file():
            store.upload(file, f"{address}/{file.relative_to(folder).as_posix()}")
    return address


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("the S3 server did not start")
