"""Whatever people call an image becomes the same kind of array, or one short reason."""

import contextlib
import io
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from steelyard.data.decode import MAX_PIXELS, decode, decode_sized, one_at_a_time, resize
from steelyard.errors import UnreadableImage

RED = (255, 0, 0)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def noise(height: int, width: int, channels: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def test_an_image_of_the_right_size_is_not_touched() -> None:
    pixels_HWC = noise(7, 5, 3)
    assert (decode(encoded(Image.fromarray(pixels_HWC)), (7, 5, 3)) == pixels_HWC).all()
    assert resize(pixels_HWC, (7, 5, 3)) is pixels_HWC


def test_grey_stays_grey() -> None:
    pixels_HWC = noise(8, 8, 1)
    assert (decode(encoded(Image.fromarray(pixels_HWC[:, :, 0])), (8, 8, 1)) == pixels_HWC).all()


@pytest.mark.parametrize("shape", [(6, 9, 3), (40, 30, 3), (12, 12, 1)])
def test_an_array_and_its_file_resize_alike(shape: tuple[int, int, int]) -> None:
    pixels_HWC = noise(24, 20, 3)
    assert (resize(pixels_HWC, shape) == decode(encoded(Image.fromarray(pixels_HWC)), shape)).all()


def test_reducing_averages_instead_of_skipping_pixels() -> None:
    checkered_HW1 = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)[:, :, np.newaxis]
    assert abs(resize(checkered_HW1, (8, 8, 1)).astype(int) - 127).max() <= 3


def test_the_camera_note_turns_the_image() -> None:
    image = Image.new("RGB", (4, 2), "black")
    image.putpixel((0, 0), RED)
    exif = Image.Exif()
    exif[0x0112] = 6  # was taken with the camera turned: rotate by 90 degrees clockwise to view
    turned = decode(encoded(image, exif=exif), (4, 2, 3))
    assert tuple(turned[0, 1]) == RED


