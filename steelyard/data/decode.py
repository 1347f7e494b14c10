"""Encoded image bytes -> uint8 HWC: one path for training and for requests, so that both see the same pixels.

JPEG goes through libjpeg-turbo directly (simplejpeg), which gives the pixels that Pillow gives, in half the time; a
file that it hesitates over, and every other format, goes through Pillow.
"""

import io
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from steelyard.errors import UnreadableImage

Shape = tuple[int, int, int]

# Phones and cameras rarely save more than 50 megapixels; as RGBA that is 200 MB while it is decoded.
MAX_PIXELS = 50_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")  # not EPS: Pillow runs Ghostscript for it
_MODES = {1: "L", 3: "RGB"}
_JPEG_COLORS = {"RGB": "RGB", "YCbCr": "RGB", "Gray": "GRAY"}  # the others, CMYK and YCCK, are left to Pillow
_JPEG, _EXIF = b"\xff\xd8\xff", b"Exif\0\0"


class Decoded(NamedTuple):
    """An image in the shape that was asked for, and the size it came in."""

    pixels_HWC: NDArray[np.uint8]
    width: int
    height: int


def decode(data: bytes, shape: Shape) -> NDArray[np.uint8]:
    """Decode one image and stretch it to a shape.

    Args:
        data: a file's bytes, in one of FORMATS. Of an animation, the first frame counts.
        shape: (H, W, C) wanted; C is 1 or 3. A JPEG of twice that size or more is reduced while it is decoded.

    Raises:
        UnreadableImage: no image, a damaged one, or one of more than MAX_PIXELS.
    """
    return decode_sized(data, shape).pixels_HWC


def decode_sized(data: bytes, shape: Shape, page: int = 0) -> Decoded:
    """Decode one page just as `decode` does the first, and say how large it was."""
    if not data:
        raise UnreadableImage("is empty")
    image, (width, height) = _jpeg(data, shape) or _upright(data, page)
    return Decoded(_stretch(_in_mode(image, _MODES[shape[2]]), shape), width, height)


def resize(image_HWC: NDArray[np.uint8], shape: Shape) -> NDArray[np.uint8]:
    """Stretch an array to a shape just as `decode` does; the same array where nothing changes."""
    if image_HWC.shape == tuple(shape):
        return image_HWC
    grey = image_HWC.shape[2] == 1
    image = Image.fromarray(np.ascontiguousarray(image_HWC[:, :, 0] if grey else image_HWC))
    return _stretch(_in_mode(image, _MODES[shape[2]]), shape)


def _jpeg(data: bytes, shape: Shape) -> tuple[Image.Image, tuple[int, int]] | None:
    """Read a JPEG, upright, halved as often as that goes without a rest and leaves it as large as the shape.

    None where Pillow should look at it.
    """
    if not data.startswith(_JPEG):
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        if width * height > MAX_PIXELS or colors not in _JPEG_COLORS:
            return None
        gap = min(height, width) / max(shape[:2])  # both ways alike, since the camera may have been turned
        part = next((part for part in (8, 4, 2) if gap >= part and not width % part and not height % part), 1)
        pixels_HWC = simplejpeg.decode_jpeg(
            data, _JPEG_COLORS[colors], min_height=-(-height // part), min_width=-(-width // part), min_factor=1
        )
        mode, size = "L" if colors == "Gray" else "RGB", pixels_HWC.shape[1::-1]
        image = Image.frombuffer(mode, size, pixels_HWC, "raw", mode, 0, 1)  # a copy less than fromarray
        if data.find(_EXIF, 0, 2**18) >= 0:  # behind a few other notes, of 64 KiB each at most
            image.info["exif"] = Image.open(io.BytesIO(data), formats=("JPEG",)).info.get("exif", b"")
            ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # also for warnings, and whatever Pillow raises on a damaged EXIF note
        return None
    turned = image.width / image.height != pixels_HWC.shape[1] / pixels_HWC.shape[0]
    return image, (height, width) if turned else (width, height)


def _upright(data: bytes, page: int) -> tuple[Image.Image, tuple[int, int]]:
    """Read all pixels, turned as the camera's EXIF note says."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        image.seek(page)
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    except UnidentifiedImageError:
        raise UnreadableImage("is not an image in a known format") from None
    except (Image.DecompressionBombError, MemoryError):
        raise UnreadableImage(f"has more than {MAX_PIXELS // 10**6} megapixels") from None
    except Exception:  # on damaged bytes Pillow's decoders raise nearly anything, from OSError to KeyError
        raise UnreadableImage("is damaged or cut short") from None
    return image, image.size


def _stretch(image: Image.Image, shape: Shape) -> NDArray[np.uint8]:
    """Reduce by averaging whole pixels first, then by a bilinear filter as wide as what is left to reduce."""
    height, width, channels = shape
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=1.0)
    return np.frombuffer(image.tobytes(), np.uint8).reshape(height, width, channels)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode in ("F", "LAB"):
        raise UnreadableImage(f"has pixels of kind {image.mode}, which have no one reading as {mode}")
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = _over_white(image)
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit pixels, which Pillow's own conversion would clip at 255 instead."""
    return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))


def _over_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")
