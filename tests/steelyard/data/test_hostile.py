"""A folder full of what people's folders are full of: each file becomes the right pixels, or is quarantined."""

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from steelyard.data.dataset import SPLITS, Dataset
from steelyard.errors import SourceError
from tests.steelyard.data.pictures import class_folders, digests, noise, prepared, reasons, rows, save

PLENTY = 150  # images of each class beside the hostile ones: more than 256, or processes would not be started
SIDE = 8

Pixels = NDArray[np.uint8]
Maker = Callable[[Path], Pixels | str]  # writes one file; returns the pixels it stands for, or the reason against it


def png_named_jpg(file: Path) -> Pixels | str:
    save(file.with_name("x.png"), noise(1001)).rename(file)
    return noise(1001)


def jpg_named_png(file: Path) -> Pixels | str:
    save(file.with_name("x.jpg"), np.full((SIDE, SIDE, 3), 77, np.uint8)).rename(file)
    return np.full((SIDE, SIDE, 3), 77, np.uint8)


def animated_gif(file: Path) -> Pixels | str:
    frames = [Image.new("RGB", (SIDE, SIDE), color) for color in ((0, 0, 255), (255, 0, 0), (0, 255, 0))]
    save(file, frames[0], save_all=True, append_images=frames[1:])
    return np.full((SIDE, SIDE, 3), (0, 0, 255), np.uint8)


def sixteen_bits(file: Path) -> Pixels | str:
    grey = noise(1002)[:, :, 0]
    save(file, grey.astype(np.uint16) * 256 + 99)
    return np.repeat(grey[:, :, None], 3, axis=2)


def sixteen_bits_as_tiff(file: Path) -> Pixels | str:
    grey = noise(1003)[:, :, 0]
    save(file, grey.astype(np.uint16) * 256 + 99)
    return np.repeat(grey[:, :, None], 3, axis=2)


def cmyk(file: Path) -> Pixels | str:
    save(file, Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)), quality=100)
    return np.full((SIDE, SIDE, 3), (255, 0, 0), np.uint8)


def palette(file: Path) -> Pixels | str:
    image = Image.fromarray(noise(1004)).quantize(256)
    save(file, image)
    return np.asarray(image.convert("RGB"))


