"""The data card tells what a dataset holds, whatever that is, and loads nothing."""

import io
import re
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from steelyard.data import card
from steelyard.data.card import write_card
from steelyard.data.catalog import Catalog
from steelyard.data.dataset import SPLITS, Dataset, Quarantined
from steelyard.data.images import Images
from steelyard.data.layout import Tally
from steelyard.data.pictures import colour
from tests.steelyard.data.pictures import class_folders, noise, prepared, save, smooth
from tests.steelyard.report.test_report import Page

LABEL = "<b>&\"'<script>"
MASKS = {"classes": {"ground": 0, "road": 1}, "ignore": 255}


def page(dataset: Dataset) -> Page:
    return Page(dataset.card.read_text(encoding="utf-8"))


def rewritten(dataset: Dataset, **changes: object) -> Page:
    """Return the card of the same images with another index."""
    catalog = Catalog(dataset.folder / "catalog.sqlite")
    write_card(dataset.index.model_copy(update=changes), Images.of(catalog, dataset.folder), catalog, Tally(counts={}))
    catalog.close()
    return page(dataset)


def pictures(found: Page) -> list[NDArray[np.uint8]]:
    """Return the pixels of all pictures, in their order on the page."""
    addresses = [attributes["src"] or "" for tag, attributes in found.tags if tag == "img"]
    return [np.array(Image.open(io.BytesIO(b64decode(address.partition(",")[2])))) for address in addresses]


def bars(found: Page) -> list[str]:
    return [attributes["title"] or "" for tag, attributes in found.tags if tag == "i" and "title" in attributes]


def nearest(picture: NDArray[np.uint8], images_NHWC: NDArray[np.uint8]) -> int:
    """Return which image a picture shows."""
    differences_N = np.abs(images_NHWC.reshape(len(images_NHWC), -1) - picture.astype(float).ravel()).mean(axis=1)
    assert differences_N.min() < 5
    return int(differences_N.argmin())


def with_copies(folder: Path) -> Path:
    """Write splits of which `test` holds brighter copies of two training images, one of them in another class."""
    for number in range(6):
        for split, count in (("train", 0), ("validation", 100), ("test", 200)):
            save(folder / split / "cat" / f"{number}.png", smooth(count + number))
            save(folder / split / "dog" / f"{number}.png", smooth(count + number + 50))
    for number, label in ((1, "cat"), (2, "dog")):
        save(folder / "test" / label / "copy.png", smooth(number).point(lambda level: level * 0.95))
    return folder


def masked(folder: Path) -> Path:
    """Write grey images of which the upper half is road, the lower ground and the left column nothing."""
    mask_HW = np.repeat(np.array([1, 0], np.uint8), 8)[:, None].repeat(16, axis=1)
    mask_HW[:, 0] = 255
    for number in range(9):
        save(folder / "images" / f"{number}.png", np.full((16, 16), 100 + number, np.uint8))
        save(folder / "masks" / f"{number}.png", mask_HW)
    return folder


def test_it_leads_with_what_and_how_many(tmp_path: Path) -> None:
    dataset = prepared(class_folders(tmp_path / "pets"), tmp_path / "out")
    found = page(dataset)
    assert found.all("h1") == ["pets"]
    assert f"24 images of 2 classes, for classification, from {tmp_path / 'pets'}" in found.text
    tiles = found.text[found.text.index("train") : found.text.index("Classes")]
    for split in SPLITS:
        assert f"{split} {dataset.index.images[split]} " in tiles
    assert "duplicates 0" in tiles
    assert dataset.index.content_digest in found.text


