"""What is decoded is kept in an object store, for preparations that begin in an empty folder."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steelyard.data import kept, workers
from steelyard.data.dataset import Dataset
from steelyard.data.prepare import prepare
from steelyard.errors import SourceError, StoreError, UnreadableImage
from steelyard.params import Data
from steelyard.store import ObjectStore
from tests.s3_server import BUCKET, uploaded
from tests.steelyard.data.pictures import class_folders, digests, labelled, noise, prepared, reasons, save
from tests.steelyard.data.test_resume import SOURCES, slow_images

ROOT = Path(__file__).parents[3]
SIDE = 8

PREPARING = """
import sys
from pathlib import Path
from steelyard.data import kept
from steelyard.data.prepare import prepare
from steelyard.params import Data
from steelyard.store import ObjectStore
source, folder, endpoint, key, secret, at = sys.argv[1:]
kept.PART_BYTES = 64 * 8 * 8 * 3
store = ObjectStore(endpoint=endpoint, access_key=key, secret_key=secret)
prepare(Data(source=source, image_size=8), "classification", Path(folder), store, 2, at)
"""


@pytest.fixture
def at(request: pytest.FixtureRequest) -> str:
    return f"{BUCKET}/{request.node.name.translate(str.maketrans('[]', '--'))}"


def kept_in(at: str, source: Path | str, target: Path, store: ObjectStore, **changes: object) -> Dataset:
    data = Data.model_validate({"source": str(source), "image_size": SIDE, **changes})
    return prepare(data, "segmentation" if data.masks else "classification", target, store, 2, at)


def nothing_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is decoded from here on is quarantined instead."""
    monkeypatch.setattr(workers._Worker, "_load", lambda *_: UnreadableImage("decoded again"))


def parts(at: str, store: ObjectStore) -> list[str]:
    return [name for name, _ in store.walk(at)]


