"""Images with masks: which belongs to which, what a mask's pixels mean, stacks, and tiles of large rasters."""

import os
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image

from steelyard.data.dataset import SPLITS, Dataset
from steelyard.data.files import Entry, Files, LocalFiles, RemoteFiles
from steelyard.data.sources.segmentation import IGNORED, Pairs
from steelyard.errors import SourceError
from steelyard.params import Masks, Tiles
from steelyard.store import ObjectStore
from tests.s3_server import uploaded
from tests.steelyard.data.pictures import (
    REAL,
    Row,
    digests,
    needs_real_data,
    noise,
    prepared,
    reasons,
    rows,
    save,
    splits,
)

VALUES: dict[str, Any] = {"classes": {"ground": 0, "road": 1, "roof": 7}, "ignore": 255}
COLORS: dict[str, Any] = {
    "classes": {"ground": (0, 0, 0), "road": (255, 0, 0), "roof": (10, 20, 30)},
    "ignore": (255, 255, 255),
}
SIDE = 16


def indices(seed: int, side: int = SIDE) -> NDArray[np.uint8]:
    """Return a mask as it should come out: indices into three classes, and here and there nothing."""
    return np.random.default_rng(seed).choice(np.array([0, 1, 2, IGNORED], np.uint8), (side, side))