def test_it_loads_nothing_from_anywhere(tmp_path: Path) -> None:
    found = page(prepared(class_folders(tmp_path / "source"), tmp_path / "out"))
    assert "http:" not in found.html
    assert "https:" not in found.html
    assert all((a["src"] or "").startswith("data:image/jpeg;base64,") for _, a in found.tags if "src" in a)
    assert not [a for _, a in found.tags if {"href", "srcset", "action"} & a.keys()]
    assert "url(" not in " ".join(found.all("style"))
    assert not {tag for tag, _ in found.tags} & {"link", "script", "iframe", "object", "embed", "base"}


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source")
    (source / "cat").rename(source / LABEL)
    (source / LABEL / "<i>.png").write_bytes(b"no image")
    found = page(prepared(source, tmp_path / "out", max_quarantined=0.1))
    assert LABEL in found.all("h3")
    assert f"{LABEL}/<i>.png" in found.all("td")
    assert found.html.count("<b>&") == 0


def test_samples_are_the_first_training_images_of_each_class(tmp_path: Path) -> None:
    dataset = prepared(class_folders(tmp_path / "source", 16), tmp_path / "out")
    images_NHWC, labels_N = next(dataset.batches("train", 100))
    shown = [nearest(picture, images_NHWC) for picture in pictures(page(dataset))]
    assert shown == [position for label in (0, 1) for position in np.flatnonzero(labels_N == label)[:8]]


def test_of_many_classes_some_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    for number in range(60):
        for image in range(3):
            save(tmp_path / "source" / f"{number:02}" / f"{image}.png", noise(3 * number + image))
    found = page(prepared(tmp_path / "source", tmp_path / "out"))
    assert "of 24 classes, evenly through the 60" in found.text
    assert [name for name in found.all("h3") if name.isdigit()] == [f"{place * 60 // 24:02}" for place in range(24)]
    assert {f"{number:02}" for number in range(60)} <= set(found.all("td"))


def test_classes_beyond_the_table_are_told(tmp_path: Path) -> None:
    dataset = prepared(class_folders(tmp_path / "source"), tmp_path / "out")
    names = tuple(sorted(f"class {number}" for number in range(1200)))
    counts = {split: {name: int(name.split()[1]) for name in names} for split in SPLITS}
    found = rewritten(dataset, classes=names, counts=counts)
    listed = [name for name in found.all("td") if name.startswith("class ")]
    assert listed == [f"class {number}" for number in range(1199, 199, -1)]
    assert "the 1 000 largest of 1 200 classes" in found.text


def test_a_class_that_a_split_lacks_stands_out(tmp_path: Path) -> None:
    dataset = prepared(class_folders(tmp_path / "source"), tmp_path / "out")
    assert not re.search(r'<td class="num bad">', page(dataset).html)
    counts = {**dataset.index.counts, "test": {"cat": 0, "dog": 2}}
    assert re.findall(r'<td class="num bad">(.*)</td>', rewritten(dataset, counts=counts).html) == ["0"]


def test_warnings_come_before_everything_but_the_tiles(tmp_path: Path) -> None:
    dataset = prepared(class_folders(tmp_path / "source"), tmp_path / "out")
    assert "Warnings" not in page(dataset).all("h2")
    found = rewritten(dataset, warnings=("the sky falls", "hens & cocks"))
    assert found.all("h2")[:2] == ["Warnings", "Classes"]
    assert found.all("li") == ["the sky falls", "hens & cocks"]


def test_near_duplicates_are_shown_side_by_side(tmp_path: Path) -> None:
    dataset = prepared(with_copies(tmp_path / "source"), tmp_path / "out")
    found = page(dataset)
    section = found.text[found.text.index("Near-duplicates 2 images are like one") :]
    for one, other in (
        ("cat in train train/cat/1", "cat in test test/cat"),
        ("cat in train train/cat/2", "dog in test test/dog"),
    ):
        assert f"{one}.png {other}/copy.png" in section
    left, right = pictures(found)[-2:]
    assert 0 < np.abs(left.astype(float) - right).mean() < 20
    removed = page(prepared(tmp_path / "source", tmp_path / "removed", near_duplicates="remove"))
    assert "cat left out train/cat/1.png cat in test test/cat/copy.png" in removed.text


