"""Records come back in order, and a dataset comes out the same, however little is in memory at a time."""

import shutil
import tracemalloc
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from steelyard.data.catalog import Catalog
from steelyard.data.dataset import SPLITS, Dataset
from steelyard.data.images import IMAGE, Images
from steelyard.data.layout import Tally
from steelyard.data.sorting import Sorter, in_blocks
from tests.steelyard.data.pictures import noise, prepared, rows, save, smooth

RECORD = np.dtype([("key", np.int64), ("second", np.uint64), ("added", np.int32)])


@pytest.mark.parametrize("run_bytes", [1, 100, 5000, 2**22])
@pytest.mark.parametrize("keys", [("key",), ("key", "second")])
@pytest.mark.parametrize("values", [1, 5, 2**60])
def test_records_come_back_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_bytes: int, keys: tuple[str, ...], values: int
) -> None:
    monkeypatch.setattr("steelyard.data.sorting.RUN_BYTES", run_bytes)
    rng, records = np.random.default_rng(0), np.zeros(500, RECORD)
    records["key"], records["second"] = rng.integers(-values, values, 500), rng.integers(0, 3, 500)
    records["second"] += np.uint64(2**63)
    records["added"] = np.arange(500)
    sorter = Sorter(tmp_path, *keys)
    for start in range(0, 500, 17):
        sorter.add(records[start : start + 17])
    batches = list(sorter.batches())
    wanted = records[np.lexsort([records[key] for key in reversed(keys)])]
    assert np.array_equal(np.concatenate(batches), wanted)
    ends = [(batch[list(keys)][0].item(), batch[list(keys)][-1].item()) for batch in batches]
    assert all(last < first for (_, last), (first, _) in pairwise(ends))
    assert (len(batches) > 1) == (run_bytes < 2**22)
    assert list(tmp_path.iterdir()) == []


def test_what_is_sorted_waits_in_the_file_and_not_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_bytes = 2**18
    monkeypatch.setattr("steelyard.data.sorting.RUN_BYTES", run_bytes)
    rng, sorter = np.random.default_rng(0), Sorter(tmp_path, "key")
    tracemalloc.start()
    try:
        for _ in range(50):
            records = np.zeros(run_bytes // RECORD.itemsize + 1, RECORD)
            records["key"] = rng.integers(0, 2**60, len(records))
            sorter.add(records)
        del records
        sorted_ = sum(map(len, sorter.batches()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sorted_ * RECORD.itemsize > 50 * run_bytes
    assert peak < 12 * run_bytes


def test_nothing_sorted_is_nothing(tmp_path: Path) -> None:
    assert list(Sorter(tmp_path, "key").batches()) == []


@pytest.mark.parametrize("lengths", [[], [0, 0], [3, 1, 4, 1, 5, 9, 2, 6], [4], [8, 4], [11]])
def test_blocks_are_of_one_size_but_for_the_last(lengths: list[int]) -> None:
    records = np.arange(sum(lengths))
    blocks = list(in_blocks(np.split(records, np.cumsum(lengths)[:-1]) if lengths else [], 4))
    assert [len(block) for block in blocks] == [4] * (len(records) // 4) + [len(records) % 4] * bool(len(records) % 4)
    assert [value for block in blocks for value in block] == records.tolist()


def varied(folder: Path) -> Path:
    """Write images, copies of some under another label or in another split, many of one, and near-duplicates."""
    lines = ["path,label,split,group"]
    for number in range(60):
        file = save(folder / f"{number}.png", smooth(number) if number % 3 else noise(number, 3, 3))
        copy, near = folder / f"copy{number}.png", folder / f"near{number}.jpg"
        lines.append(f"{file.name},{number % 2},{'test' if number < 4 else ''},{number // 7 if number < 30 else ''}")
        if number % 4 == 0:
            shutil.copyfile(file, copy)
            lines.append(f"{copy.name},{number % 3 % 2},train,{number // 5 if number % 8 else ''}")
        if number % 5 == 0:
            save(near, smooth(number), quality=70)
            lines.append(f"{near.name},{number % 2},,")
    for number in range(40):
        shutil.copyfile(folder / "9.png", folder / f"again{number}.png")
        lines.append(f"again{number}.png,{number % 2},,{number % 4 or ''}")
    manifest = folder / "images.csv"
    manifest.write_text("\n".join(lines))
    return manifest


@pytest.mark.parametrize("remove", ["report", "remove"])
@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_a_dataset_is_the_same_however_little_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remove: str, grouped: bool, given: bool
) -> None:
    manifest = varied(tmp_path / "source")
    lines = [line.split(",") for line in manifest.read_text().splitlines()]
    left = [name for name, there in [("path", True), ("label", True), ("split", given), ("group", grouped)] if there]
    columns = [lines[0].index(name) for name in left]
    manifest.write_text("\n".join(",".join(line[column] for column in columns) for line in lines))
    settings = {"image_size": 32, "near_duplicates": remove}
    whole = prepared(manifest, tmp_path / "whole", **settings)
    for name in ("sorting.RUN_BYTES", "images.RUN_BYTES"):
        monkeypatch.setattr(f"steelyard.data.{name}", 2000)
    for name in ("images.BATCH", "card.BLOCK"):
        monkeypatch.setattr(f"steelyard.data.{name}", 7)
    in_parts = prepared(manifest, tmp_path / "parts", **settings)
    assert in_parts.index == whole.index
    assert rows(in_parts) == rows(whole)
    assert in_parts.card.read_text() == whole.card.read_text()
    assert files(in_parts) == files(whole)


def test_equal_images_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    for number in range(100):
        save(source / "cat" / f"{number}.png", noise(number if number < 20 else 0))
        save(source / "dog" / f"{number}.png", noise(100 + number if number < 20 else 0))
    dataset = prepared(source, tmp_path / "out")
    monkeypatch.setattr("steelyard.data.sorting.RUN_BYTES", 10 * IMAGE.itemsize)
    monkeypatch.setattr("steelyard.data.images.BATCH", 10)
    with closing(Catalog(dataset.folder / "catalog.sqlite")) as catalog:
        images = Images.of(catalog, dataset.folder)
    assert (len(images), images.distinct) == (200, 40)
    sizes = [len(batch) for _, batch in images.batches()]
    assert max(sizes) <= 40
    assert len(sizes) <= 100  # as many as of images that differ
    numbers, labels, firsts, labelled = (
        np.concatenate([batch[field] for _, batch in images.batches()])
        for field in ("number", "label", "first", "first_labelled")
    )
    assert np.flatnonzero(firsts).tolist() == np.unique(numbers, return_index=True)[1].tolist()
    both = np.unique(np.stack([numbers, labels], axis=1), axis=0, return_index=True)[1]
    assert np.flatnonzero(labelled).tolist() == sorted(both.tolist())
    assert len(both) == images.distinct + 1


def test_copies_are_counted_across_a_batch_of_which_nothing_is_in_use() -> None:
    parts = np.zeros(2, IMAGE)
    parts["truth"], parts["id"] = (1, 2), (7, 8)
    tally = Tally(counts={})
    for used in (parts[:1], parts[:0], parts[1:]):
        tally.add(used)
    assert (tally.duplicates, tally.equal.named, tally.conflicting.named) == (1, [(7, 8)], [(7, 8)])


def files(dataset: Dataset) -> list[bytes]:
    return [(dataset.folder / split / name).read_bytes() for split in SPLITS for name in ("rows.npy", "labels.npy")]