def turned_jpeg(orientation: int, width: int, height: int, mode: str, subsampling: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(noise(6, 6, 3)).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    return encoded(image, "JPEG", exif=exif, subsampling=subsampling, progressive=bool(orientation % 2))


@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize(("width", "height"), [(40, 24), (33, 17), (3, 90), (1, 1)])
@pytest.mark.parametrize(("mode", "subsampling"), [("RGB", 0), ("RGB", 2), ("L", 0)])
def test_a_jpeg_in_its_own_size_is_what_pillow_reads(
    orientation: int, width: int, height: int, mode: str, subsampling: int
) -> None:
    data = turned_jpeg(orientation, width, height, mode, subsampling)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    found = decode_sized(data, (upright.height, upright.width, 3))
    assert (found.width, found.height) == upright.size
    assert (found.pixels_HWC == np.asarray(upright.convert("RGB"))).all()


def test_a_camera_note_is_found_behind_much_else() -> None:
    data = turned_jpeg(6, 40, 24, "RGB", 0)
    other = b"\xff\xef\xff\xff" + bytes(65533)  # an APP15 segment of the largest size
    found, behind = (decode_sized(one, (40, 24, 3)) for one in (data, data[:2] + 2 * other + data[2:]))
    assert (behind.width, behind.height) == (found.width, found.height) == (24, 40)
    assert (behind.pixels_HWC == found.pixels_HWC).all()


@pytest.mark.parametrize("size", [(200, 300), (640, 480), (1001, 999), (1002, 998)])
def test_a_jpeg_that_is_reduced_while_it_is_read_is_near_to_one_that_is_reduced_after(size: tuple[int, int]) -> None:
    image = Image.fromarray(noise(6, 6, 3)).resize(size, Image.Resampling.BICUBIC)
    data = encoded(image, "JPEG", quality=95)
    found = decode(data, (48, 48, 3)).astype(int)
    wanted = resize(np.asarray(Image.open(io.BytesIO(data))), (48, 48, 3))
    assert abs(found - wanted).max() <= 4


def palette() -> Image.Image:
    return Image.new("RGB", (4, 4), RED).quantize(2)


def sixteen_bit() -> Image.Image:
    return Image.fromarray(np.full((4, 4), 0x8040, np.uint16))


@pytest.mark.parametrize(
    ("image", "form", "expected"),
    [
        (palette(), "PNG", RED),
        (palette(), "GIF", RED),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "PNG", (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 255)), "PNG", RED),
        (Image.new("LA", (4, 4), (0, 0)), "PNG", (255, 255, 255)),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF", RED),
        (Image.new("1", (4, 4), 1), "PNG", (255, 255, 255)),
        (sixteen_bit(), "PNG", (0x80, 0x80, 0x80)),
        (sixteen_bit(), "TIFF", (0x80, 0x80, 0x80)),
        (Image.new("RGB", (4, 4), RED), "WEBP", (254, 0, 0)),
        (Image.new("RGB", (4, 4), RED), "BMP", RED),
        (Image.new("RGB", (4, 4), RED), "PPM", RED),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(image: Image.Image, form: str, expected: tuple[int, int, int]) -> None:
    pixels_HWC = decode(encoded(image, form, **({"lossless": True} if form == "WEBP" else {})), (4, 4, 3))
    assert abs(pixels_HWC.astype(int) - expected).max() <= 2


def test_a_transparent_palette_lies_over_white() -> None:
    image = Image.new("P", (4, 4), 0)
    assert (decode(encoded(image, "PNG", transparency=0), (4, 4, 3)) == 255).all()


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_premultiplied_transparency_lies_over_white_too(mode: str) -> None:
    data = bytearray(encoded(Image.new(mode, (8, 8), (100,) * (len(mode) - 1) + (128,)), "TIFF"))
    kind = data.find(struct.pack("<HHI", 338, 3, 1)) + 8  # ExtraSamples, of which Pillow writes 2
    data[kind : kind + 2] = struct.pack("<H", 1)
    assert Image.open(io.BytesIO(data)).mode == {"LA": "La"}.get(mode, mode)
    pixels = decode(bytes(data), (8, 8, 3))
    assert 180 < pixels.min() <= pixels.max() < 240


def test_a_cmyk_jpeg_is_not_inverted() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert abs(decode(encoded(image, "JPEG"), (16, 16, 3)).astype(int) - RED).max() <= 4


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert tuple(decode(data, (4, 4, 3))[0, 0]) == RED


def test_what_lies_over_white_strip_by_strip_is_what_lies_there_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rgba = Image.fromarray(noise(30, 20, 4))
    for data in (
        encoded(rgba),
        encoded(rgba.convert("LA")),
        encoded(Image.fromarray(noise(30, 20, 3)).quantize(9), transparency=bytes(range(9))),
        encoded(Image.fromarray(noise(30, 20, 1)[:, :, 0]), transparency=7),
    ):
        whole = decode(data, (30, 20, 3))
        with monkeypatch.context() as strips:
            strips.setattr("steelyard.data.decode._STRIP_PIXELS", 70)
            assert (decode(data, (30, 20, 3)) == whole).all()


def test_a_large_transparent_image_takes_little_more_memory_than_its_pixels() -> None:
    pixels_mib = 4 * 4000**2 / 2**20
    data = encoded(Image.new("RGBA", (4000, 4000), (10, 20, 30, 128)), compress_level=1)
    code = """
import sys
from steelyard.data.decode import decode
from steelyard.process import own_peak_mib
data, before = sys.stdin.buffer.read(), own_peak_mib()
decode(data, (8, 8, 3))
print(own_peak_mib() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert float(done.stdout) < 2.5 * pixels_mib


@pytest.mark.parametrize(("most_pixels", "together"), [(64 * 64 - 1, False), (64 * 64, True)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_large_images_are_decoded_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch, kind: str, most_pixels: int, together: bool
) -> None:
    running: list[Image.Image] = []
    most: list[int] = []

    def slow_stretch(image: Image.Image, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
        running.append(image)
        time.sleep(0.1)
        most.append(len(running))
        running.pop()
        return np.zeros(shape, np.uint8)

    monkeypatch.setattr("steelyard.data.decode.LARGE", most_pixels)
    monkeypatch.setattr("steelyard.data.decode._stretch", slow_stretch)
    data = encoded(Image.fromarray(noise(64, 64, 3)), kind)

    def load(_: int) -> None:
        with one_at_a_time() as if_large:
            decode_sized(data, (8, 8, 3), if_large=if_large)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(load, range(4)))
    assert (max(most) > 1) == together


JPEG = encoded(Image.fromarray(noise(64, 64, 3)), "JPEG")
PROGRESSIVE = encoded(Image.fromarray(noise(64, 64, 3)), "JPEG", progressive=True)
PHOTO = encoded(Image.fromarray(noise(6, 6, 3)).resize((200, 200), Image.Resampling.BICUBIC), "JPEG")
END = b"\xff\xd9"  # of a JPEG
PNG = encoded(Image.fromarray(noise(64, 64, 3)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"hello", "is not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
        (JPEG[: len(JPEG) // 2], "is damaged or cut short"),
        (JPEG[: len(JPEG) // 2] + END, "is damaged or cut short"),
        (PROGRESSIVE[: len(PROGRESSIVE) // 2] + END, "is damaged or cut short"),
        (PHOTO[: len(PHOTO) // 3] + bytes(len(PHOTO) // 3) + PHOTO[2 * len(PHOTO) // 3 :], "is damaged or cut short"),
        (PNG[: len(PNG) // 2], "is damaged or cut short"),
        (PNG[:200] + bytes(100) + PNG[300:], "is damaged or cut short"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "has pixels of kind F"),
        (encoded(Image.new("LAB", (4, 4)), "TIFF"), "has pixels of kind LAB"),
        (encoded(Image.new("I", (4, 4), 65536), "TIFF"), "has pixels below 0 or above 65535"),
        (encoded(Image.new("I", (4, 4), -1), "TIFF"), "has pixels below 0 or above 65535"),
        (encoded(Image.new("I", (4, 4), 255), "TIFF"), "has pixels of 32 bits that are all below 256"),
    ],
)
def test_what_is_no_image_gives_one_short_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        decode(data, (8, 8, 3))


def test_a_jpeg_with_a_few_bytes_too_many_is_still_an_image() -> None:
    wanted = decode(JPEG, (64, 64, 3))
    for data in (JPEG + b"appended", JPEG[:-2] + b"before the end" + END, JPEG[:20] + b"between" + JPEG[20:]):
        assert (decode(data, (64, 64, 3)) == wanted).all()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [7_100, 10_000, 20_000])
def test_a_decompression_bomb_is_not_unpacked(side: int) -> None:
    assert side * side > MAX_PIXELS
    with pytest.raises(UnreadableImage, match="has more than 50 megapixels"):
        decode(encoded(Image.new("1", (side, side))), (8, 8, 3))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::RuntimeWarning:PIL")
def test_damaged_bytes_never_raise_anything_else() -> None:
    rng = np.random.default_rng(1)
    for data in (JPEG, PNG, encoded(palette(), "GIF"), encoded(sixteen_bit(), "TIFF"), encoded(palette(), "BMP")):
        for _ in range(40):
            damaged = bytearray(data)
            for position in rng.integers(0, min(len(data), 300), 4):
                damaged[position] = rng.integers(256)
            with contextlib.suppress(UnreadableImage):
                assert decode(bytes(damaged), (8, 8, 3)).shape == (8, 8, 3)