def test_duplicates_and_conflicting_labels_are_named(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source", 20)
    save(source / "cat" / "twice.png", noise(0))
    for number in range(2, 7):
        save(source / "dog" / f"cat{number}.png", noise(2 * number))
    dataset = prepared(source, tmp_path / "out")
    found, (warning,) = page(dataset), dataset.index.warnings
    assert "6 images equal another, such as:" in found.text
    assert "5 images with several labels; these are 3 of them." in found.text
    named = re.findall(r"cat/(\d)\.png \(cat\) and dog/cat(\d)\.png \(dog\)", warning)
    assert warning.startswith("5 images occur with different labels, all of which are learnt: cat/")
    assert warning.endswith("; ...")
    assert len(named) == 3
    for one, other in named:
        assert one == other
        assert f"cat/{one}.png (cat) and dog/cat{one}.png (dog)" in found.all("li")
    assert "Duplicates" not in page(prepared(class_folders(tmp_path / "other"), tmp_path / "none")).all("h2")


def test_masks_that_differ_are_named(tmp_path: Path) -> None:
    source = masked(tmp_path / "source")
    save(source / "images" / "again.png", np.full((16, 16), 100, np.uint8))
    save(source / "masks" / "again.png", np.zeros((16, 16), np.uint8))
    dataset = prepared(source, tmp_path / "out", masks=MASKS, image_size=16, grayscale=True)
    assert (
        "1 image occurs with different masks, all of which are learnt: "
        "images/0.png (masks/0.png) and images/again.png (masks/again.png)" in dataset.index.warnings
    )


def test_no_near_duplicates_and_no_quarantine_are_said(tmp_path: Path) -> None:
    found = page(prepared(class_folders(tmp_path / "source"), tmp_path / "out"))
    assert "No image is like one in another split." in found.text
    assert "Every file could be used." in found.text


def test_a_long_quarantine_is_cut_with_a_sentence(tmp_path: Path) -> None:
    dataset = prepared(class_folders(tmp_path / "source"), tmp_path / "out")
    bad = tuple(Quarantined(path=f"cat/{number}.png", reason="is empty") for number in range(250))
    found = rewritten(dataset, quarantined=bad)
    assert found.all("td").count("is empty") == 200
    assert "and 50 more" in found.text
    assert "more;" not in rewritten(dataset, quarantined=bad[:200]).text


def test_original_sizes_are_counted(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source")
    save(source / "cat" / "wide.png", noise(99, 8, 20))
    found = page(prepared(source, tmp_path / "out"))
    assert "8 pixels, all of them" in found.text
    assert [title for title in bars(found) if "pixels" in title and not title.endswith(": 0")] == [
        "8 pixels: 24",
        "20 pixels: 1",
    ]
    assert sum(int(title.split()[-1]) for title in bars(found) if "pixels" not in title) == 25


def test_sizes_far_apart_are_on_a_logarithmic_axis(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source")
    assert "logarithmic" not in page(prepared(source, tmp_path / "out")).text
    save(source / "cat" / "wide.png", noise(99, 8, 2000))
    found = page(prepared(source, tmp_path / "out"))
    assert "logarithmic" in found.text
    assert sum(int(title.split()[-1]) for title in bars(found) if "pixels" in title) == 25


def test_brightness_is_counted_from_black_to_white(tmp_path: Path) -> None:
    for number, level in enumerate((0, 70, 200, 255)):
        for label in ("cat", "dog"):
            for more in range(3):
                pixels = np.full((8, 8), level, np.uint8)
                pixels[0, 0] = 100 + 10 * number + more + 5 * (label == "cat")
                save(tmp_path / "source" / label / f"{level}-{more}.png", pixels)
    found = page(prepared(tmp_path / "source", tmp_path / "out"))
    levels = {title for title in bars(found) if "pixels" not in title and not title.endswith(": 0")}
    assert levels == {"0.00 to 0.04: 6", "0.24 to 0.28: 6", "0.76 to 0.80: 6", "0.96 to 1.00: 6"}


def test_small_grey_images_are_scaled_up_in_squares(dataset: Dataset) -> None:
    found = page(dataset)
    assert {picture.shape for picture in pictures(found)} == {(8, 8)}
    assert list(found.with_class("tiny"))
    assert "8 × 8 pixels, grey" in found.text


def test_large_images_are_reduced_to_a_page_of_a_megabyte(tmp_path: Path) -> None:
    for number in range(30):
        for image in range(13):
            save(tmp_path / "source" / f"{number:02}" / f"{image}.jpg", smooth(13 * number + image, 200))
    found = page(prepared(tmp_path / "source", tmp_path / "out", image_size=[200, 100]))
    assert not list(found.with_class("tiny"))
    assert [picture.shape for picture in pictures(found)] == [(67, 34, 3)] * 24 * 8
    assert len(found.html) < 2**20


def test_masks_are_drawn_over_images_in_the_colours_of_the_legend(tmp_path: Path) -> None:
    dataset = prepared(masked(tmp_path / "source"), tmp_path / "out", masks=MASKS, image_size=16, grayscale=True)
    found, first = page(dataset), next(dataset.batches("train", 1))[0][0]
    expected_HWC = np.repeat(first.astype(float), 3, axis=2)
    expected_HWC[:8, 1:] = (expected_HWC[:8, 1:] + colour(1)) / 2
    expected_HWC[8:, 1:] = (expected_HWC[8:, 1:] + colour(0)) / 2
    assert np.abs(pictures(found)[0] - expected_HWC).max() < 25
    for number, name in enumerate(("ground", "road")):
        assert f'style="background:rgb{colour(number)}"></i>{name}<' in found.html
    assert found.all("td").count("50.0 %") == 2 * len(SPLITS)


def test_the_colours_of_classes_differ() -> None:
    colours = [colour(number) for number in range(255)]
    assert len(set(colours)) == 255
    first = np.array(colours[:20], float)
    assert np.linalg.norm(first[:, None] - first, axis=2)[~np.eye(20, dtype=bool)].min() > 30


def test_neither_names_nor_the_order_of_files_change_the_page(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source")
    first = prepared(source, tmp_path / "first").card.read_bytes()
    for file in sorted(source.rglob("*.png")):
        file.rename(file.with_name(f"{99 - int(file.stem)}-renamed.png"))
    assert prepared(source, tmp_path / "second").card.read_bytes() == first


def test_looking_at_few_rows_at_a_time_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = prepared(class_folders(tmp_path / "source", 16), tmp_path / "out")
    first = page(dataset).html
    monkeypatch.setattr(card, "BLOCK", 3)
    assert rewritten(dataset).html == first


def test_images_that_go_into_shards_are_shown_too(tmp_path: Path) -> None:
    dataset = prepared(class_folders(tmp_path / "source"), tmp_path / "out", layout="shards")
    assert not (dataset.folder / "images.npy").exists()
    assert len(pictures(page(dataset))) == 16


@pytest.mark.parametrize(("most", "warned"), [(4095, True), (65535, False)])
def test_images_of_16_bits_that_use_few_of_them_are_warned_of(tmp_path: Path, most: int, warned: bool) -> None:
    rng = np.random.default_rng(0)
    for number in range(40):
        pixels_HW = rng.integers(0, most, (12, 12), np.uint16)
        save(tmp_path / "source" / "ab"[number % 2] / f"{number}.png", pixels_HW)
    index = prepared(tmp_path / "source", tmp_path / "out").index
    assert any(said.startswith("the images are nearly black: their mean bright") for said in index.warnings) == warned


def test_classes_that_differ_in_capitals_alone_are_warned_of(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source", 8)
    for number in range(8):
        save(source / "Dog" / f"{number}.png", noise(100 + number))
    said = prepared(source, tmp_path / "out").index.warnings
    assert "classes whose names differ in capitals alone: Dog, dog" in said