def by_value(mask_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    values = np.zeros(256, np.uint8)
    values[[0, 1, 2, IGNORED]] = [*VALUES["classes"].values(), VALUES["ignore"]]
    return values[mask_HW]


def by_color(mask_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    colors = np.zeros((256, 3), np.uint8)
    colors[[0, 1, 2, IGNORED]] = [*COLORS["classes"].values(), COLORS["ignore"]]
    return colors[mask_HW]


def with_palette(values_HW: NDArray[np.uint8]) -> Image.Image:
    """Return a mask as PASCAL VOC has them: values, each shown in a colour."""
    image = Image.fromarray(values_HW, "P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    return image


def color_with_palette(mask_HW: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(by_color(mask_HW)).quantize(4, dither=Image.Dither.NONE)


def pairs(folder: Path, count: int = 8, suffix: str = ".png") -> Path:
    """Write images with masks by value; the image NUMBER is `noise(NUMBER)`, its mask `indices(NUMBER)`."""
    for number in range(count):
        save(folder / "images" / f"{number}{suffix}", noise(number, SIDE, SIDE))
        save(folder / "masks" / f"{number}.png", by_value(indices(number)))
    return folder


def run(source: Path | str, target: Path, store: ObjectStore | None = None, **changes: Any) -> Dataset:
    return prepared(source, target, store, **{"image_size": SIDE, "masks": VALUES, **changes})


def masks(dataset: Dataset) -> dict[tuple[str, int], NDArray[np.uint8]]:
    """Return each mask, by the path and part of its image."""
    every_NHW = np.load(dataset.folder / "masks.npy")
    return {(row.path, row.part): every_NHW[row.row] for row in rows(dataset) if row.row is not None}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".TIF", ".tiff", ".bmp"])
def test_an_image_and_its_mask_are_matched_by_name(tmp_path: Path, suffix: str) -> None:
    dataset = run(pairs(tmp_path / "source", suffix=suffix), tmp_path / "out")
    found = masks(dataset)
    assert len(found) == 8
    for number in range(8):
        assert (found[f"images/{number}{suffix}", 0] == indices(number)).all()


def test_batches_hold_each_image_with_its_own_mask(tmp_path: Path) -> None:
    dataset = run(pairs(tmp_path / "source"), tmp_path / "out")
    wanted = {noise(number, SIDE, SIDE).tobytes(): indices(number).tobytes() for number in range(8)}
    batches = [batch for split in SPLITS for batch in dataset.batches(split, 3, np.random.default_rng(0))]
    assert {
        image.tobytes(): mask.tobytes() for images, masks in batches for image, mask in zip(images, masks, strict=True)
    } == wanted
    pixels = {name: sum(dataset.index.counts[split][name] for split in SPLITS) for name in dataset.index.classes}
    every = np.stack([indices(number) for number in range(8)])
    assert pixels == {"ground": (every == 0).sum(), "road": (every == 1).sum(), "roof": (every == 2).sum()}


@pytest.mark.parametrize("name", ["at night/1", "a/b/images/1", "1.left", "1.", "été", "train", "test", "images"])
def test_an_image_may_have_any_name(tmp_path: Path, name: str) -> None:
    source = pairs(tmp_path / "source", 20)
    save(source / "images" / f"{name}.jpg", noise(21, SIDE, SIDE))
    save(source / "masks" / f"{name}.png", by_value(indices(21)))
    dataset = run(source, tmp_path / "out")
    assert (masks(dataset)[f"images/{name}.jpg", 0] == indices(21)).all()
    assert dataset.index.images == {"train": 15, "validation": 3, "test": 3}  # none is given by a name


KINDS: dict[str, tuple[dict[str, Any], Callable[[NDArray[np.uint8]], Any]]] = {
    "values": (VALUES, by_value),
    "values in three channels": (VALUES, lambda mask: np.repeat(by_value(mask)[..., None], 3, axis=2)),
    "values with a palette": (VALUES, lambda mask: with_palette(by_value(mask))),
    "values of 16 bits": (VALUES, lambda mask: by_value(mask).astype(np.uint16)),
    "colours": (COLORS, by_color),
    "colours with a palette": (COLORS, color_with_palette),
    "opaque colours": (COLORS, lambda mask: Image.fromarray(by_color(mask)).convert("RGBA")),
    "opaque values": (VALUES, lambda mask: Image.fromarray(by_value(mask)).convert("LA")),
}
TILED: dict[str, Any] = {"tiles": {"size": SIDE}}


@pytest.mark.parametrize(("table", "written"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("changes", [{}, TILED], ids=["whole", "tiles"])
def test_a_mask_of_every_kind_becomes_indices(
    tmp_path: Path,
    table: dict[str, Any],
    written: Callable[[NDArray[np.uint8]], Any],
    suffix: str,
    changes: dict[str, Any],
) -> None:
    source = pairs(tmp_path / "source", suffix=suffix)
    for number in range(8):
        (source / "masks" / f"{number}.png").unlink()
        save(source / "masks" / f"{number}{suffix}", written(indices(number)))
    found = masks(run(source, tmp_path / "out", masks=table, **changes))
    for number in range(8):
        assert (found[f"images/{number}{suffix}", 0] == indices(number)).all()


@pytest.mark.parametrize(
    ("mode", "suffix", "changes"),
    [
        *(("LA", suffix, changes) for suffix in (".png", ".tif") for changes in ({}, TILED)),
        ("PA", ".tif", {}),
        ("L", ".png", {}),
    ],
)
def test_grey_is_a_colour_however_opaque(tmp_path: Path, mode: str, suffix: str, changes: dict[str, Any]) -> None:
    source = pairs(tmp_path / "source")
    for number in range(8):
        (source / "masks" / f"{number}.png").unlink()
        grey = Image.fromarray((indices(number) == 1).astype(np.uint8) * 200)
        mask = (grey.convert("P") if mode == "PA" else grey).convert(mode)
        if mode != "L":
            mask.putalpha(100)
        save(source / "masks" / f"{number}{suffix}", mask)
    table = {"classes": {"ground": (0, 0, 0), "road": (200, 200, 200)}}
    found = masks(run(source, tmp_path / "out", masks=table, **changes))
    assert all((found[f"images/{number}.png", 0] == (indices(number) == 1)).all() for number in range(8))


def test_a_mask_that_is_looked_up_strip_by_strip_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steelyard.data.sources.segmentation._STRIP_PIXELS", 3 * SIDE)
    found = masks(run(pairs(tmp_path / "source"), tmp_path / "out"))
    assert all((found[f"images/{number}.png", 0] == indices(number)).all() for number in range(8))


def turn(file: Path, orientation: int) -> None:
    """Let an EXIF note say how a camera was held."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(file) as image:
        image.load()
        image.save(file, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_turned_with_its_image(tmp_path: Path, orientation: int) -> None:
    source = pairs(tmp_path / "source")
    for number in range(8):
        pixels = indices(number)
        save(source / "images" / f"{number}.png", by_color(pixels))
        for kind in ("images", "masks"):
            turn(source / kind / f"{number}.png", orientation)
    dataset = run(source, tmp_path / "out", image_size=SIDE)
    images_NHWC, masks_NHW = (np.load(dataset.folder / name) for name in ("images.npy", "masks.npy"))
    assert (np.stack([by_color(mask_HW) for mask_HW in masks_NHW]) == images_NHWC).all()


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_mask_that_is_turned_otherwise_than_its_image_is_quarantined(tmp_path: Path, kind: str, suffix: str) -> None:
    source = pairs(tmp_path / "source", suffix=suffix)
    turn(source / kind / (f"1{suffix}" if kind == "images" else "1.png"), 3)
    dataset = run(source, tmp_path / "out", max_quarantined=0.3)
    said = "image and mask are turned differently, by the EXIF note of one of them"
    assert reasons(dataset) == {f"images/1{suffix}": said}


@pytest.mark.parametrize("table", [{"ground": 0, "road": 255}, {"ground": (0, 0, 0), "road": (255, 255, 255)}])
@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_black_and_white_are_two_values_or_two_colours(tmp_path: Path, table: dict[str, Any], mode: str) -> None:
    source = pairs(tmp_path / "source")
    for number in range(8):
        white = Image.fromarray((indices(number) == 1).astype(np.uint8) * 255)
        save(source / "masks" / f"{number}.png", white.convert(mode))
    found = masks(run(source, tmp_path / "out", masks={"classes": table}))
    assert all((found[f"images/{number}.png", 0] == (indices(number) == 1)).all() for number in range(8))


def test_a_class_without_pixels_and_one_with_few_are_warned_of(tmp_path: Path) -> None:
    for split, number in ((split, number) for split in ("train", "val", "test") for number in range(3)):
        mask_HW = np.zeros((SIDE, SIDE), np.uint8)
        mask_HW[0, 0] = 1 if split == "train" else 7
        save(tmp_path / "source" / split / "images" / f"{number}.png", noise(ord(split[1]) + number, SIDE, SIDE))
        save(tmp_path / "source" / split / "masks" / f"{number}.png", mask_HW)
    table = {"classes": {**VALUES["classes"], "never": 9}}
    assert run(tmp_path / "source", tmp_path / "out", masks=table).index.warnings == (
        "no pixels in train of: roof, never",
        "no pixels in validation of: road, never",
        "no pixels in test of: road, never",
        "class imbalance: 765 training pixels of 'ground', 3 of 'road'",
    )


def test_a_mask_is_resized_without_new_values(tmp_path: Path) -> None:
    dataset = run(pairs(tmp_path / "source"), tmp_path / "out", image_size=(8, 40))
    for mask_HW in masks(dataset).values():
        assert mask_HW.shape == (8, 40)
        assert set(np.unique(mask_HW)) <= {0, 1, 2, IGNORED}


def a_mask_of_another_size(source: Path) -> None:
    save(source / "masks" / "1.png", by_value(indices(1, SIDE + 2)))


def no_mask(source: Path) -> None:
    (source / "masks" / "1.png").unlink()


def no_image(source: Path) -> None:
    (source / "images" / "1.png").unlink()


def a_value_of_no_class(source: Path) -> None:
    save(source / "masks" / "1.png", np.full((SIDE, SIDE), 3, np.uint8))


def colours_for_values(source: Path) -> None:
    save(source / "masks" / "1.png", by_color(indices(1)))


def a_text_for_a_mask(source: Path) -> None:
    (source / "masks" / "1.png").write_text("no mask")


def a_mask_cut_short(source: Path) -> None:
    file = source / "masks" / "1.png"
    file.write_bytes(file.read_bytes()[:120])


def a_mask_in_postscript(source: Path) -> None:
    save(source / "1.eps", Image.new("L", (SIDE, SIDE))).rename(source / "masks" / "1.png")


def a_mask_that_is_a_bomb(source: Path) -> None:
    save(source / "masks" / "1.png", Image.new("1", (8000, 8000)))


def a_text_for_an_image(source: Path) -> None:
    (source / "images" / "1.png").write_text("no image")


def an_image_that_is_a_link_to_nothing(source: Path) -> None:
    (source / "images" / "1.png").unlink()
    (source / "images" / "1.png").symlink_to("nothing")


def a_mask_that_is_a_link_to_nothing(source: Path) -> None:
    (source / "masks" / "1.png").unlink()
    (source / "masks" / "1.png").symlink_to("nothing")


def two_images_of_one_name(source: Path) -> None:
    save(source / "images" / "1.bmp", noise(50, SIDE, SIDE))


def two_masks_of_one_name(source: Path) -> None:
    save(source / "masks" / "1.bmp", by_value(indices(50)))


DAMAGES = {
    a_mask_of_another_size: {"images/1.png": "has 16 x 16 pixels, its mask 18 x 18"},
    no_mask: {"images/1.png": "has no mask"},
    no_image: {"masks/1.png": "there is no image '1'"},
    a_value_of_no_class: {"images/1.png": "its mask has the value 3, which data.masks lacks"},
    colours_for_values: {"images/1.png": "its mask has colours, where data.masks has values"},
    a_text_for_a_mask: {"images/1.png": "its mask is not an image in a known format"},
    a_mask_cut_short: {"images/1.png": "its mask is damaged or cut short"},
    a_mask_in_postscript: {"images/1.png": "its mask is not an image in a known format"},
    a_mask_that_is_a_bomb: {"images/1.png": "its mask has more than 50 megapixels"},
    a_text_for_an_image: {"images/1.png": "is not an image in a known format"},
    an_image_that_is_a_link_to_nothing: {"images/1.png": "can't be opened: No such file or directory"},
    a_mask_that_is_a_link_to_nothing: {"images/1.png": "can't be opened: No such file or directory"},
    two_images_of_one_name: {"images/1.png": "images/1.bmp has the same name"},
    two_masks_of_one_name: {"masks/1.png": "masks/1.bmp has the same name"},
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.items())
def test_a_pair_that_can_t_be_used_is_quarantined_with_its_reason(
    tmp_path: Path, damage: Callable[[Path], None], said: dict[str, str]
) -> None:
    source = pairs(tmp_path / "source")
    damage(source)
    dataset = run(source, tmp_path / "out", max_quarantined=0.3)
    assert reasons(dataset) == said
    assert len(masks(dataset)) == (8 if "two" in damage.__name__ else 7)


def test_a_colour_of_no_class_is_said_as_a_colour(tmp_path: Path) -> None:
    source = pairs(tmp_path / "source")
    for number in range(8):
        save(source / "masks" / f"{number}.png", by_color(indices(number)))
    save(source / "masks" / "1.png", np.full((SIDE, SIDE, 3), (1, 2, 3), np.uint8))
    dataset = run(source, tmp_path / "out", masks=COLORS, max_quarantined=0.3)
    assert reasons(dataset) == {"images/1.png": "its mask has the value [1, 2, 3], which data.masks lacks"}


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_a_link_that_leads_back_up_is_quarantined(tmp_path: Path, folder: str) -> None:
    source = pairs(tmp_path / "source")
    (source / folder / "loop").symlink_to(source)
    dataset = run(source, tmp_path / "out", max_quarantined=0.3)
    assert list(reasons(dataset)) == [f"{folder}/loop"]
    assert len(masks(dataset)) == 8


def test_images_that_are_a_link_to_the_folder_itself_are_refused_in_one_line(tmp_path: Path) -> None:
    source = pairs(tmp_path / "source")
    (source / "images").rename(source / "photos")
    (source / "images").symlink_to(source)
    with pytest.raises(SourceError, match=r"^data\.[^\n]*$"):
        run(source, tmp_path / "out")


class ManyPairs:
    """What a folder of pairs looks like, without any."""

    address = "many"

    def __init__(self, count: int) -> None:
        self.count = count

    def walk(self) -> Iterator[list[Entry]]:
        for kind in ("images", "masks"):
            yield from ([Entry(f"{kind}/{number:09}.png", "123:456")] for number in range(self.count))


def test_pairs_are_matched_without_keeping_all_of_them_in_memory() -> None:
    tracemalloc.start()
    source = Pairs(cast(Files, ManyPairs(20_000)), Masks.model_validate(VALUES), None)
    count = sum(item.mask == item.path.replace("images", "masks") for item in source.items())
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak_bytes < 2**20


@pytest.mark.parametrize("lack", ["images", "masks"])
def test_both_folders_are_needed(tmp_path: Path, lack: str) -> None:
    source = pairs(tmp_path / "source")
    (source / lack).rename(source / "aside")
    with pytest.raises(SourceError, match=r"^data\.(source: .* needs the folders images and masks|max_quarantined)"):
        run(source, tmp_path / "out")


@pytest.mark.parametrize("order", ["{split}/{kind}", "{kind}/{split}"])
def test_folders_named_as_splits_are_splits(tmp_path: Path, order: str) -> None:
    for first, split in enumerate(("train", "val", "test")):
        for number in range(4 * first, 4 * first + 4):
            image, mask = (tmp_path / "source" / order.format(split=split, kind=kind) for kind in ("images", "masks"))
            save(image / f"{number}.png", noise(number, SIDE, SIDE))
            save(mask / f"{number}.png", by_value(indices(number)))
    dataset = run(tmp_path / "source", tmp_path / "out")
    assert dataset.index.images == {"train": 4, "validation": 4, "test": 4}
    for path, split in splits(dataset).items():
        assert {"train": "train", "validation": "val", "test": "test"}[str(split)] in path.split("/")


def stack(file: Path, pages: list[NDArray[np.uint8]]) -> None:
    first, *others = (Image.fromarray(page) for page in pages)
    save(file, first, save_all=True, append_images=others)


def stacks(folder: Path) -> Path:
    """Write three stacks of four pages."""
    for number in range(3):
        pages = range(4 * number, 4 * number + 4)
        stack(folder / "images" / f"{number}.tif", [noise(page, SIDE, SIDE) for page in pages])
        stack(folder / "masks" / f"{number}.tif", [by_value(indices(page)) for page in pages])
    return folder


@pytest.mark.parametrize("changes", [{}, TILED], ids=["whole", "tiles"])
def test_a_stack_is_read_page_by_page(tmp_path: Path, changes: dict[str, Any]) -> None:
    dataset = run(stacks(tmp_path / "source"), tmp_path / "out", **changes)
    found, images_NHWC = masks(dataset), np.load(dataset.folder / "images.npy")
    for row in rows(dataset):
        page = 4 * int(Path(row.path).stem) + row.part
        assert (images_NHWC[row.row] == noise(page, SIDE, SIDE)).all()
        assert (found[row.path, row.part] == indices(page)).all()
    assert len(found) == 12


@pytest.mark.parametrize("changes", [{}, TILED], ids=["whole", "tiles"])
def test_a_stack_whose_mask_has_other_pages_is_quarantined(tmp_path: Path, changes: dict[str, Any]) -> None:
    source = stacks(tmp_path / "source")
    stack(source / "masks" / "1.tif", [by_value(indices(page)) for page in range(3)])
    dataset = run(source, tmp_path / "out", max_quarantined=0.3, **changes)
    assert reasons(dataset) == {"images/1.tif": "has 4 pages, its mask 3"}
    assert len(masks(dataset)) == 8


def with_overviews(file: Path, pixels: NDArray[np.uint8]) -> None:
    """Write a raster with its pixels twice more, each time smaller."""
    bands = np.atleast_3d(pixels).transpose(2, 0, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is nowhere on earth
        settings = {"width": SIDE, "height": SIDE, "count": len(bands), "dtype": "uint8"}
        file.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(file, "w", driver="GTiff", **settings) as raster:
            raster.write(bands)
        with rasterio.open(file, "r+") as raster:
            raster.build_overviews([2, 4])


def test_a_raster_s_smaller_copies_are_no_images_of_their_own(tmp_path: Path) -> None:
    source = pairs(tmp_path / "source", suffix=".tif")
    for number in range(8):
        with_overviews(source / "images" / f"{number}.tif", noise(number, SIDE, SIDE))
    assert Image.open(source / "images" / "0.tif").n_frames == 3  # type: ignore[attr-defined]
    dataset = run(source, tmp_path / "out")
    assert reasons(dataset) == {}
    assert {place: (mask == indices(int(Path(place[0]).stem))).all() for place, mask in masks(dataset).items()} == {
        (f"images/{number}.tif", 0): True for number in range(8)
    }


@pytest.mark.parametrize("suffix", [".tfw", ".aux.xml"])
def test_what_says_where_a_raster_lies_is_no_image(tmp_path: Path, suffix: str) -> None:
    source = pairs(tmp_path / "source", suffix=".tif")
    for number in range(8):
        (source / "images" / f"{number}{suffix}").write_text("0.5\n0\n0\n-0.5\n100\n200\n")
    assert digests(run(source, tmp_path / "out")) == digests(run(pairs(tmp_path / "plain"), tmp_path / "other"))


def test_of_two_with_one_name_the_one_named_as_an_image_counts(tmp_path: Path) -> None:
    source = pairs(tmp_path / "source")
    (source / "images" / "0.json").write_text("{}")
    dataset = run(source, tmp_path / "out", max_quarantined=0.2)
    assert reasons(dataset) == {"images/0.json": "images/0.png has the same name"}


@pytest.mark.parametrize("where", ["a link to nothing", "an image"])
def test_what_is_neither_image_nor_mask_is_not_passed_over(tmp_path: Path, where: str) -> None:
    source = pairs(tmp_path / "source")
    (source / "notes.txt").write_text("taken in May")
    if where == "an image":
        save(source / "other" / "1.png", noise(1))
    else:
        (source / "test").symlink_to(tmp_path / "not mounted")
    said = reasons(run(source, tmp_path / "out", max_quarantined=0.2))
    assert len(said) == 1
    assert ("is neither image nor mask" in said.values()) == (where == "an image")


def test_a_mask_whose_values_are_not_whole_is_quarantined(tmp_path: Path) -> None:
    source = pairs(tmp_path / "source")
    for number, part in enumerate((0.0, 0.4)):
        (source / "masks" / f"{number}.png").unlink()
        save(source / "masks" / f"{number}.tif", by_value(indices(number)).astype(np.float32) + np.float32(part))
    dataset = run(source, tmp_path / "out", max_quarantined=0.2)
    assert reasons(dataset) == {"images/1.png": "its mask has values that are not whole"}
    assert (masks(dataset)["images/0.png", 0] == indices(0)).all()


def test_a_stack_in_a_store_is_fetched_once_for_all_of_its_pages(
    tmp_path: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, fetched, read = uploaded(stacks(tmp_path / "source"), store), Counter[str](), RemoteFiles.read

    def counted(files: RemoteFiles, path: str, most_mib: float = 0) -> bytes:
        fetched[path] += 1
        return read(files, path, most_mib)

    monkeypatch.setattr(RemoteFiles, "read", counted)
    run(source, tmp_path / "out", store, workers=1)
    assert set(fetched.values()) == {2}  # once for the number of its pages
    run(source, tmp_path / "out", store, workers=1)
    assert set(fetched.values()) == {2}


def test_a_stack_that_has_changed_or_is_new_is_listed_anew(tmp_path: Path) -> None:
    source, out = stacks(tmp_path / "source"), tmp_path / "out"
    run(source, out)
    pages = [noise(100 + page, SIDE, SIDE) for page in range(5)]
    for number in (1, 3):
        stack(source / "images" / f"{number}.tif", pages)
        stack(source / "masks" / f"{number}.tif", [by_value(indices(100 + page + number)) for page in range(5)])
    for kind in ("images", "masks"):
        (source / kind / "0.tif").unlink()
    grown = run(source, out)
    assert digests(grown) == digests(run(source, tmp_path / "fresh"))
    assert len(masks(grown)) == 4 + 5 + 5


def test_41_stacks_become_20100_pairs(tmp_path: Path) -> None:
    side, size, overlap = 8 + 9 * 4, 8, 4  # ten tiles a side
    source, pages = tmp_path / "source", [*[5] * 40, 1]
    for number, count in enumerate(pages):
        stack(source / "images" / f"{number}.tif", [noise(1000 * number + page, side, side) for page in range(count)])
        stack(source / "masks" / f"{number}.tif", [np.zeros((side, side), np.uint8)] * count)
    pairs_ = Pairs(LocalFiles(str(source)), Masks(classes={"a": 0, "b": 1}), Tiles(size=size, overlap=overlap))
    items = list(pairs_.items())
    assert (len(items), {item.problem for item in items}) == (20_100, {""})
    assert len({(item.path, item.part) for item in items}) == 20_100
    last = pairs_.load(max(items, key=lambda item: (int(Path(item.path).stem), item.part)), (size, size, 3))
    assert (last.pixels_HWC == noise(1000 * 40, side, side)[-size:, -size:]).all()


def map_of(number: int, height: int, width: int) -> NDArray[np.uint8]:
    """Return an image each of whose pixels says where it is."""
    rows_HW, columns_HW = np.indices((height, width))
    return np.stack([rows_HW, columns_HW, np.full((height, width), number)], axis=2).astype(np.uint8)


def maps(folder: Path, sizes: list[tuple[int, int]], suffix: str = ".tif") -> Path:
    for number, (height, width) in enumerate(sizes):
        pixels_HWC = map_of(number, height, width)
        save(folder / "images" / f"{number}{suffix}", pixels_HWC)
        save(folder / "masks" / f"{number}{suffix}", by_value(pixels_HWC.sum(axis=2, dtype=np.uint8) % 3))
    return folder


def tiles_of(dataset: Dataset) -> Iterator[tuple[Row, tuple[int, int, int], NDArray[np.uint8]]]:
    """Yield what became of each tile of maps; the number of its map, and where in it the tile is; and its pixels."""
    images_NHWC = np.load(dataset.folder / "images.npy")
    for row in rows(dataset):
        top, left, number = images_NHWC[row.row][0, 0].tolist()
        yield row, (number, top, left), images_NHWC[row.row]


SIZES = [(40, 56), (16, 16), (37, 90), (16, 50), (33, 17)]


@pytest.mark.parametrize("overlap", [0, 1, 7, 12])
@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_tiles_cover_every_pixel_and_no_pixel_is_moved(tmp_path: Path, overlap: int, suffix: str) -> None:
    source = maps(tmp_path / "source", SIZES, suffix)
    dataset = run(source, tmp_path / "out", tiles={"size": SIDE, "overlap": overlap})
    found = masks(dataset)
    covered = {number: np.zeros(size, int) for number, size in enumerate(SIZES)}
    for row, (number, top, left), tile_HWC in tiles_of(dataset):
        assert (tile_HWC == map_of(number, *SIZES[number])[top : top + SIDE, left : left + SIDE]).all()
        assert (found[row.path, row.part] == tile_HWC.sum(axis=2, dtype=np.uint8) % 3).all()
        assert row.path == f"images/{number}{suffix}"
        covered[number][top : top + SIDE, left : left + SIDE] += 1
    assert all(count.min() >= 1 for count in covered.values())


def test_tiles_without_overlap_show_each_pixel_once_where_they_fit(tmp_path: Path) -> None:
    source = maps(tmp_path / "source", [(32, 64)] * 3)
    assert len(masks(run(source, tmp_path / "out", tiles={"size": SIDE}))) == 3 * 8


@pytest.mark.parametrize("overlap", [0, 4])
@pytest.mark.parametrize("group", ["", "images/[01]"])
def test_no_pixel_is_in_tiles_of_two_splits(tmp_path: Path, overlap: int, group: str) -> None:
    source = maps(tmp_path / "source", [(40, 40)] * 8)
    dataset = run(source, tmp_path / "out", tiles={"size": SIDE, "overlap": overlap}, group=group)
    covered = {split: np.zeros((8, 40, 40), bool) for split in SPLITS}
    for row, (number, top, left), _ in tiles_of(dataset):
        covered[row.split][number, top : top + SIDE, left : left + SIDE] = True
    assert all(one.any() for one in covered.values())
    assert (sum(one.astype(int) for one in covered.values()) == 1).all()


def test_tiles_are_the_same_whoever_cuts_them(tmp_path: Path, store: ObjectStore) -> None:
    source = tmp_path / "source"
    for kind, pixels in (("images", noise(0, 320, 320)), ("masks", by_value(indices(0, 320)))):
        save(source / kind / "map.tif", pixels, compression="tiff_deflate")
    tiles: dict[str, Any] = {"tiles": {"size": SIDE}}
    alone = run(source, tmp_path / "alone", workers=1, **tiles)
    assert sum(alone.index.images.values()) > 256  # or processes would not be started
    several = run(source, tmp_path / "several", workers=4, **tiles)
    assert (digests(several), reasons(several)) == (digests(alone), {})
    remote = run(uploaded(source, store), tmp_path / "remote", store, workers=2, **tiles)
    assert (digests(remote), reasons(remote)) == (digests(alone), {})


@pytest.mark.parametrize("changes", [{}, TILED], ids=["whole", "tiles"])
@pytest.mark.parametrize("write", [pairs, stacks])
def test_a_store_gives_what_a_disk_gives(
    tmp_path: Path, store: ObjectStore, write: Callable[[Path], Path], changes: dict[str, Any]
) -> None:
    source = write(tmp_path / "source")
    remote = run(uploaded(source, store), tmp_path / "remote", store, **changes)
    assert digests(remote) == digests(run(source, tmp_path / "local", **changes))


@pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines", b"x" * 240, b"a b'c\"d", b"a:b!c", "日本".encode()])
@pytest.mark.parametrize(
    "changes", [{}, TILED, {"tiles": {"size": 8, "overlap": 2}}], ids=["whole", "tiles", "overlap"]
)
def test_a_hostile_name_is_a_name(tmp_path: Path, name: bytes, changes: dict[str, Any]) -> None:
    source = pairs(tmp_path / "source", suffix=".tif")
    for kind, pixels in (("images", noise(9, SIDE, SIDE)), ("masks", by_value(indices(9)))):
        save(tmp_path / "one.tif", pixels).rename(source / kind / os.fsdecode(name + b".tif"))
    dataset = run(source, tmp_path / "out", max_quarantined=0.3, **changes)
    kept = {row.path for row in rows(dataset) if row.row is not None}
    assert len(kept) + len(reasons(dataset)) == 9
    assert changes or os.fsdecode(b"images/" + name + b".tif") in kept


def of_kind(mode: str, number: int) -> Image.Image:
    image = Image.fromarray(noise(number, SIDE, SIDE))
    if mode == "P":
        return image.quantize(16)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(noise(100 + number, SIDE, SIDE)[:, :, 0]))
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("1", ".tif"), *((mode, suffix) for mode in ("L", "P", "RGBA", "LA") for suffix in (".png", ".tif"))],
)
@pytest.mark.parametrize("size", [SIDE, 12])
def test_a_tile_of_every_kind_has_the_pixels_of_a_whole_file(tmp_path: Path, mode: str, suffix: str, size: int) -> None:
    source = pairs(tmp_path / "source", suffix=suffix)
    for number in range(8):
        save(source / "images" / f"{number}{suffix}", of_kind(mode, number))
    tiled = run(source, tmp_path / "tiled", image_size=size, **TILED)
    whole = run(source, tmp_path / "whole", image_size=size)
    assert tiled.index.content_digest == whole.index.content_digest


def test_a_mask_of_two_channels_is_quarantined_in_tiles(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    source = pairs(tmp_path / "source")
    profile = {"driver": "GTiff", "width": SIDE, "height": SIDE, "count": 2, "dtype": "uint8"}
    (source / "masks" / "1.png").unlink()
    with (
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(source / "masks" / "1.tif", "w", **profile) as raster,
    ):
        raster.write(np.stack([by_value(indices(1))] * 2))
    dataset = run(source, tmp_path / "out", max_quarantined=0.3, **TILED)
    said = "its mask has two channels, which are neither a value nor a colour"
    assert reasons(dataset) == {"images/1.png": said}


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_raster_that_its_exif_note_turns_is_quarantined(tmp_path: Path, kind: str, suffix: str) -> None:
    source = pairs(tmp_path / "source", suffix=suffix)
    turn(source / kind / (f"1{suffix}" if kind == "images" else "1.png"), 3)
    dataset = run(source, tmp_path / "out", max_quarantined=0.3, **TILED)
    said = "is turned by its EXIF note, or its mask is, which tiles do not follow"
    assert reasons(dataset) == {f"images/1{suffix}": said}


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_raster_that_is_none_is_quarantined(tmp_path: Path, kind: str) -> None:
    source = pairs(tmp_path / "source", suffix=".tif")
    (source / kind / ("1.tif" if kind == "images" else "1.png")).write_bytes(b"II*\0 no raster")
    dataset = run(source, tmp_path / "out", max_quarantined=0.3, **TILED)
    assert reasons(dataset) == {"images/1.tif": "is no raster, or its mask is none"}


def test_images_that_can_t_be_split_are_told_of(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no images are left for validation; its groups are too few or too large"):
        run(maps(tmp_path / "source", [(60, 60)]), tmp_path / "out", tiles={"size": SIDE, "overlap": 2})


def test_a_raster_that_was_cut_short_is_quarantined(tmp_path: Path) -> None:
    source = maps(tmp_path / "source", [(64, 64)] * 6)
    file = source / "images" / "2.tif"
    file.write_bytes(file.read_bytes()[:2000])
    dataset = run(source, tmp_path / "out", max_quarantined=0.5, **TILED)
    assert {path.partition("#")[0] for path in reasons(dataset)} == {"images/2.tif"}


CAMVID = (
    *("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol"),
    *("Fence", "Car", "Pedestrian", "Bicyclist"),
)


@needs_real_data
def test_street_scenes_keep_their_splits(tmp_path: Path) -> None:
    table = {"classes": {name: number for number, name in enumerate(CAMVID)}, "ignore": 11}
    dataset = run(Path(REAL, "segmentation/camvid"), tmp_path / "out", image_size=(45, 60), masks=table)
    given = {(path.partition("/")[0], split) for path, split in splits(dataset).items() if path.startswith("val")}
    assert given == {("val", "validation")}
    assert (sum(dataset.index.images.values()), dataset.index.quarantined) == (180, ())
    assert dataset.index.counts["train"]["Road"] > dataset.index.counts["train"]["Bicyclist"] > 0


@needs_real_data
def test_stacks_of_electron_micrographs_are_cut_into_tiles(tmp_path: Path) -> None:
    dataset = run(
        Path(REAL, "segmentation/isbi2012_em"),
        tmp_path / "out",
        image_size=64,
        grayscale=True,
        masks={"classes": {"membrane": 0, "cell": 255}},
        tiles={"size": 128, "overlap": 0},
    )
    assert (sum(dataset.index.images.values()), dataset.index.quarantined) == (4 * 5 * 16, ())
    pixels = dataset.index.counts["train"]
    assert 0.1 < pixels["membrane"] / pixels["cell"] < 0.5
