"""Against a real S3 server."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from steelyard.errors import SourceError, StoreError
from steelyard.store import ObjectStore, local_copy, read_text


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    root = tmp_path_factory.mktemp("s3")
    for name in ("images/cat/1.png", "images/dog/2.png", "params.yaml"):
        (root / "bucket" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "bucket" / name).write_text(name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        str(Path(sys.executable).with_name("rclone")),
        "serve",
        "s3",
        "--addr",
        f"127.0.0.1:{port}",
        "--auth-key",
        "key,secret-of-this-test",
        str(root),
    ]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _wait_for(port)
    yield ObjectStore(endpoint=f"http://127.0.0.1:{port}", access_key="key", secret_key="secret-of-this-test")
    server.terminate()
    server.wait(10)


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("the S3 server did not start")


def test_a_prefix_is_copied_with_its_folders(store: ObjectStore, tmp_path: Path) -> None:
    assert local_copy("s3://bucket/images", tmp_path, store) == str(tmp_path)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png")) == ["cat/1.png", "dog/2.png"]


def test_text_comes_from_an_address_or_is_taken_as_it_is(store: ObjectStore) -> None:
    assert read_text("s3://bucket/params.yaml", store) == "params.yaml"
    assert read_text("task: classification", None) == "task: classification"


@pytest.mark.parametrize("address", ["s3://bucket/nothing", "s3://nowhere/images"])
def test_a_missing_prefix_is_one_clear_line(store: ObjectStore, tmp_path: Path, address: str) -> None:
    with pytest.raises(SourceError, match=address):
        local_copy(address, tmp_path, store)


def test_a_wrong_key_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    stranger = ObjectStore(endpoint=store.endpoint, access_key="key", secret_key="wrong")
    with pytest.raises(StoreError, match="SignatureDoesNotMatch"):
        stranger.download("s3://bucket/images", tmp_path)


def test_a_store_that_does_not_answer_is_no_mistake_of_the_user_s(tmp_path: Path) -> None:
    nobody = ObjectStore(endpoint="http://127.0.0.1:9", access_key="key", secret_key="any")
    with pytest.raises(StoreError, match="s3://bucket/images: "):
        nobody.download("s3://bucket/images", tmp_path)


def test_an_address_without_a_store_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="AWS_ENDPOINT_URL"):
        local_copy("s3://bucket/images", tmp_path, ObjectStore.from_environment({}))


def test_what_a_store_holds_is_told_from_what_it_does_not(store: ObjectStore) -> None:
    assert store.holds("s3://bucket/params.yaml")
    assert not store.holds("s3://bucket/params")
    assert not store.holds("s3://bucket/nothing/bundle.json")
    assert not store.holds("s3://nowhere/params.yaml")
