import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steelyard.data.dataset import SPLITS, Dataset
from steelyard.data.prepare import prepare
from steelyard.errors import SourceError
from steelyard.params import Data


def _pictures(folder: Path, per_class: int = 12) -> Path:
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = generator.integers(0, 255, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def _prepare(source: Path, target: Path, **changes: object) -> Dataset:
    return prepare(Data.model_validate({"source": str(source), "image_size": 8, **changes}), "classification", target)


def test_digits_are_split_by_the_shares_in_every_class(dataset: Dataset) -> None:
    totals = {split: sum(dataset.index.counts[split].values()) for split in SPLITS}
    assert sum(totals.values()) == 1797
    assert totals == pytest.approx({"train": 898, "validation": 450, "test": 450}, abs=5)
    for name in dataset.index.classes:
        assert dataset.index.counts["train"][name] == pytest.approx(2 * dataset.index.counts["test"][name], abs=2)


def test_arrays_and_index_agree(dataset: Dataset) -> None:
    for split in SPLITS:
        images_NHWC, labels_N = dataset.head(split), dataset.labels_N(split)
        assert images_NHWC.shape == (len(labels_N), *dataset.index.image_shape)
        assert images_NHWC.dtype == np.uint8
        assert np.bincount(labels_N).tolist() == list(dataset.index.counts[split].values())


def test_the_order_and_names_of_files_do_not_matter(tmp_path: Path) -> None:
    source = _pictures(tmp_path / "source")
    first = _prepare(source, tmp_path / "first").index
    for folder in source.iterdir():
        files = list(folder.iterdir())
        random.Random(0).shuffle(files)
        for number, file in enumerate(files):
            file.rename(folder / f"renamed-{number}.png")
    second = _prepare(source, tmp_path / "second").index
    assert (first.content_digest, first.split_digest) == (second.content_digest, second.split_digest)


@pytest.mark.parametrize("shares", [(0.2, 0.2, 0.6), (0.01, 0.01, 0.98), (0.98, 0.01, 0.01), (0.01, 0.98, 0.01)])
@pytest.mark.parametrize("per_class", [3, 4, 5, 20])
def test_no_split_is_ever_without_a_class(tmp_path: Path, shares: tuple[float, ...], per_class: int) -> None:
    source = _pictures(tmp_path / "source", per_class)
    split = dict(zip(SPLITS, shares, strict=True))
    counts = _prepare(source, tmp_path / "out", split=split).index.counts
    assert all(count >= 1 for of_split in counts.values() for count in of_split.values())


def test_equal_images_stay_in_one_split(tmp_path: Path) -> None:
    source = _pictures(tmp_path / "source")
    for file in list(source.rglob("*.png")):
        for copy in range(4):
            shutil.copyfile(file, file.with_name(f"{file.stem}-copy{copy}.png"))
    prepared = _prepare(source, tmp_path / "out")
    seen = [{image.tobytes() for image in prepared.head(split)} for split in SPLITS]
    assert len(set.union(*seen)) == sum(map(len, seen)) == 24


def test_another_seed_splits_otherwise_and_another_pixel_is_other_content(tmp_path: Path) -> None:
    source = _pictures(tmp_path / "source")
    first = _prepare(source, tmp_path / "first").index
    reseeded = _prepare(source, tmp_path / "reseeded", split={"train": 0.7, "seed": 7}).index
    assert first.content_digest == reseeded.content_digest
    assert first.split_digest != reseeded.split_digest
    Image.new("RGB", (20, 30)).save(source / "cat" / "0.png")
    assert _prepare(source, tmp_path / "changed").index.content_digest != first.content_digest


def test_an_unreadable_image_is_quarantined_with_its_reason(tmp_path: Path) -> None:
    source = _pictures(tmp_path / "source")
    (source / "cat" / "broken.png").write_bytes(b"not an image")
    index = _prepare(source, tmp_path / "out", max_quarantined=0.1).index
    assert [(q.path, bool(q.reason)) for q in index.quarantined] == [("cat/broken.png", True)]
    assert sum(sum(counts.values()) for counts in index.counts.values()) == 24


def test_too_many_unreadable_images_stop_the_run_and_nothing_is_lost(tmp_path: Path) -> None:
    source = _pictures(tmp_path / "source")
    (source / "cat" / "broken.png").write_bytes(b"not an image")
    with pytest.raises(SourceError, match=r"data\.max_quarantined: 1 of 25 files can't be used.*cat/broken\.png"):
        _prepare(source, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"source", ".out.partial"}
    assert sum(_prepare(source, tmp_path / "out", max_quarantined=0.1).index.images.values()) == 24
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out"}


@pytest.mark.parametrize("damage", ["missing", "empty", "one image", "one class"])
def test_a_source_that_can_t_be_split_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    source = tmp_path / "source" if damage == "missing" else _pictures(tmp_path / "source")
    if damage == "empty":
        for folder in source.iterdir():
            shutil.rmtree(folder)
    if damage == "one image":
        for number in range(1, 12):
            (source / "cat" / f"{number}.png").unlink()
    if damage == "one class":
        shutil.rmtree(source / "cat")
    complaint = {
        "missing": "is no existing folder",
        "empty": "is empty",
        "one image": r"class 'cat' has 1 distinct image",
        "one class": "one class only",
    }[damage]
    with pytest.raises(SourceError, match=rf"^data\.source: .*{complaint}"):
        _prepare(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
