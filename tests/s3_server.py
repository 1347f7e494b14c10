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


@contextmanager
def serving(root: Path) -> Iterator[ObjectStore]:
    """Serve a folder; each folder in it is a bucket."""
    (root / "bucket").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rclone = str(Path(sys.executable).with_name("rclone"))
    key = ["--auth-key", "key,secret-of-this-test"]
    command = [rclone, "serve", "s3", "--addr", f"127.0.0.1:{port}", *key, "--vfs-cache-mode", "off", str(root)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield ObjectStore(endpoint=f"http://127.0.0.1:{port}", access_key="key", secret_key="secret-of-this-test")
    finally:
        server.terminate()
        server.wait(10)


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
