"""What is decoded is kept in an object store, for preparations that begin in an empty folder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steelyard.data import kept
from steelyard.data.dataset import Dataset
from steelyard.data.prepare import prepare
from steelyard.errors import SourceError, StoreError
from steelyard.params import Data
from steelyard.store import ObjectStore
from tests.s3_server import BUCKET, serving, uploaded
from tests.steelyard.data.pictures import class_folders, digests, labelled, noise, prepared, reasons, save
from tests.steelyard.data.test_resume import SOURCES, scramble, slow_images

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


def parts(at: str, store: ObjectStore) -> list[str]:
    return [name for name, _ in store.walk(at)]


@pytest.mark.parametrize(("write", "changes"), SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("layout", [{}, {"layout": "shards"}], ids=["arrays", "shards"])
def test_another_folder_decodes_only_what_is_new(
    tmp_path: Path, store: ObjectStore, at: str, write: Any, changes: dict[str, object], layout: dict[str, str]
) -> None:
    source = write(tmp_path / "source")
    kept_in(at, source, tmp_path / "first", store, **changes, **layout)
    fresh = prepared(source, tmp_path / "fresh", **changes)
    scramble(*(file for file in source.rglob("*.png")))
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
    source = class_folders(tmp_path / "source")
    kept_in(at, source, tmp_path / "first", store)
    grey = kept_in(at, source, tmp_path / "second", store, grayscale=True)
    assert digests(grey) == digests(prepared(source, tmp_path / "fresh", grayscale=True))


def test_a_preparation_that_is_killed_is_taken_over_from_another_folder(
    tmp_path: Path, store: ObjectStore, at: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = slow_images(tmp_path / "source")
    words = [str(source), str(tmp_path / "first"), store.endpoint, store.access_key, store.secret_key, at]
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
    assert digests(taken_over) == digests(prepared(source, tmp_path / "fresh"))


def test_what_was_decoded_before_an_error_is_kept(tmp_path: Path, store: ObjectStore, at: str) -> None:
    source = class_folders(tmp_path / "source")
    for number in range(3):
        (source / "cat" / f"{number}.png").write_bytes(b"")
    with pytest.raises(SourceError, match="max_quarantined"):
        kept_in(at, source, tmp_path / "first", store)
    scramble(*(file for file in source.rglob("*.png") if file.stat().st_size))
    for number in range(3):
        save(source / "cat" / f"{number}.png", noise(700 + number))
    again = kept_in(at, source, tmp_path / "second", store)
    assert (reasons(again), sum(again.index.images.values())) == ({}, 24)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "of another shape", "gone", "lies"])
def test_a_damaged_part_is_not_used(
    tmp_path: Path, store: ObjectStore, at: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = class_folders(tmp_path / "source")
    whole = kept_in(at, source, tmp_path / "first", store)
    (name,) = parts(at, store)
    file = tmp_path / "part.npz"
    file.write_bytes(store.read(f"{at}/{name}"))
    with np.load(file) as part:
        arrays = dict(part)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "text":
        file.write_bytes(b"no part\n")
    elif damage == "gone":
        np.savez(file, **{key: value for key, value in arrays.items() if key != "facts"})
    elif damage == "of another shape":
        np.savez(file, **{**arrays, "images": arrays["images"][:, :4]})
    else:
        np.savez(file, **{**arrays, "said": np.frombuffer(b"[[1]]", np.uint8)})
    store.upload(file, f"{at}/{name}")
    again = kept_in(at, source, tmp_path / "second", store)
    assert digests(again) == digests(whole)
    assert "is not used" in caplog.text


def test_a_part_that_nobody_lists_is_removed(tmp_path: Path, store: ObjectStore, at: str) -> None:
    source = class_folders(tmp_path / "source")
    kept_in(at, source, tmp_path / "first", store)
    before = set(parts(at, store))
    for number, file in enumerate(sorted(source.rglob("*.png"))):
        save(file, noise(800 + number, SIDE + 1))
    kept_in(at, source, tmp_path / "second", store)
    assert len(parts(at, store)) == 1
    assert not before & set(parts(at, store))


def test_a_store_that_takes_no_more_is_no_reason_to_fail(
    tmp_path: Path, at: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = class_folders(tmp_path / "source")
    with serving(tmp_path / "server") as store:
        monkeypatch.setattr(kept, "PART_BYTES", 1)
        monkeypatch.setattr(ObjectStore, "upload", _refused)
        made = kept_in(at, source, tmp_path / "first", store)
    assert digests(made) == digests(prepared(source, tmp_path / "fresh"))
    assert [record.msg for record in caplog.records].count("what is decoded is not kept from here on: %s") == 1


def _refused(store: ObjectStore, file: Path, address: str) -> None:
    raise StoreError(f"{address}: is full")


def test_many_parts_are_put_together(
    tmp_path: Path, store: ObjectStore, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = slow_images(tmp_path / "source", 400)
    monkeypatch.setattr(kept, "PART_BYTES", 50 * SIDE * SIDE * 3)
    first = kept_in(at, source, tmp_path / "first", store)
    assert len(parts(at, store)) >= 8
    scramble(*source.rglob("*.png"))
    assert digests(kept_in(at, source, tmp_path / "second", store)) == digests(first)
