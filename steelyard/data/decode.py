"""Encoded image bytes -> uint8 HWC: one path for training and for requests, so that both see the same pixels.

JPEG goes through libjpeg-turbo directly (simplejpeg), which gives the pixels that Pillow gives, in half the time; a
file that it hesitates over, and every other format, goes through Pillow.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import RLock
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from steelyard.errors import UnreadableImage

Shape = tuple[int, int, int]

# Phones and cameras rarely save more than 50 megapixels; as RGBA that is 200 MB while it is decoded.
MAX_PIXELS = 50_000_000
LARGE = 2**22  # pixels
TIFF = (".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")  # not EPS: Pillow runs Ghostscript for it
_MODES = {1: "L", 3: "RGB"}
_JPEG_COLORS = {"RGB": "RGB", "YCbCr": "RGB", "Gray": "GRAY"}  # the others, CMYK and YCCK, are left to Pillow
_JPEG, _EXIF = b"\xff\xd8\xff", b"Exif\0\0"
_DAMAGED = ("Premature end", "Corrupt JPEG data")  # as libjpeg warns, before it fills in grey
_large = RLock()
_STRIP_PIXELS = 2**20  # laid over white at a time
_SUBFILE_TYPE, _NOT_ITS_OWN = 254, 0b101  # a TIFF's tag, and its bits for a reduced page and for a mask


class Decoded(NamedTuple):
    """An image in the shape that was asked for, the size it came in, and whether its EXIF note turned it."""

    pixels_HWC: NDArray[np.uint8]
    width: int
    height: int
    turned: bool


class Upright(NamedTuple):
    """All pixels of an image, or fewer where less is asked for; the size it came in, and whether it was turned."""

    image: Image.Image
    width: int
    height: int
    turned: bool


Wait = Callable[[], object]


def do_nothing() -> None:
    """Wait for nobody."""


def decode(data: bytes, shape: Shape) -> NDArray[np.uint8]:
    """Decode one image and stretch it to a shape.

    Args:
        data: a file's bytes, in one of FORMATS. Of an animation, the first frame counts.
        shape: (H, W, C) wanted; C is 1 or 3. A JPEG of twice that size or more is reduced while it is decoded.

    Raises:
        UnreadableImage: no image, a damaged one, or one of more than MAX_PIXELS.
    """
    return decode_sized(data, shape).pixels_HWC


def decode_sized(data: bytes, shape: Shape, page: int = 0, if_large: Wait = do_nothing) -> Decoded:
    """Decode one page just as `decode` does the first, and say how large it was; `if_large` as of `upright`."""
    image, width, height, turned = _jpeg(data, shape, if_large) or upright(data, page, if_large)
    return Decoded(_stretch(_in_mode(image, _MODES[shape[2]]), shape), width, height, turned)


def upright(data: bytes, page: int = 0, if_large: Wait = do_nothing) -> Upright:
    """Read all pixels of one page, in their own kind, turned as the camera's EXIF note says.

    Args:
        data: a file's bytes.
        page: which.
        if_large: is called before an image of more than LARGE pixels is read.

    Raises:
        UnreadableImage: as of `decode`.
    """
    if not data:
        raise UnreadableImage("is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        image.seek(page)
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        if image.width * image.height > LARGE:
            if_large()
        turned = _turn(image)
    except UnidentifiedImageError:
        raise UnreadableImage("is not an image in a known format") from None
    except (Image.DecompressionBombError, MemoryError):
        raise UnreadableImage(f"has more than {MAX_PIXELS // 10**6} megapixels") from None
    except Exception:  # on damaged bytes Pillow's decoders raise nearly anything, from OSError to KeyError
        raise UnreadableImage("is damaged or cut short") from None
    return Upright(image, *image.size, turned)


@contextmanager
def one_at_a_time() -> Iterator[Wait]:
    """Yield what is to be called before a large image is read: no other thread reads one until the block ends."""
    with ExitStack() as turn:
        yield lambda: turn.enter_context(_large)


def pages(data: bytes) -> list[int]:
    """Return which pages of a file are images of their own; a TIFF may also hold them smaller, or their masks.

    Raises:
        UnreadableImage: damaged bytes.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if not isinstance(image, TiffImageFile):
            return [0]
        own = [page for page in range(image.n_frames) if not _subfile_type(image, page) & _NOT_ITS_OWN]
        return own or [0]
    except Exception:  # as in `upright`
        raise UnreadableImage("is damaged or cut short") from None


