"""Against a real S3 server."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from steelyard import store as storage
from steelyard.errors import SourceError, StoreError
from steelyard.store import ObjectStore, needed, read_text
from tests.s3_server import uploaded

FILES = ("images/cat/1.png", "images/dog/2.png", "images-of-others/3.png", "params.yaml")


def _first_byte(store: ObjectStore, address: str) -> bytes:
    with store.stream(address) as stream:
        return stream.read(1)


@pytest.fixture(scope="module")
def address(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A prefix with FILES below it, each of which holds its own name."""
    folder = tmp_path_factory.mktemp("files")
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return uploaded(folder, store)


def test_what_was_uploaded_is_read_again(store: ObjectStore, address: str, tmp_path: Path) -> None:
    content = bytes(range(256)) * 40_000
    (tmp_path / "large").write_bytes(content)
    store.upload(tmp_path / "large", f"{address}/new/large")
    assert store.read(f"{address}/new/large") == content


@pytest.mark.parametrize("end", ["", "/"])
def test_a_walk_names_every_object_below_a_prefix_and_no_other(store: ObjectStore, address: str, end: str) -> None:
    assert sorted(name for name, _ in store.walk(f"{address}/images{end}")) == ["cat/1.png", "dog/2.png"]
    assert not list(store.walk(f"{address}/nothing"))


def test_a_walk_tells_which_objects_have_changed(store: ObjectStore, tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).write_text("as it was")
    prefix = uploaded(tmp_path, store)
    before = dict(store.walk(prefix))
    (tmp_path / "one").write_text("otherwise")
    store.upload(tmp_path / "one", f"{prefix}/one")
    after = dict(store.walk(prefix))
    assert before["other"] == after["other"]
    assert before["one"] != after["one"]


def test_a_stream_is_read_piece_by_piece(store: ObjectStore, address: str) -> None:
    with store.stream(f"{address}/params.yaml") as stream:
        assert [stream.read(6), stream.read(100), stream.read(1)] == [b"params", b".yaml", b""]


def test_text_comes_from_an_address_or_is_taken_as_it_is(store: ObjectStore, address: str) -> None:
    assert read_text(f"{address}/params.yaml", store) == "params.yaml"
    assert read_text("task: classification", None) == "task: classification"


def test_what_is_no_text_is_not_read_as_text(store: ObjectStore, address: str, tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff")
    store.upload(tmp_path / "image.png", f"{address}/image.png")
    with pytest.raises(SourceError, match="is not UTF-8 text"):
        read_text(f"{address}/image.png", store)


@pytest.mark.parametrize("reading", [ObjectStore.read, ObjectStore.read_text, _first_byte])
@pytest.mark.parametrize("missing", ["s3://bucket/nothing", "s3://nowhere/params.yaml"])
def test_a_missing_object_is_one_clear_line(
    store: ObjectStore, reading: Callable[[ObjectStore, str], object], missing: str
) -> None:
    with pytest.raises(SourceError, match=rf"^{missing}: [^\n]*$"):
        reading(store, missing)


def test_a_walk_or_an_upload_without_a_bucket_is_one_clear_line(store: ObjectStore) -> None:
    with pytest.raises(SourceError, match=r"^s3://nowhere/images: "):
        list(store.walk("s3://nowhere/images"))
    with pytest.raises(SourceError, match=r"^s3://nowhere/file: "):
        store.upload(Path(__file__), "s3://nowhere/file")


def test_a_wrong_key_is_refused(store: ObjectStore, address: str) -> None:
    stranger = ObjectStore(endpoint=store.endpoint, access_key="key", secret_key="wrong")
    with pytest.raises(StoreError, match="SignatureDoesNotMatch"):
        stranger.read(f"{address}/params.yaml")
    with pytest.raises(StoreError, match="SignatureDoesNotMatch"):
        list(stranger.walk(address))


def test_a_store_that_does_not_answer_is_no_mistake_of_the_user_s() -> None:
    nobody = ObjectStore(endpoint="http://127.0.0.1:9", access_key="key", secret_key="any")
    with pytest.raises(StoreError, match=r"^s3://bucket/images: "):
        nobody.read("s3://bucket/images")


def test_an_address_without_a_store_says_what_to_set() -> None:
    with pytest.raises(SourceError, match="AWS_ENDPOINT_URL"):
        read_text("s3://bucket/params.yaml", ObjectStore.from_environment({}))
    with pytest.raises(SourceError, match="AWS_ENDPOINT_URL"):
        needed(None, "s3://bucket/images")


def test_what_a_store_holds_is_told_from_what_it_does_not(store: ObjectStore, address: str) -> None:
    assert store.holds(f"{address}/params.yaml")
    assert not store.holds(f"{address}/params")
    assert not store.holds(f"{address}/nothing/bundle.json")
    assert not store.holds("s3://nowhere/params.yaml")


def test_a_store_that_takes_connections_and_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "ANSWER_WITHIN_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = "http://127.0.0.1:{1}".format(*silent.getsockname())
        store = ObjectStore(endpoint=address, access_key="key", secret_key="secret")
        with pytest.raises(StoreError, match="Read timed out"):
            store.read("s3://bucket/key")


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("s3:///key", "invalid bucket name"),
        ("s3://a b/key", "invalid bucket name"),
        ("s3://bucket/", "no object in it"),
    ],
)
def test_an_address_that_can_t_be_one_is_a_wrong_input(store: ObjectStore, address: str, complaint: str) -> None:
    with pytest.raises(SourceError, match=complaint):
        store.read(address)
