"""Encoded image bytes -> uint8 HWC: one path for training and for requests, so that both see the same pixels."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from steelyard.errors import UnreadableImage

Shape = tuple[int, int, int]

# Phones and cameras rarely save more than 50 megapixels; as RGBA that is 200 MB while it is decoded.
MAX_PIXELS = 50_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")  # not EPS: Pillow runs Ghostscript for it
_MODES = {1: "L", 3: "RGB"}


def decode(data: bytes, shape: Shape) -> NDArray[np.uint8]:
    """Decode one image and stretch it to a shape.

    Args:
        data: a file's bytes, in one of FORMATS. Of an animation, the first frame counts.
        shape: (H, W, C) wanted; C is 1 or 3.

    Raises:
        UnreadableImage: no image, a damaged one, or one of more than MAX_PIXELS.
    """
    if not data:
        raise UnreadableImage("is empty")
    return _stretch(_in_mode(_upright(data), _MODES[shape[2]]), shape)


def resize(image_HWC: NDArray[np.uint8], shape: Shape) -> NDArray[np.uint8]:
    """Stretch an array to a shape just as `decode` does; the same array where nothing changes."""
    if image_HWC.shape == tuple(shape):
        return image_HWC
    grey = image_HWC.shape[2] == 1
    image = Image.fromarray(np.ascontiguousarray(image_HWC[:, :, 0] if grey else image_HWC))
    return _stretch(_in_mode(image, _MODES[shape[2]]), shape)


def _upright(data: bytes) -> Image.Image:
    """Read all pixels, turned as the camera's EXIF note says."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
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
    return image


def _stretch(image: Image.Image, shape: Shape) -> NDArray[np.uint8]:
    height, width, channels = shape
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)  # Pillow widens the filter when it reduces
    return np.array(image, np.uint8).reshape(height, width, channels)


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