def _subfile_type(image: TiffImageFile, page: int) -> int:
    image.seek(page)
    return int(image.tag_v2.get(_SUBFILE_TYPE, 0))


def resize(image_HWC: NDArray[np.uint8], shape: Shape) -> NDArray[np.uint8]:
    """Stretch an array to a shape just as `decode` does; the same array where nothing changes.

    Args:
        image_HWC: C is 1 or 3, or one more where the last says how opaque pixels are.
        shape: as of `decode`.
    """
    if image_HWC.shape == tuple(shape):
        return image_HWC
    grey = image_HWC.shape[2] == 1
    image = Image.fromarray(np.ascontiguousarray(image_HWC[:, :, 0] if grey else image_HWC))
    return _stretch(_in_mode(image, _MODES[shape[2]]), shape)


def _jpeg(data: bytes, shape: Shape, if_large: Wait) -> Upright | None:
    """Read a JPEG, upright, halved as often as that goes without a rest and leaves it as large as the shape.

    None where Pillow should look at it. Of damage, libjpeg warns; Pillow does not, and shows grey in its place.
    """
    if not data.startswith(_JPEG):
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        if width * height > MAX_PIXELS or colors not in _JPEG_COLORS:
            return None
        if width * height > LARGE:
            if_large()
        gap = min(height, width) / max(shape[:2])  # both ways alike, since the camera may have been turned
        part = next((part for part in (8, 4, 2) if gap >= part and not width % part and not height % part), 1)
        pixels_HWC = simplejpeg.decode_jpeg(
            data, _JPEG_COLORS[colors], min_height=-(-height // part), min_width=-(-width // part), min_factor=1
        )
        mode, size = "L" if colors == "Gray" else "RGB", pixels_HWC.shape[1::-1]
        image = Image.frombuffer(mode, size, pixels_HWC, "raw", mode, 0, 1)  # a copy less than fromarray
        if data.find(_EXIF, 0, 2**18) >= 0:  # behind a few other notes, of 64 KiB each at most
            image.info["exif"] = Image.open(io.BytesIO(data), formats=("JPEG",)).info.get("exif", b"")
        turned = _turn(image)
    except Exception as error:  # also for warnings, and whatever Pillow raises on a damaged EXIF note
        if str(error).startswith(_DAMAGED) and "extraneous bytes" not in str(error):
            raise UnreadableImage("is damaged or cut short") from None
        return None
    if image.width / image.height != pixels_HWC.shape[1] / pixels_HWC.shape[0]:
        width, height = height, width
    return Upright(image, width, height, turned)


def _turn(image: Image.Image) -> bool:
    """Load an image, turned as its EXIF note says, and return whether there was anything to turn."""
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)  # a TIFF forgets it when it is loaded
    ImageOps.exif_transpose(image, in_place=True)
    return turned


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
    if image.mode == "La":  # premultiplied, of which Pillow knows no other way
        image = image.convert("LA")
    if image.has_transparency_data:
        image = _over_white(image)
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit pixels, which Pillow's own conversion would clip at 255 instead."""
    pixels_HW = np.asarray(image)
    if pixels_HW.min() < 0 or pixels_HW.max() > 65535:
        raise UnreadableImage("has pixels below 0 or above 65535, which have no one reading as 8 bits")
    if image.mode == "I" and pixels_HW.max() < 256:
        raise UnreadableImage("has pixels of 32 bits that are all below 256: 0 to 65535 are read; save it with 8 bits")
    return Image.fromarray((pixels_HW >> 8).astype(np.uint8))


def _over_white(image: Image.Image) -> Image.Image:
    """Lay an image over white, strip by strip: of 50 megapixels, the copies this takes would be 800 MB."""
    opaque = Image.new("RGB", image.size)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        opaque.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return opaque
