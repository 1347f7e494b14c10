"""Work that is cut off goes on, work over a source that has changed does no more than it must, and both end alike."""

import json
import multiprocessing
import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest
from PIL import Image

from steelyard import process as running
from steelyard.data.catalog import Catalog
from steelyard.data.dataset import SPLITS, Dataset
from steelyard.data.files import LocalFiles
from steelyard.data.item import Item, Listing
from steelyard.data.sources.folders import ClassFolders
from steelyard.data.workers import FEW, Job, decode_pending
from steelyard.errors import ArtifactError, InputError, SourceError
from steelyard.store import ObjectStore
from tests.s3_server import BUCKET, uploaded
from tests.steelyard.data.pictures import (
    class_folders,
    digests,
    labelled,
    noise,
    prepared,
    reasons,
    rows,
    save,
    smooth,
    splits,
)

ROOT = Path(__file__).parents[3]
SIDE = 8

Process = subprocess.Popen[bytes]


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    """Processes that are ended with the test, and those that they started."""
    started: list[Process] = []
    yield started
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def start(processes: list[Process], source: Path, out: Path) -> Process:
    """Start `steelyard prepare` in a process group of its own."""
    data = {"source": str(source), "image_size": SIDE}
    params = out.with_name(f"{out.name}.yaml")
    params.write_text(json.dumps({"task": "classification", "data": data}))
    words = ["prepare", str(params), "--output", str(out), "--json", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    processes.append(process)
    return process


def result(process: Process) -> dict[str, Any]:
    """Wait for a process, and return what it printed."""
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error.decode()
    answer: dict[str, Any] = json.loads(out)
    return answer


def decoded(out: Path) -> list[str]:
    """Return the paths that a run which was cut off has decoded."""
    file = out.with_name(f".{out.name}.partial") / "catalog.sqlite"
    if not file.exists():
        return []
    with closing(sqlite3.connect(file)) as catalog:
        try:
            found = catalog.execute("SELECT path FROM items WHERE row IS NOT NULL").fetchall()
        except sqlite3.OperationalError:  # its tables are not there yet
            return []
    return [os.fsdecode(path) for (path,) in found]


def scramble(*files: Path) -> None:
    """Make files unreadable in a way that shows only when they are decoded: of the same size, and not changed since."""
    for file in files:
        status = file.stat()
        file.write_bytes(bytes(status.st_size))
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def slow_images(folder: Path, count: int = 1200) -> Path:
    """Write images whose files are small, and which take a millisecond each to decode; each comes eight times."""
    for number in range(count // 8):
        large = Image.fromarray(noise(number)[:, :, 0] > 127).resize((600, 600), Image.Resampling.NEAREST)
        file = save(folder / ("cat", "dog")[number % 2] / f"{number}.png", large)
        for copy in range(7):
            shutil.copyfile(file, file.with_name(f"{number}-{copy}.png"))
    return folder


def run_until_something_is_kept(process: Process, out: Path, before: int) -> None:
    """Wait until a run has written down more than `before`, as it does each second; a pause makes its second pass."""
    images = out.with_name(f".{out.name}.partial") / "images.npy"
    known = {file.stat().st_mtime_ns for file in (images, out / "images.npy") if file.exists()}
    while process.poll() is None and (not images.exists() or images.stat().st_mtime_ns in known):
        time.sleep(0.005)
    with suppress(ProcessLookupError):  # where it has ended
        os.killpg(process.pid, signal.SIGSTOP)
        time.sleep(1.1)
        os.killpg(process.pid, signal.SIGCONT)
    while process.poll() is None and len(decoded(out)) <= before:
        time.sleep(0.005)


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    tmp_path: Path, processes: list[Process]
) -> None:
    source, out, rng = slow_images(tmp_path / "source"), tmp_path / "out", random.Random()
    undisturbed = prepared(source, tmp_path / "undisturbed", workers=2)
    kept: set[str] = set()
    for turn in range(3):
        process = start(processes, source, out)
        if turn:  # the first is killed at any moment
            run_until_something_is_kept(process, out, len(kept))
        time.sleep(rng.uniform(0, 0.05 if turn else 1.0))
        process.kill()
        if process.wait() == 0:  # it was faster
            break
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 2.0)[0], "processes that decode outlive the one that was killed"
        assert process.stdout.read() == b""
        assert not out.exists()
        assert kept <= set(decoded(out))
        kept = set(decoded(out))
        scramble(*(source / path for path in kept))  # if they were decoded again, they could not be
    assert kept, "no run was killed while it decoded"
    if not out.exists():
        answer = result(start(processes, source, out))
        assert (answer["content_digest"], answer["split_digest"]) == digests(undisturbed)
    dataset = Dataset(out)
    assert digests(dataset) == digests(undisturbed)
    assert labelled(dataset) == labelled(undisturbed)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out", "out.yaml", "undisturbed"}


