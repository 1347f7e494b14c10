"""Splits: stratified, the same everywhere, and without leaks."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from itertools import chain, combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steelyard.data import near
from steelyard.data.catalog import Catalog, Found
from steelyard.data.dataset import SPLITS, Dataset
from steelyard.data.images import FACTS, STRICTNESS, Images, hashes
from steelyard.data.item import Item, Listing
from steelyard.data.splits import deal_out
from steelyard.errors import SourceError
from steelyard.params import Split
from tests.steelyard.data.pictures import class_folders, digests, labelled, noise, prepared, rows, save, smooth, splits

SHARES = {"train": 0.6, "validation": 0.25, "test": 0.15}


def manifest(folder: Path, lines: list[dict[str, object]]) -> Path:
    """Write `images.csv`; the image PATH is `noise(SEED)`, where SEED is in the line or counts the lines."""
    columns = [name for name in ("path", "label", "split", "group") if any(name in line for line in lines)]
    text = ",".join(columns) + "\n"
    for number, line in enumerate(lines):
        save(folder / str(line["path"]), noise(int(str(line.get("seed", number)))))
        text += ",".join(str(line.get(name, "")) for name in columns) + "\n"
    (folder / "images.csv").write_text(text)
    return folder / "images.csv"


def pixels(dataset: Dataset) -> dict[str, set[bytes]]:
    """Return the distinct images of each split."""
    return {split: {image.tobytes() for image in dataset.head(split)} for split in SPLITS}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("sizes", [(3, 3), (5, 50), (7, 20, 33)])
@pytest.mark.parametrize("copies", [1, 3])
def test_every_class_has_its_share_of_each_split_within_one_image(
    tmp_path: Path, seed: int, sizes: tuple[int, ...], copies: int
) -> None:
    for label, size in enumerate(sizes):
        for number in range(size):
            for copy in range(1 + number % copies):
                save(tmp_path / f"source/{label}/{number}-{copy}.png", noise(100 * label + number))
    dataset = prepared(tmp_path / "source", tmp_path / "out", split={**SHARES, "seed": seed})
    for label, size in enumerate(sizes):
        found = {split: Counter(labelled(dataset, split).values())[str(label)] for split in SPLITS}
        assert sum(found.values()) == size
        for split, share in SHARES.items():
            assert found[split] >= 1
            assert abs(found[split] - share * size) <= 1


@pytest.mark.parametrize("seed", range(4))
def test_a_group_is_never_in_two_splits_and_the_shares_are_near(tmp_path: Path, seed: int) -> None:
    sizes = random.Random(seed).choices((1, 2, 3, 5, 8), k=60)
    lines: list[dict[str, object]] = [
        {"path": f"{group}-{number}.png", "label": (group + number) % 2, "group": f"g{group}"}
        for group, size in enumerate(sizes)
        for number in range(size)
    ]
    dataset = prepared(manifest(tmp_path / "source", lines), tmp_path / "out", split={**SHARES, "seed": seed})
    placed = {(path.partition("-")[0], split) for path, split in splits(dataset).items()}
    assert len(placed) == len(sizes)
    for split, share in SHARES.items():
        for count in dataset.index.counts[split].values():
            assert count == pytest.approx(share * len(lines) / 2, abs=0.05 * len(lines))


def test_groups_that_share_an_equal_image_stay_together(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"path": f"{group}-{number}.png", "label": number % 2, "group": group, "seed": 10 * group + number}
        for group in range(40)
        for number in range(4)
    ]
    chain = (3, 17, 8, 29, 30)  # each has an image in common with the next, and the last with one that has no group
    for number, (one, other) in enumerate(pairwise(chain)):
        for group in (one, other):
            lines.append({"path": f"{group}-s{number}.png", "label": 0, "group": group, "seed": 9000 + number})
    lines += [{"path": "30-x.png", "label": 1, "group": 30, "seed": 9999}, {"path": "x.png", "label": 1, "seed": 9999}]
    for seed in range(4):
        dataset = prepared(manifest(tmp_path / "source", lines), tmp_path / f"{seed}", split={**SHARES, "seed": seed})
        found = splits(dataset)
        assert len({found[f"{group}-0.png"] for group in chain} | {found["x.png"]}) == 1
        assert len({(path.partition("-")[0], split) for path, split in found.items() if "-" in path}) == 40


@pytest.mark.parametrize("seed", range(3))
def test_exact_copies_are_in_one_split_whatever_they_are_called_and_how_they_are_encoded(
    tmp_path: Path, seed: int
) -> None:
    source = class_folders(tmp_path / "source", 20)
    for file in list(source.rglob("*.png")):
        for copy, suffix in enumerate((".png", ".bmp", ".tiff")):
            Image.open(file).save(file.with_name(f"{file.stem}-copy{copy}{suffix}"))
    dataset = prepared(source, tmp_path / "out", split={**SHARES, "seed": seed})
    found = pixels(dataset)
    assert not any(one & other for one, other in combinations(found.values(), 2))
    assert sum(map(len, found.values())) == 40
    assert (sum(dataset.index.images.values()), dataset.index.duplicates) == (160, 120)


@pytest.mark.parametrize("group", ["", r"-(\w)\.png"])
def test_neither_the_order_nor_the_names_of_files_matter(tmp_path: Path, group: str) -> None:
    """Names may matter where they say the group; what else is in them may not."""
    rng = random.Random(0)
    images = [(label, number, "abcdefghijkl"[number % 12]) for label in ("cat", "dog") for number in range(24)]
    found = []
    for attempt in range(3):
        rng.shuffle(images)
        for label, number, letter in images:
            name = f"{rng.randrange(10**9)}-{letter}.png"
            save(tmp_path / f"{attempt}" / label / name, noise(100 * (label == "dog") + number))
        found.append(prepared(tmp_path / f"{attempt}", tmp_path / f"out{attempt}", group=group))
    assert len({digests(one) for one in found}) == 1
    assert pixels(found[0]) == pixels(found[1]) == pixels(found[2])


def test_the_number_of_processes_does_not_matter(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source", 140)
    assert digests(prepared(source, tmp_path / "1", workers=1)) == digests(prepared(source, tmp_path / "3", workers=3))


def test_a_seed_decides_the_splits_and_nothing_else(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source", 30)
    found = [prepared(source, tmp_path / f"{number}", split={"seed": seed}) for number, seed in enumerate((1, 1, 2, 3))]
    assert digests(found[0]) == digests(found[1])
    assert len({one.index.content_digest for one in found}) == 1
    assert len({one.index.split_digest for one in found}) == 3
    assert len({str(one.index.counts) for one in found}) == 1


@pytest.mark.parametrize("given", [("train", "test"), ("train", "validation"), ("train",), ("test",), ("validation",)])
def test_given_splits_stay_and_one_that_is_missing_comes_out_of_training(
    tmp_path: Path, given: tuple[str, ...]
) -> None:
    lines: list[dict[str, object]] = [
        {"path": f"{number}.png", "label": number % 2, "split": given[number % 4] if number % 4 < len(given) else ""}
        for number in range(80)
    ]
    dataset = prepared(manifest(tmp_path / "source", lines), tmp_path / "out", split=SHARES)
    found = splits(dataset)
    for line in lines:
        if line["split"] in ("validation", "test"):
            assert found[str(line["path"])] == line["split"]
        elif line["split"] == "train":
            assert found[str(line["path"])] not in given[1:]
    open_to = [split for split in SPLITS if split == "train" or split not in given]
    left = sum(line["split"] in ("", "train") for line in lines)
    for split in open_to:
        wanted = left * SHARES[split] / sum(SHARES[one] for one in open_to)
        assert dataset.index.images[split] == pytest.approx(wanted, abs=2)


def test_all_three_given_are_all_kept(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"path": f"{number}.png", "label": number % 2, "split": SPLITS[number % 3]} for number in range(12)
    ]
    dataset = prepared(manifest(tmp_path / "source", lines), tmp_path / "out")
    assert splits(dataset) == {str(line["path"]): line["split"] for line in lines}


@pytest.mark.parametrize("by", ["pixels", "group"])
def test_what_is_in_two_given_splits_goes_to_the_stricter(tmp_path: Path, by: str) -> None:
    lines: list[dict[str, object]] = [
        {"path": f"{number}.png", "label": number % 2, "split": SPLITS[number % 3], "seed": number, "group": ""}
        for number in range(30)
    ]
    wanted = {}
    for number, (one, other) in enumerate([("train", "test"), ("train", "validation"), ("validation", "test")]):
        for place, split in enumerate((one, other)):
            seed = 500 + number + (0 if by == "pixels" else 10 * place)
            group = "" if by == "pixels" else f"g{number}"
            lines.append({"path": f"{split}-{number}.png", "label": 0, "split": split, "seed": seed, "group": group})
            wanted[f"{split}-{number}.png"] = other
    dataset = prepared(manifest(tmp_path / "source", lines), tmp_path / "out")
    found = splits(dataset)
    assert {path: found[path] for path in wanted} == wanted
    moved = [said for said in dataset.index.warnings if "moved to the stricter split" in said]
    assert moved == [
        "3 images were moved to the stricter split that the source gives to their copies or groups",
    ]


@pytest.mark.parametrize("order", [("train", "test"), ("test", "train")])
def test_a_path_that_is_listed_in_two_splits_goes_to_the_stricter(tmp_path: Path, order: tuple[str, str]) -> None:
    lines: list[dict[str, object]] = [
        {"path": f"{number}.png", "label": number % 2, "split": SPLITS[number % 3], "seed": number}
        for number in range(12)
    ]
    lines += [{"path": "twice.png", "label": 0, "split": split, "seed": 99} for split in order]
    found = [
        splits(prepared(manifest(tmp_path / f"{turn}", turned), tmp_path / f"out{turn}"))["twice.png"]
        for turn, turned in enumerate((lines, lines[:-2] + lines[:-3:-1]))
    ]
    assert found == ["test", "test"]


@pytest.mark.parametrize("group", ["patient", r"(\d{5})", "^/", "(nothing)?$"])
def test_an_expression_that_finds_no_group_is_refused(tmp_path: Path, group: str) -> None:
    with pytest.raises(SourceError, match=r"^data\.group: .* fits no path, such as '(cat|dog)/\d+\.png'$"):
        prepared(class_folders(tmp_path / "source"), tmp_path / "out", group=group)


@pytest.mark.parametrize(
    ("group", "wanted"), [(r"p\d+", {"p1", "p2", "p3", "p4", "p5", "p6"}), (r"-(\w)-", {"a", "b", "c"})]
)
def test_what_an_expression_finds_is_the_group(tmp_path: Path, group: str, wanted: set[str]) -> None:
    for number in range(60):
        patient, eye = 1 + number % 6, "abc"[number % 3]
        save(tmp_path / "source" / ("ill", "well")[number // 30] / f"p{patient}-{eye}-{number}.png", noise(number))
    dataset = prepared(tmp_path / "source", tmp_path / "out", group=group)
    placed = {
        (next(name for name in wanted if f"{name}-" in Path(path).name), split)
        for path, split in splits(dataset).items()
    }
    assert len(placed) == len(wanted)
    assert {split for _, split in placed} == set(SPLITS)


def test_paths_that_an_expression_does_not_fit_keep_the_group_of_the_manifest(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"path": f"{'p' if number % 2 else 'q'}{number % 20}-{number}.png", "label": number // 50, "group": number % 20}
        for number in range(100)
    ]
    dataset = prepared(manifest(tmp_path / "source", lines), tmp_path / "out", group=r"p\d+")
    assert len({(path.partition("-")[0], split) for path, split in splits(dataset).items()}) == 20


@pytest.mark.parametrize("images", [1, 2])
def test_a_class_with_too_few_distinct_images_is_refused(tmp_path: Path, images: int) -> None:
    source = class_folders(tmp_path / "source")
    for copy in range(5):
        save(source / "emu" / f"{copy}.png", noise(500 + copy % images))
    said = rf"^data\.source: class 'emu' has {images} distinct image\(s\); train, validation and test need one each$"
    with pytest.raises(SourceError, match=said):
        prepared(source, tmp_path / "out")


def test_a_class_that_groups_keep_out_of_a_split_is_refused(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"path": f"{number}.png", "label": number % 2, "group": f"g{number % 2}"} for number in range(40)
    ]
    said = r"^data\.source: class '[01]' has no images in .*; its groups are too few or too large: data\.group"
    with pytest.raises(SourceError, match=said):
        prepared(manifest(tmp_path / "source", lines), tmp_path / "out")


def test_splits_that_leave_nothing_for_training_are_refused(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"path": f"{number}.png", "label": number % 2, "group": number, "split": "val"} for number in range(12)
    ]
    with pytest.raises(SourceError, match=r"^data\.source: gives every image a split, and none is for training$"):
        prepared(manifest(tmp_path / "source", lines), tmp_path / "out")


def test_groups_are_counted_and_images_without_one_too(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"path": f"{number}.png", "label": number % 2, "group": f"g{number // 4}" if number < 36 else ""}
        for number in range(40)
    ]
    dataset = prepared(manifest(tmp_path / "source", lines), tmp_path / "out")
    assert dataset.index.groups == 9
    assert dataset.index.warnings == ("4 images have no group; each such image is a group of its own",)
    assert "in 9 groups that straddle no splits" in dataset.card.read_text(encoding="utf-8")


def photographs(folder: Path) -> dict[str, str]:
    """Write images with test images that are copies of them, but for compression or scale; return copy by original."""
    copies = {}
    for number in range(60):
        label = ("cat", "dog")[number % 2]
        original = smooth(number)
        save(folder / ("val" if number % 3 == 0 else "train") / label / f"{number}.png", original)
        if number < 10:
            copies[f"{'val' if number % 3 == 0 else 'train'}/{label}/{number}.png"] = f"test/{label}/{number}.jpg"
            save(folder / "test" / label / f"{number}.jpg", original, quality=60)
        elif number < 20:
            copies[f"{'val' if number % 3 == 0 else 'train'}/{label}/{number}.png"] = f"test/{label}/{number}.png"
            save(folder / "test" / label / f"{number}.png", original.resize((51, 51), Image.Resampling.BILINEAR))
        else:
            save(folder / "test" / label / f"{number}.png", smooth(1000 + number))
    return copies


@pytest.mark.parametrize("decision", ["report", "remove"])
def test_near_duplicates_across_splits_are_counted_and_can_be_left_out_of_the_less_strict(
    tmp_path: Path, decision: str
) -> None:
    copies = photographs(tmp_path / "source")
    dataset = prepared(tmp_path / "source", tmp_path / "out", image_size=48, near_duplicates=decision)
    found = splits(dataset)
    assert dataset.index.near_duplicates == len(copies) == 20
    leak = [
        said
        for said in dataset.index.warnings
        if said.startswith("leakage: near-duplicates in a stricter split of images in train or validation: 20;")
    ]
    removed = {path for path, split in found.items() if split is None}
    assert (removed, len(leak)) == ((set(copies), 0) if decision == "remove" else (set(), 1))
    assert all(found[copy] == "test" for copy in copies.values())
    assert dataset.index.near_removed == (decision == "remove")
    assert sum(dataset.index.images.values()) == 120 - len(removed)
    assert dataset.index.quarantined == ()


def burst(folder: Path, strict: dict[int, str], order: random.Random) -> Path:
    """Write 200 variants of one photo, each with another value changed, for training but for some; and others."""
    photo = np.array(smooth(0, 32))
    lines = []
    for number in range(200):
        pixels_HWC = photo.copy()
        pixels_HWC[number % 32, number // 32, number % 3] ^= 1
        save(folder / f"burst{number}.png", pixels_HWC)
        lines.append(f"burst{number}.png,{'ab'[number % 2]},{strict.get(number, 'train')}\n")
    for number in range(1, 61):
        save(folder / f"{number}.png", smooth(number, 32))
        lines.append(f"{number}.png,{'ab'[number % 2]},{SPLITS[number % 3]}\n")
    order.shuffle(lines)
    (folder / "images.csv").write_text("path,label,split\n" + "".join(lines))
    return folder / "images.csv"


@pytest.mark.parametrize("block", [100, near.BLOCK])
@pytest.mark.parametrize("strict", [{0: "test"}, {77: "test"}, {150: "validation"}, {7: "test", 8: "validation"}])
def test_each_image_of_a_burst_is_near_to_the_one_that_is_in_a_stricter_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, strict: dict[int, str]
) -> None:
    monkeypatch.setattr(near, "BLOCK", block)
    found = []
    for seed in (1, 2):
        source = burst(tmp_path / f"source{seed}", strict, random.Random(seed))
        dataset = prepared(source, tmp_path / f"out{seed}", image_size=32, near_duplicates="remove")
        found.append({path for path, split in splits(dataset).items() if split is None})
    stays = next(number for number, split in strict.items() if split == max(strict.values(), key=STRICTNESS.index))
    assert found[0] == found[1] == {f"burst{number}.png" for number in range(200) if number != stays}


def test_distinct_images_are_no_near_duplicates(tmp_path: Path) -> None:
    for number in range(200):
        save(tmp_path / "source" / ("cat", "dog")[number % 2] / f"{number}.png", smooth(number, 32))
    assert prepared(tmp_path / "source", tmp_path / "out", image_size=32).index.near_duplicates == 0


def test_images_that_come_under_several_labels_are_counted_and_stay_in_one_split(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source", 20)
    for number in range(3):
        save(source / "dog" / f"cat{number}.png", noise(2 * number))
        save(source / "dog" / f"cat{number}-again.png", noise(2 * number))
    index = prepared(source, tmp_path / "out").index
    dataset = Dataset(tmp_path / "out")
    assert (index.conflicting_labels, index.duplicates) == (3, 6)
    assert any(
        said.startswith("3 images occur with different labels, all of which are learnt: cat/")
        for said in index.warnings
    )
    found = pixels(dataset)
    assert not any(one & other for one, other in combinations(found.values(), 2))


def test_one_image_more_moves_few_others(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source", 100)
    before = splits(prepared(source, tmp_path / "before"))
    save(source / "cat" / "another.png", noise(9999))
    after = splits(prepared(source, tmp_path / "after"))
    assert sum(before[path] != after[path] for path in before) <= 3


def many(count: int) -> Iterator[Item]:
    """Half of the images have a group."""
    for number in range(count):
        group = f"g{number // 10}" if number < count // 2 else ""
        yield Item(path=f"{number}.png", label="ab"[number % 2], group=group)


@pytest.mark.parametrize("group", ["", r"^\d*[05]\."])
def test_splitting_many_images_takes_seconds(tmp_path: Path, group: str) -> None:
    count = 30_000
    catalog = Catalog(tmp_path / "catalog.sqlite")
    catalog.list_items([Listing("", many(count))])
    catalog.record(Found(id=number + 1, row=number) for number in range(count))
    facts = np.zeros(count, FACTS)
    facts["digest"] = np.random.default_rng(0).integers(0, 256, (count // 2, 32), np.uint8).repeat(2, axis=0)
    facts["label"] = hashes("ab" * (count // 2))
    np.save(tmp_path / "facts.npy", facts)
    np.save(tmp_path / "items.npy", np.arange(1, count + 1, dtype=np.int32))
    started = time.process_time()
    dealt = deal_out(Images.of(catalog, tmp_path, group), catalog, Split())
    assert time.process_time() - started < 15
    shares = np.bincount(dealt.splits_N, minlength=4) / count
    assert shares.tolist() == pytest.approx([0, 0.7, 0.15, 0.15], rel=0.02)
    catalog.close()


def test_many_groups_that_share_one_image_are_one_in_seconds(tmp_path: Path) -> None:
    count = 30_000
    catalog = Catalog(tmp_path / "catalog.sqlite")
    shared = (Item(path=f"{n}.png", label="ab"[n % 2], group=f"g{count - n:06}") for n in range(count))
    others = (Item(path=f"{n}.png", label="ab"[n % 2]) for n in range(count, count + 100))
    catalog.list_items([Listing("", chain(shared, others))])
    catalog.record(Found(id=number + 1, row=number) for number in range(count + 100))
    facts = np.zeros(count + 100, FACTS)
    facts["digest"][count:] = np.random.default_rng(0).integers(0, 256, (100, 32), np.uint8)
    facts["label"] = hashes("ab" * (count // 2 + 50))
    np.save(tmp_path / "facts.npy", facts)
    np.save(tmp_path / "items.npy", np.arange(1, count + 101, dtype=np.int32))
    started = time.process_time()
    dealt = deal_out(Images.of(catalog, tmp_path), catalog, Split())
    assert time.process_time() - started < 10
    assert len(set(dealt.splits_N[:count].tolist())) == 1
    catalog.close()


def test_shares_are_of_what_the_source_leaves_to_be_dealt_out(tmp_path: Path) -> None:
    source = tmp_path / "source"
    lines = ["path,label,split"]
    for number in range(200):
        save(source / f"{number}.png", noise(number))
        save(source / f"{number}-again.png", noise(number))
        lines.append(f"{number}.png,{number % 2},{'test' if number < 100 else ''}")
        lines.append(f"{number}-again.png,{number % 2},")
    (source / "images.csv").write_text("\n".join(lines))
    index = prepared(source / "images.csv", tmp_path / "out").index
    shares = Split()
    wanted = round(100 * shares.validation / (shares.train + shares.validation))
    assert index.images["test"] == 200
    assert index.images["validation"] == pytest.approx(2 * wanted, abs=2)


def test_batches_of_a_split_are_its_images(tmp_path: Path) -> None:
    dataset = prepared(class_folders(tmp_path / "source", 30), tmp_path / "out")
    placed = {row.path: row for row in rows(dataset)}
    for split in SPLITS:
        wanted = {
            noise(2 * int(Path(path).stem) + path.startswith("dog")).tobytes(): row.label
            for path, row in placed.items()
            if row.split == split
        }
        assert labelled(dataset, split) == wanted
        assert len(dataset.labels_N(split)) == len(wanted) == len(np.load(dataset.folder / split / "rows.npy"))