def transparent(file: Path) -> Pixels | str:
    rgba = np.dstack([noise(1005), np.full((SIDE, SIDE), 255, np.uint8)])
    rgba[: SIDE // 2, :, 3] = 0
    save(file, rgba)
    return np.where(rgba[:, :, 3:] == 0, 255, rgba[:, :, :3]).astype(np.uint8)


def turned_by_the_camera(file: Path) -> Pixels | str:
    upright = np.zeros((SIDE, SIDE, 3), np.uint8)
    upright[:, SIDE // 2 :] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # is to be turned by 90 degrees clockwise
    save(file, np.rot90(upright), exif=exif, quality=100, subsampling=0)
    return upright


def link_to_an_image(file: Path) -> Pixels | str:
    file.symlink_to(save(file.parents[2] / "aside" / "1.png", noise(1006)))
    return noise(1006)


def corrupt(file: Path) -> Pixels | str:
    data = bytearray(save(file, noise(1007)).read_bytes())
    data[60:90] = bytes(30)
    file.write_bytes(data)
    return "is damaged or cut short"


def truncated(file: Path) -> Pixels | str:
    data = save(file, noise(1008, 64, 64)).read_bytes()
    file.write_bytes(data[: len(data) // 2])
    return "is damaged or cut short"


def empty(file: Path) -> Pixels | str:
    file.touch()
    return "is empty"


def text(file: Path) -> Pixels | str:
    file.write_text("I am an image")
    return "is not an image in a known format"


def bomb(file: Path) -> Pixels | str:
    save(file, Image.new("1", (8000, 8000)))
    return "has more than 50 megapixels"


def too_large(file: Path) -> Pixels | str:
    with file.open("wb") as stream:
        stream.truncate(2**31)
    return "is larger than 256 MiB"


def link_to_itself(file: Path) -> Pixels | str:
    file.symlink_to(file.name)
    return "can't be opened: Too many levels of symbolic links"


def link_to_nothing(file: Path) -> Pixels | str:
    file.symlink_to("not there")
    return "can't be opened: No such file or directory"


def link_to_a_folder_above(file: Path) -> Pixels | str:
    file.symlink_to(".")
    return "is a symbolic link to a folder above it"


def link_to_a_device(file: Path) -> Pixels | str:
    file.symlink_to("/dev/zero")
    return "is not a regular file"


def fifo(file: Path) -> Pixels | str:
    os.mkfifo(file)
    return "is not a regular file"


def listening_socket(file: Path) -> Pixels | str:
    here = Path.cwd()
    os.chdir(file.parent)  # a socket's address is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(file.name)
    os.chdir(here)
    return "is not a regular file"


def unreadable(file: Path) -> Pixels | str:
    save(file, noise(1009)).chmod(0)
    return noise(1009) if os.access(file, os.R_OK) else "can't be read: Permission denied"  # root reads everything


def plain(file: Path) -> Pixels | str:
    seed = 2000 + sum(os.fsencode(file.name))
    save(file.with_name("x.png"), noise(seed)).rename(file)
    return noise(seed)


MAKERS: list[tuple[bytes, Maker]] = [
    (b"cat/not-a.jpg", png_named_jpg),
    (b"cat/not-a.png", jpg_named_png),
    (b"cat/moving.gif", animated_gif),
    (b"cat/sixteen.png", sixteen_bits),
    (b"cat/sixteen.tif", sixteen_bits_as_tiff),
    (b"cat/cmyk.jpg", cmyk),
    (b"cat/palette.png", palette),
    (b"cat/rgba.png", transparent),
    (b"cat/turned.jpg", turned_by_the_camera),
    (b"cat/link.png", link_to_an_image),
    (b"cat/corrupt.png", corrupt),
    (b"cat/truncated.png", truncated),
    (b"cat/truncated.jpg", truncated),
    (b"cat/truncated.tif", truncated),
    (b"cat/truncated.webp", truncated),
    (b"cat/truncated.gif", truncated),
    (b"cat/truncated.bmp", truncated),
    (b"cat/empty.png", empty),
    (b"cat/text.png", text),
    (b"cat/bomb.png", bomb),
    (b"cat/film.jpg", too_large),
    (b"cat/itself.png", link_to_itself),
    (b"itself", link_to_itself),
    (b"cat/nothing.png", link_to_nothing),
    (b"nothing", link_to_nothing),
    (b"cat/up", link_to_a_folder_above),
    (b"up", link_to_a_folder_above),
    (b"cat/zero.png", link_to_a_device),
    (b"cat/fifo.png", fifo),
    (b"cat/socket.png", listening_socket),
    (b"cat/unreadable.png", unreadable),
    (b"cat/caf\xe9.png", plain),
    (b"cat/two\nlines.png", plain),
    (b"cat/a\rb\tc.png", plain),
    (b"cat/no suffix", plain),
    (b"cat/" + b"x" * 255, plain),
    (b"cat/quote'\"%s{}\\.png", plain),
    (b"cat/" + "\u202egnp.日本\U0001f408".encode(), plain),
    *((b"\xff\xfe dogs/%d.png" % number, plain) for number in range(1, 5)),
    *((b"line\nbreak/%d.png" % (10 * number), plain) for number in range(1, 5)),
    *((b"way%b/%d.png" % (b"/down" * 40, 100 * number), plain) for number in range(1, 5)),
]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Pixels | str]]:
    """A folder, and what should become of each file in it that `class_folders` did not write."""
    folder = class_folders(tmp_path_factory.mktemp("hostile") / "source", PLENTY)
    wanted = {}
    for name, make in MAKERS:
        file = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
        file.parent.mkdir(parents=True, exist_ok=True)
        wanted[os.fsdecode(name)] = make(file)
    return folder, wanted


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
def dataset(
    request: pytest.FixtureRequest,
    hostile: tuple[Path, dict[str, Pixels | str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Dataset:
    out = tmp_path_factory.mktemp("out") / "out"
    return prepared(hostile[0], out, workers=request.param, max_quarantined=0.5)


def test_every_file_is_either_kept_or_quarantined(
    dataset: Dataset, hostile: tuple[Path, dict[str, Pixels | str]]
) -> None:
    found = rows(dataset)
    written = {f"{name}/{number}.png" for name in ("cat", "dog") for number in range(PLENTY)}
    assert sorted(row.path for row in found) == sorted(written | set(hostile[1]))
    assert all((row.row is None) == (row.problem is not None) == (row.split is None) for row in found)
    kept = sum(dataset.index.images.values())
    assert len(found) == kept + len(dataset.index.quarantined)
    assert kept == sum(len(images) for split in SPLITS for images, _ in dataset.batches(split, 100))


def test_what_is_no_usable_image_is_quarantined_with_its_reason(
    dataset: Dataset, hostile: tuple[Path, dict[str, Pixels | str]]
) -> None:
    assert reasons(dataset) == {path: want for path, want in hostile[1].items() if isinstance(want, str)}


def test_what_is_an_image_has_the_right_pixels(dataset: Dataset, hostile: tuple[Path, dict[str, Pixels | str]]) -> None:
    images_NHWC = np.load(dataset.folder / "images.npy")
    found = {row.path: images_NHWC[row.row] for row in rows(dataset) if row.row is not None}
    for path, want in hostile[1].items():
        if not isinstance(want, str):
            lossy = path.endswith((".jpg", "not-a.png")) and path != "cat/not-a.jpg"
            assert abs(found[path].astype(int) - want).max() <= (4 if lossy else 0), path
    for name, seed in (("cat", 0), ("dog", 1)):
        for number in range(PLENTY):
            assert (found[f"{name}/{number}.png"] == noise(2 * number + seed)).all()


def test_a_folder_s_name_that_is_not_utf8_is_a_class_all_the_same(dataset: Dataset) -> None:
    assert dataset.index.classes == ("\\xff\\xfe dogs", "cat", "dog", "line\nbreak", "way")


def test_several_processes_make_what_one_makes(hostile: tuple[Path, dict[str, Pixels | str]], tmp_path: Path) -> None:
    one, two = (
        prepared(hostile[0], tmp_path / str(workers), workers=workers, max_quarantined=0.5) for workers in (1, 2)
    )
    assert digests(one) == digests(two)
    assert one.index.quarantined == two.index.quarantined
    assert [row[:5] for row in rows(one)] == [row[:5] for row in rows(two)]


def test_a_folder_deeper_than_python_s_stack_is_walked(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source")
    here = os.getcwd()
    os.chdir(source / "cat")
    try:
        for _ in range(1200):
            os.mkdir("d")
            os.chdir("d")
        save(Path("1.png"), noise(1010))
    finally:
        os.chdir(here)
    try:
        assert sum(prepared(source, tmp_path / "out").index.images.values()) == 25
    finally:
        subprocess.run(["rm", "-rf", source], check=True)  # which Python's own functions can't


@pytest.mark.parametrize("allowed", [0.0, 0.05])
def test_more_damage_than_allowed_stops_the_run_and_names_the_first(tmp_path: Path, allowed: float) -> None:
    source = class_folders(tmp_path / "source", 10)
    for number in range(2):
        (source / "cat" / f"{number}.png").write_bytes(b"")
    said = rf"^data\.max_quarantined: 2 of 20 files .*{allowed:g}; .*: cat/0\.png is empty; cat/1\.png is empty$"
    with pytest.raises(SourceError, match=said):
        prepared(source, tmp_path / "out", max_quarantined=allowed)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("bad", "good", "allowed"), [(29, 71, 0.29), (7, 93, 0.07), (50, 6, 1.0)])
def test_as_much_damage_as_allowed_is_allowed(tmp_path: Path, bad: int, good: int, allowed: float) -> None:
    for number in range(good):
        save(tmp_path / "source" / ("cat", "dog")[number % 2] / f"{number}.png", noise(number))
    for number in range(bad):
        (tmp_path / "source" / "cat" / f"bad{number}.png").write_bytes(b"")
    dataset = prepared(tmp_path / "source", tmp_path / "out", max_quarantined=allowed)
    assert len(dataset.index.quarantined) == bad