def test_a_run_that_is_killed_leaves_an_earlier_result_as_it_was(tmp_path: Path, processes: list[Process]) -> None:
    source, out = class_folders(tmp_path / "source", 20), tmp_path / "out"
    earlier = labelled(prepared(source, out))
    class_folders(source, 20, first=5000)
    shutil.rmtree(source / "dog")
    slow_images(source, 1000)
    process = start(processes, source, out)
    run_until_something_is_kept(process, out, len(earlier))
    process.kill()
    assert process.wait() != 0
    assert labelled(Dataset(out)) == earlier


LAYOUTS: dict[str, dict[str, str]] = {
    "arrays": {"layout": "arrays"},
    "shards": {"layout": "shards"},
    "shards in a store": {"shards": f"{BUCKET}/shards"},
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@every_layout
def test_of_a_source_that_has_grown_only_what_is_new_is_decoded(
    tmp_path: Path, store: ObjectStore, layout: dict[str, str]
) -> None:
    source = class_folders(tmp_path / "source", 20)
    shutil.copytree(class_folders(tmp_path / "grown", 30), tmp_path / "fresh")
    prepared(source, tmp_path / "out", store, **layout)
    scramble(*source.rglob("*.png"))
    class_folders(source, 10, first=20)
    again = prepared(source, tmp_path / "out", store, **layout)
    fresh = prepared(tmp_path / "fresh", tmp_path / "other", store, **layout)
    assert digests(again) == digests(fresh)
    assert labelled(again) == labelled(fresh)
    assert again.index.quarantined == ()


@every_layout
def test_a_file_that_has_changed_is_decoded_anew_and_one_that_is_gone_is_gone(
    tmp_path: Path, store: ObjectStore, layout: dict[str, str]
) -> None:
    source = class_folders(tmp_path / "source", 20)
    prepared(source, tmp_path / "out", store, **layout)
    save(source / "cat" / "3.png", noise(1000))
    save(source / "cat" / "4.png", noise(1001))
    (source / "cat" / "5.png").unlink()
    (source / "cat" / "6.png").rename(source / "dog" / "from-cat.png")
    again = prepared(source, tmp_path / "out", store, **layout)
    assert digests(again) == digests(prepared(source, tmp_path / "fresh", store, **layout))
    found = labelled(again)
    assert found[noise(1000).tobytes()] == found[noise(1001).tobytes()] == "cat"
    assert found[noise(12).tobytes()] == "dog"
    assert not {noise(number).tobytes() for number in (6, 8, 10)} & set(found)
    assert len(found) == 39
    assert "cat/5.png" not in splits(again)


@pytest.mark.parametrize("listed_by", ["folders", "manifest"])
def test_an_object_that_has_changed_is_decoded_anew(tmp_path: Path, store: ObjectStore, listed_by: str) -> None:
    source = class_folders(tmp_path / "source", 8)
    lines = [f"{name}/{number}.png,{name}\n" for name in ("cat", "dog") for number in range(8)]
    if listed_by == "manifest":
        (source / "images.csv").write_text("path,label\n" + "".join(lines))
    folder = uploaded(source, store)
    address = folder + ("/images.csv" if listed_by == "manifest" else "")
    assert noise(0).tobytes() in labelled(prepared(address, tmp_path / "out", store))
    store.upload(save(tmp_path / "other.png", noise(999)), f"{folder}/cat/0.png")
    again = prepared(address, tmp_path / "out", store)
    assert digests(again) == digests(prepared(address, tmp_path / "fresh", store))
    assert {noise(0).tobytes(), noise(999).tobytes()} & set(labelled(again)) == {noise(999).tobytes()}


def test_a_line_that_is_gone_is_noticed_where_another_comes_twice(tmp_path: Path) -> None:
    lines = [f"{number}.png,{number % 2}\n" for number in range(20)]
    for number in range(20):
        save(tmp_path / "source" / f"{number}.png", noise(number))
    manifest = tmp_path / "source" / "images.csv"
    for written in ([*lines, lines[0]], [*lines[:-1], lines[0]]):
        manifest.write_text("path,label\n" + "".join(written))
        dataset = prepared(manifest, tmp_path / "out")
    assert len(labelled(dataset)) == 19


def test_nothing_new_gives_the_same_again(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source")
    first = prepared(source, tmp_path / "out").index
    scramble(*source.rglob("*.png"))
    assert prepared(source, tmp_path / "out").index == first


def change(source: Path, rng: random.Random, number: int) -> None:
    """Add, copy, compress, overwrite, rename, break or delete a file, or move a folder."""
    file = rng.choice(sorted(source.rglob("*.png")))
    other = source / rng.choice(["cat", "dog", "dog/more"]) / f"new{number}.png"
    other.parent.mkdir(exist_ok=True)
    kind = rng.choice(["add", "add", "copy", "compress", "overwrite", "rename", "break", "delete", "move"])
    if kind in ("add", "overwrite"):
        save(other if kind == "add" else file, smooth(1000 + number))
    elif kind == "copy":
        shutil.copyfile(file, other)
    elif kind == "compress" and file.stat().st_size > 20:
        Image.open(file).save(other.with_suffix(".jpg"), quality=80)
    elif kind == "rename":
        file.rename(other)
    elif kind == "break":
        file.write_bytes(b"no image")
    elif kind == "delete":
        file.unlink()
    elif kind == "move" and (source / "dog" / "more").exists():
        (source / "dog" / "more").rename(source / "cat" / f"moved{number}")


@pytest.mark.parametrize("remove", ["report", "remove"])
@pytest.mark.parametrize("seed", range(3))
def test_whatever_changes_the_result_is_that_of_a_preparation_from_scratch(
    tmp_path: Path, seed: int, remove: str
) -> None:
    source, rng = tmp_path / "source", random.Random(seed)
    for number in range(24):
        save(source / ("cat", "dog")[number % 2] / f"{number}.png", smooth(number))
    settings = {"image_size": 32, "max_quarantined": 0.9, "near_duplicates": remove}
    for turn in range(4):
        for number in range(8):
            change(source, rng, 8 * turn + number)
        again = prepared(source, tmp_path / "out", **settings)
        copied = tmp_path / f"copy{turn}"
        files = [file for file in source.rglob("*") if file.is_file()]
        for file in rng.sample(files, len(files)):  # which are then listed in another order
            target = copied / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        fresh = prepared(copied, tmp_path / f"fresh{turn}", **settings)
        assert again.index.model_copy(update={"source": ""}) == fresh.index.model_copy(update={"source": ""})
        assert splits(again) == splits(fresh)
        for split in SPLITS:
            for one, other in zip(again.batches(split, 8), fresh.batches(split, 8), strict=True):
                assert all(np.array_equal(*both) for both in zip(one, other, strict=True))


def test_a_folder_of_many_files_is_listed_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steelyard.data.files.MOST_TOGETHER", 3)
    source = class_folders(tmp_path / "source", 10)
    prepared(source, tmp_path / "out")
    (source / "cat" / "4.png").unlink()
    (source / "dog" / "7.png").rename(source / "dog" / "0.png")
    save(source / "dog" / "100.png", noise(100))
    again = prepared(source, tmp_path / "out")
    assert digests(again) == digests(prepared(source, tmp_path / "fresh"))


def test_of_a_folder_that_gains_a_file_only_a_part_is_listed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steelyard.data.files.CUTS", 8)
    for number in range(200):
        (tmp_path / f"{number}.png").touch()
    before = {tuple(part) for part in LocalFiles(str(tmp_path)).walk()}
    (tmp_path / "another.png").touch()
    after = {tuple(part) for part in LocalFiles(str(tmp_path)).walk()}
    assert len(before) > 10
    assert sum(map(len, after)) == 201
    assert 1 <= len(after - before) <= 2


def test_what_is_listed_as_before_is_not_looked_at(tmp_path: Path) -> None:
    def none() -> Iterator[Item]:
        raise AssertionError
        yield

    catalog = Catalog(tmp_path / "catalog.sqlite")
    items = [Item(path=f"{number}.png", label="a") for number in range(4)]
    for listings, listed in (
        ([Listing("first", items[:2]), Listing("second", items[2:])], 4),
        ([Listing("second", none()), Listing("first", none())], 4),
        ([Listing("second", none()), Listing("third", items[:1])], 3),
    ):
        catalog.list_items(listings)
        assert catalog.census().listed == listed
    catalog.close()


@pytest.mark.parametrize("change", [{"image_size": 6}, {"grayscale": True}])
def test_other_settings_decode_everything_anew(tmp_path: Path, change: dict[str, object]) -> None:
    source = class_folders(tmp_path / "source")
    prepared(source, tmp_path / "out")
    again = prepared(source, tmp_path / "out", **change)
    assert digests(again) == digests(prepared(source, tmp_path / "fresh", **change))


@pytest.mark.parametrize("change", [{"split": {"seed": 7}}, {"group": r"/(\d)"}, {"near_duplicates": "remove"}])
def test_other_splits_decode_nothing_anew(tmp_path: Path, change: dict[str, object]) -> None:
    source = class_folders(tmp_path / "source", 20)
    prepared(source, tmp_path / "out")
    fresh = prepared(source, tmp_path / "fresh", **change)
    scramble(*source.rglob("*.png"))
    assert digests(prepared(source, tmp_path / "out", **change)) == digests(fresh)


def test_what_was_decoded_before_an_error_is_not_decoded_again(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source", 20)
    (source / "cat" / "broken.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match=r"data\.max_quarantined"):
        prepared(source, tmp_path / "out")
    assert len(decoded(tmp_path / "out")) == 40
    scramble(*(source / path for path in decoded(tmp_path / "out")))
    (source / "cat" / "broken.png").unlink()
    dataset = prepared(source, tmp_path / "out")
    assert digests(dataset) == digests(prepared(class_folders(tmp_path / "fresh", 20), tmp_path / "other"))


def test_rows_that_a_killed_run_did_not_write_down_are_forgotten(tmp_path: Path) -> None:
    source, out = class_folders(tmp_path / "source"), tmp_path / "out"
    listed = rows(prepared(source, out))
    with closing(sqlite3.connect(out / "catalog.sqlite")) as catalog:
        catalog.execute("UPDATE items SET row = NULL WHERE row > 1")
        catalog.execute("DELETE FROM facts WHERE name = 'rows'")
        catalog.commit()
    out.rename(tmp_path / ".out.partial")
    third, *_, last = sorted(
        (one for one in listed if one.row is not None and one.row > 1), key=lambda one: one.row or 0
    )
    (source / third.path).write_bytes(b"")  # so that all behind it move up by one row
    save(source / last.path, noise(77))
    again = prepared(source, out, max_quarantined=0.5)
    assert digests(again) == digests(prepared(source, tmp_path / "fresh", max_quarantined=0.5))


@pytest.mark.parametrize("changed", [1, 20])
def test_an_error_leaves_an_earlier_result_as_it_was(tmp_path: Path, changed: int) -> None:
    source = class_folders(tmp_path / "source", 20)
    earlier = labelled(prepared(source, tmp_path / "out"))
    last = {row.path for row in rows(Dataset(tmp_path / "out")) if row.row is not None and row.row >= 40 - changed}
    for number, path in enumerate(last):
        save(source / path, noise(5000 + number))
    (source / "cat" / "broken.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match=r"data\.max_quarantined"):
        prepared(source, tmp_path / "out")
    assert labelled(Dataset(tmp_path / "out")) == earlier


@pytest.mark.parametrize("layout", [LAYOUTS["arrays"], LAYOUTS["shards"]], ids=["arrays", "shards"])
@pytest.mark.parametrize("why", ["gone for a time", "left out for a time"])
def test_an_image_that_comes_back_has_its_pixels(tmp_path: Path, layout: dict[str, str], why: str) -> None:
    source = tmp_path / "source"
    for number in range(40):
        label = ("cat", "dog")[number % 2]
        save(source / label / f"{number}.png", smooth(number))
        if number < 20:
            save(source / label / f"{number}-again.jpg", smooth(number), quality=70)
    wanted = digests(prepared(source, tmp_path / "wanted", image_size=32))
    prepared(source, tmp_path / "out", image_size=32, near_duplicates="report", **layout)
    if why == "gone for a time":
        (source / "cat" / "0.png").rename(tmp_path / "aside.png")
        prepared(source, tmp_path / "out", image_size=32, **layout)
        (tmp_path / "aside.png").rename(source / "cat" / "0.png")
    else:
        removed = prepared(source, tmp_path / "out", image_size=32, near_duplicates="remove", **layout)
        assert sum(removed.index.images.values()) < 60
    again = prepared(source, tmp_path / "out", image_size=32, **layout)
    assert digests(again) == wanted
    assert labelled(again) == labelled(Dataset(tmp_path / "wanted"))


def test_an_error_after_the_shards_were_written_does_no_harm(tmp_path: Path) -> None:
    source, partial = class_folders(tmp_path / "source"), tmp_path / ".out.partial"
    (source / "cat" / "broken.png").write_bytes(b"no image")
    with pytest.raises(SourceError):
        prepared(source, tmp_path / "out", layout="shards")
    (source / "cat" / "broken.png").unlink()
    (partial / "dataset.json").mkdir()  # it can't be written
    with pytest.raises(IsADirectoryError):
        prepared(source, tmp_path / "out", layout="shards")
    (partial / "dataset.json").rmdir()
    assert labelled(prepared(source, tmp_path / "out", layout="shards")) == labelled(prepared(source, tmp_path / "x"))


@pytest.mark.parametrize("problem", ["split", "store"])
def test_what_was_quarantined_is_looked_at_again(tmp_path: Path, store: ObjectStore, problem: str) -> None:
    lines = [{"path": f"{number}.png", "label": str(number % 2), "split": "train"} for number in range(20)]
    for number, line in enumerate(lines):
        save(tmp_path / "source" / line["path"], noise(number))
    manifest = tmp_path / "source" / "images.jsonl"
    missing = {"path": "late.png", "label": "0", "split": "trian" if problem == "split" else "train"}
    save(tmp_path / "source" / "late.png", noise(99))
    manifest.write_text("\n".join(json.dumps(line) for line in [*lines, missing]))
    address = f"{BUCKET}/late-{problem}"
    for file in sorted((tmp_path / "source").iterdir()):
        if file.name != "late.png":
            store.upload(file, f"{address}/{file.name}")
    where = str(manifest) if problem == "split" else f"{address}/images.jsonl"
    first = prepared(where, tmp_path / "out", store, max_quarantined=0.1)
    assert list(reasons(first)) == ["late.png"]
    manifest.write_text("\n".join(json.dumps(line) for line in [*lines, {**missing, "split": "train"}]))
    store.upload(tmp_path / "source" / "late.png", f"{address}/late.png")
    assert reasons(prepared(where, tmp_path / "out", store, max_quarantined=0.1)) == {}


def stopped(processes: list[Process], source: Path, out: Path) -> Process:
    """Start a run, and stop it for a while when it has taken its folder."""
    process = start(processes, source, out)
    while not (out.with_name(f".{out.name}.partial") / "catalog.sqlite").exists():
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGSTOP)
    return process


def test_of_two_at_the_same_folder_the_second_says_so_and_the_first_is_not_disturbed(
    tmp_path: Path, processes: list[Process]
) -> None:
    source, out = class_folders(tmp_path / "source", 150), tmp_path / "out"
    first = stopped(processes, source, out)
    with pytest.raises(InputError, match=r"^\S*/out: is being prepared by another process$"):
        prepared(source, out)
    os.killpg(first.pid, signal.SIGCONT)
    answer = result(first)
    assert (answer["content_digest"], answer["images"]) == (Dataset(out).index.content_digest, 300)


def test_a_second_that_waited_for_the_first_to_end_ends_too(tmp_path: Path, processes: list[Process]) -> None:
    source, out = class_folders(tmp_path / "source", 150), tmp_path / "out"
    first = stopped(processes, source, out)
    Timer(0.5, os.killpg, (first.pid, signal.SIGCONT)).start()
    second = prepared(source, out)
    assert digests(second) == (result(first)["content_digest"], result(first)["split_digest"])


def test_memory_stays_small_for_many_images(tmp_path: Path, processes: list[Process]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20_000, SIDE * SIDE * 3), np.uint8)
    for number, image in enumerate(pixels):
        file = tmp_path / "source" / ("cat", "dog")[number % 2] / f"{number}.ppm"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"P6 %d %d 255\n" % (SIDE, SIDE) + image.tobytes())
    answer = result(start(processes, tmp_path / "source", tmp_path / "out"))
    assert answer["images"] == 20_000
    assert 50 < answer["peak_mib"] < 600


def pairs(folder: Path) -> Path:
    for number in range(20):
        save(folder / "images" / f"{number}.png", noise(number))
        save(folder / "masks" / f"{number}.png", noise(number)[:, :, 0] % 3)
    return folder


SOURCES: dict[str, tuple[Callable[[Path], Path], dict[str, object]]] = {
    "labels": (class_folders, {}),
    "masks": (pairs, {"masks": {"classes": {"a": 0, "b": 1, "c": 2}}}),
}


@pytest.mark.parametrize(("write", "changes"), SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("layout", [LAYOUTS["shards"], LAYOUTS["shards in a store"]], ids=["shards", "in a store"])
def test_shards_stream_what_arrays_hold(
    tmp_path: Path,
    store: ObjectStore,
    layout: dict[str, str],
    write: Callable[[Path], Path],
    changes: dict[str, object],
) -> None:
    source = write(tmp_path / "source")
    arrays = prepared(source, tmp_path / "arrays", **changes)
    shards = Dataset(prepared(source, tmp_path / "shards", store, **changes, **layout).folder, store)
    assert (arrays.index.layout, shards.index.layout) == ("arrays", "shards")
    assert digests(arrays) == digests(shards)
    for split in SPLITS:
        for one, other in zip(arrays.batches(split, 3), shards.batches(split, 3), strict=True):
            assert all(np.array_equal(*both) for both in zip(one, other, strict=True))
        assert np.array_equal(arrays.head(split), shards.head(split))
        assert len(shards.head(split, 2)) == 2
        if not changes:
            assert np.array_equal(arrays.labels_N(split), shards.labels_N(split))
    assert not [path for path in shards.folder.rglob("*") if path.name in ("images.npy", "masks.npy", "rows.npy")]


def test_shards_in_a_store_are_there_and_nowhere_else(tmp_path: Path, store: ObjectStore) -> None:
    dataset = prepared(class_folders(tmp_path / "source"), tmp_path / "out", store, shards=f"{BUCKET}/elsewhere/")
    there = sorted(name for name, _ in store.walk(f"{BUCKET}/elsewhere"))
    assert there == sorted(
        f"{dataset.index.split_digest[:16]}/{split}/{name}" for split in SPLITS for name in dataset.index.shards[split]
    )
    assert not list(tmp_path.rglob("*.tar"))
    with pytest.raises(SourceError, match="AWS_ENDPOINT_URL"):
        Dataset(dataset.folder).head("train")


def test_shards_that_others_wrote_to_the_same_address_mix_nothing_up(tmp_path: Path, store: ObjectStore) -> None:
    def manifest(name: str, numbers: list[int]) -> Path:
        (source / name).write_text("path,label\n" + "".join(f"{n}.png,{('cat', 'dog')[n % 2]}\n" for n in numbers))
        return source / name

    source = tmp_path / "source"
    for number in range(61):
        save(source / f"{number}.png", noise(number))
    shards, order = {"shards": f"{BUCKET}/shared"}, list(range(60))
    first = prepared(manifest("a.csv", order), tmp_path / "a", store, workers=1, **shards)
    random.Random(1).shuffle(order)
    other = prepared(manifest("b.csv", order), tmp_path / "b", store, workers=1, **shards)
    assert digests(other) == digests(first)
    grown = prepared(manifest("a.csv", list(range(61))), tmp_path / "a", store, workers=1, **shards)
    wanted = prepared(manifest("c.csv", list(range(61))), tmp_path / "c", workers=1)
    assert digests(grown) == digests(wanted)
    assert labelled(grown) == labelled(wanted)


@pytest.mark.parametrize(
    ("member", "further", "said"),
    [
        (-4, 0, "2 images of train are not in its shards: prepare it again"),
        (-3, 0, "is damaged or cut short"),  # the last image has no label
        (-4, 700, "is damaged or cut short"),
    ],
)
def test_a_shard_that_was_cut_is_told_of_and_made_anew(tmp_path: Path, member: int, further: int, said: str) -> None:
    source, out = class_folders(tmp_path / "source"), tmp_path / "out"
    dataset = prepared(source, out, layout="shards")
    wanted = labelled(dataset)
    (shard,) = dataset.folder.glob("train/*.tar")
    with tarfile.open(shard) as whole:
        shard.write_bytes(shard.read_bytes()[: whole.getmembers()[member].offset + further])
    with pytest.raises(ArtifactError, match=said):
        list(dataset.batches("train", 8))
    assert len(dataset.head("train", 3)) == 3
    assert labelled(prepared(source, out, layout="shards")) == wanted


def test_where_shards_are_gone_all_is_decoded_anew(tmp_path: Path, store: ObjectStore) -> None:
    source, address = class_folders(tmp_path / "source"), f"{BUCKET}/lost"
    wanted = labelled(prepared(source, tmp_path / "out", store, shards=address))
    for name, _ in list(store.walk(address)):
        store.remove(f"{address}/{name}")
    assert labelled(prepared(source, tmp_path / "out", store, shards=address)) == wanted


@pytest.mark.parametrize("lost", ["images.npy", "items.npy"])
def test_rows_that_a_power_cut_took_are_decoded_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    source, out = class_folders(tmp_path / "source"), tmp_path / "out"
    (source / "cat" / "broken.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match=r"data\.max_quarantined"):
        prepared(source, out)
    (source / "cat" / "broken.png").unlink()
    file = tmp_path / ".out.partial" / lost
    file.write_bytes(file.read_bytes()[: len(file.read_bytes()) * 2 // 3])
    monkeypatch.setattr(running, "_BOOT_ID", save_text(tmp_path / "boot_id", "another"))
    assert labelled(prepared(source, out)) == labelled(prepared(source, tmp_path / "fresh"))


def save_text(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def test_webdataset_itself_reads_shards(tmp_path: Path) -> None:
    import webdataset

    dataset = prepared(class_folders(tmp_path / "source"), tmp_path / "out", layout="shards")
    for split in SPLITS:
        files = [str(dataset.folder / split / name) for name in dataset.index.shards[split]]
        samples = list(webdataset.WebDataset(files, shardshuffle=False, empty_check=False).decode())
        found = {one["npy"].tobytes(): dataset.index.classes[one["cls"]] for one in samples}
        assert found == labelled(dataset, split)
        assert len(samples) == dataset.index.images[split]


@pytest.mark.parametrize("layout", [LAYOUTS["arrays"], LAYOUTS["shards"]], ids=["arrays", "shards"])
def test_the_order_of_training_is_drawn_and_has_each_image_once(tmp_path: Path, layout: dict[str, str]) -> None:
    dataset = prepared(class_folders(tmp_path / "source", 30), tmp_path / "out", **layout)

    def order(seed: int | None) -> list[bytes]:
        shuffle = None if seed is None else np.random.default_rng(seed)
        return [image.tobytes() for images, _ in dataset.batches("train", 7, shuffle) for image in images]

    orders = [order(None), order(0), order(1)]
    assert len({str(one) for one in orders}) == 3
    assert {tuple(sorted(one)) for one in orders} == {tuple(sorted(labelled(dataset, "train")))}
    assert order(1) == orders[2]
    generator = np.random.default_rng(0)
    first, second = ([images for images, _ in dataset.batches("train", 64, generator)] for _ in range(2))
    assert not np.array_equal(first[0], second[0])  # of two epochs


@pytest.mark.parametrize("content", [b"", b"no database" * 100, None], ids=["empty", "damaged", "of another version"])
def test_a_catalog_that_can_t_be_used_is_made_anew(tmp_path: Path, content: bytes | None) -> None:
    source = class_folders(tmp_path / "source")
    first = digests(prepared(source, tmp_path / "out"))
    catalog = tmp_path / "out" / "catalog.sqlite"
    if content is not None:
        catalog.write_bytes(content)
    else:
        with closing(sqlite3.connect(catalog)) as connection:
            connection.executescript("DROP TABLE items; CREATE TABLE items (id); UPDATE facts SET value = '{}'")
    assert digests(prepared(source, tmp_path / "out")) == first


def test_no_process_writes_on_when_a_preparation_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ClassFolders(LocalFiles(str(class_folders(tmp_path / "source", 2 * FEW))))
    work = tmp_path / "work"
    work.mkdir()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("steelyard.data.workers.Progress.advance", interrupt)
    with closing(Catalog(work / "catalog.sqlite")) as catalog:
        catalog.list_items(source.listings())
        job = Job(source=source, folder=work, shape=(64, 64, 3), classes=0)
        try:
            list(decode_pending(job, catalog, catalog.census().pending, 0, workers=2))
        except KeyboardInterrupt:  # here its traceback still holds all that it went through
            left = multiprocessing.active_children()
    assert left == []