@pytest.mark.parametrize(("write", "changes"), SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("layout", [{}, {"layout": "shards"}], ids=["arrays", "shards"])
def test_another_folder_decodes_only_what_is_new(
    tmp_path: Path,
    store: ObjectStore,
    at: str,
    monkeypatch: pytest.MonkeyPatch,
    write: Any,
    changes: dict[str, object],
    layout: dict[str, str],
) -> None:
    source = uploaded(write(tmp_path / "source"), store)
    kept_in(at, source, tmp_path / "first", store, **changes, **layout)
    fresh = prepared(source, tmp_path / "fresh", store, **changes)
    nothing_is_decoded(monkeypatch)
    again = kept_in(at, source, tmp_path / "second", store, **changes, **layout)
    assert (digests(again), reasons(again)) == (digests(fresh), {})
    assert again.index.counts == fresh.index.counts


def test_what_has_changed_or_is_new_is_decoded(tmp_path: Path, store: ObjectStore, at: str) -> None:
    source = class_folders(tmp_path / "source")
    address = uploaded(source, store)
    kept_in(at, address, tmp_path / "first", store)
    store.upload(save(tmp_path / "other.png", noise(500)), f"{address}/cat/0.png")
    store.upload(save(tmp_path / "new.png", noise(501)), f"{address}/dog/new.png")
    again = kept_in(at, address, tmp_path / "second", store)
    assert digests(again) == digests(prepared(address, tmp_path / "fresh", store))
    assert {noise(500).tobytes(), noise(501).tobytes()} <= labelled(again).keys()
    assert len(parts(at, store)) == 2
    third = kept_in(at, address, tmp_path / "third", store)
    assert digests(third) == digests(again)
    assert len(parts(at, store)) == 2


def test_other_settings_share_nothing(tmp_path: Path, store: ObjectStore, at: str) -> None:
    source = uploaded(class_folders(tmp_path / "source"), store)
    kept_in(at, source, tmp_path / "first", store)
    grey = kept_in(at, source, tmp_path / "second", store, grayscale=True)
    assert digests(grey) == digests(prepared(source, tmp_path / "fresh", store, grayscale=True))


def test_a_folder_of_this_machine_is_kept_nowhere(tmp_path: Path, store: ObjectStore, at: str) -> None:
    """Another machine's folder of the same name may hold other images."""
    kept_in(at, class_folders(tmp_path / "source"), tmp_path / "first", store)
    assert parts(at, store) == []


def test_a_preparation_that_is_killed_is_taken_over_from_another_folder(
    tmp_path: Path, store: ObjectStore, at: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = uploaded(slow_images(tmp_path / "source"), store)
    words = [source, str(tmp_path / "first"), store.endpoint, store.access_key, store.secret_key, at]
    process = subprocess.Popen([sys.executable, "-c", PREPARING, *words], cwd=ROOT, start_new_session=True)
    while not parts(at, store) and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "first").exists()
    with caplog.at_level("INFO"):
        taken_over = kept_in(at, source, tmp_path / "second", store)
    (told,) = [record.args[0] for record in caplog.records if "were decoded before" in record.msg]
    assert 0 < told < 1200
    assert digests(taken_over) == digests(prepared(source, tmp_path / "fresh", store))


def test_what_was_decoded_before_an_error_is_kept(
    tmp_path: Path, store: ObjectStore, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = class_folders(tmp_path / "source")
    for number in range(3):
        (folder / "cat" / f"{number}.png").write_bytes(b"")
    source = uploaded(folder, store)
    with pytest.raises(SourceError, match="max_quarantined"):
        kept_in(at, source, tmp_path / "first", store)
    for number in range(3):
        store.remove(f"{source}/cat/{number}.png")
    nothing_is_decoded(monkeypatch)
    assert sum(kept_in(at, source, tmp_path / "second", store).index.images.values()) == 21


def zeros(arrays: dict[str, Any], name: str) -> Any:
    return np.zeros_like(arrays[name])


DAMAGES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "an array is missing": lambda arrays: {name: arrays[name] for name in arrays if name != "facts"},
    "another shape": lambda arrays: arrays | {"images": arrays["images"][:, :4]},
    "other pixels": lambda arrays: arrays | {"images": arrays["images"][::-1]},
    "other facts": lambda arrays: arrays | {"facts": zeros(arrays, "facts")},
    "no items": lambda arrays: arrays | {"said": np.frombuffer(b"[[1]]", np.uint8)},
    "wild items": lambda arrays: arrays | {"said": said(arrays, part=2**70)},
    "other labels": lambda arrays: arrays | {"said": said(arrays, label="dog")},
    "no labels": lambda arrays: arrays | {"said": said(arrays, label=["dog"])},
}


def said(arrays: dict[str, Any], **changes: object) -> Any:
    items = [item | changes for item in json.loads(arrays["said"].tobytes())]
    return np.frombuffer(json.dumps(items).encode(), np.uint8)


@pytest.mark.parametrize("damage", [*DAMAGES, "cut", "empty", "text", *range(20)])
def test_a_damaged_part_is_not_used(
    tmp_path: Path, store: ObjectStore, at: str, damage: str | int, caplog: pytest.LogCaptureFixture
) -> None:
    source = uploaded(class_folders(tmp_path / "source"), store)
    whole = kept_in(at, source, tmp_path / "first", store)
    (name,) = parts(at, store)
    file = tmp_path / "part.npz"
    content = store.read(f"{at}/{name}")
    file.write_bytes(content)
    if damage in DAMAGES:
        with np.load(file) as part:
            arrays = dict(part)
        np.savez(file, **DAMAGES[str(damage)](arrays))
    elif isinstance(damage, int):
        rng = np.random.default_rng(damage)
        flipped = np.frombuffer(content, np.uint8).copy()
        flipped[rng.integers(0, len(flipped), 40)] ^= rng.integers(1, 256, 40, np.uint8)
        file.write_bytes(flipped.tobytes())
    else:
        file.write_bytes({"cut": content[:-100], "empty": b"", "text": b"no part\n"}[damage])
    store.upload(file, f"{at}/{name}")
    again = kept_in(at, source, tmp_path / "second", store)
    assert digests(again) == digests(whole)
    assert labelled(again) == labelled(whole)
    assert "is not used" in caplog.text


def test_an_item_that_a_part_has_twice_counts_once(tmp_path: Path, store: ObjectStore, at: str) -> None:
    source = uploaded(class_folders(tmp_path / "source"), store)
    kept_in(at, source, tmp_path / "first", store)
    (name,) = parts(at, store)
    file = tmp_path / "part.npz"
    file.write_bytes(store.read(f"{at}/{name}"))
    with np.load(file) as part:
        arrays = {key: np.concatenate([part[key], part[key][:1]]) for key in part.files if key != "said"}
        items = json.loads(part["said"].tobytes())
    np.savez(file, said=np.frombuffer(json.dumps([*items, items[0]]).encode(), np.uint8), **arrays)
    store.upload(file, f"{at}/{name}")
    store.upload(save(tmp_path / "new.png", noise(501)), f"{source}/dog/new.png")
    again = kept_in(at, source, tmp_path / "second", store)
    assert digests(again) == digests(prepared(source, tmp_path / "fresh", store))


@pytest.mark.parametrize("call", ["upload", "walk", "no bucket"])
def test_a_store_that_fails_costs_time_alone(
    tmp_path: Path,
    store: ObjectStore,
    at: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: str,
) -> None:
    source = uploaded(class_folders(tmp_path / "source"), store)
    monkeypatch.setattr(kept, "PART_BYTES", 1)
    fine: Callable[..., Any] = getattr(ObjectStore, call, None) or ObjectStore.upload

    def refused(store: ObjectStore, *words: Any) -> Any:
        if at in str(words):
            raise StoreError("is full")
        return fine(store, *words)

    if call == "no bucket":
        at = at.replace("bucket", "nowhere")
    else:
        monkeypatch.setattr(ObjectStore, call, refused)
    made = kept_in(at, source, tmp_path / "first", store)
    assert digests(made) == digests(prepared(source, tmp_path / "fresh", store))
    assert caplog.text.count("what is decoded is not kept") == 1


def test_many_parts_are_put_together(
    tmp_path: Path, store: ObjectStore, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = uploaded(slow_images(tmp_path / "source", 400), store)
    monkeypatch.setattr(kept, "PART_BYTES", 50 * SIDE * SIDE * 3)
    first = kept_in(at, source, tmp_path / "first", store)
    assert len(parts(at, store)) >= 8
    nothing_is_decoded(monkeypatch)
    assert digests(kept_in(at, source, tmp_path / "second", store)) == digests(first)
