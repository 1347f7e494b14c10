"""Arrays -> the small pictures of a page."""

import colorsys
from base64 import b64encode

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from steelyard.data.sources.segmentation import IGNORED

TINY = 32  # pixels; a picture that is no larger will be scaled up, and shows what JPEG leaves out
_TINT = 0.5  # of a mask's colours, over the image


def picture(image_HWC: NDArray[np.uint8], side: int) -> str:
    """Return an image as a JPEG in a data URI, reduced by a whole number until neither side is longer than `side`."""
    longer, channels = max(image_HWC.shape[:2]), image_HWC.shape[2]
    if longer > side:
        image = Image.fromarray(image_HWC if channels == 3 else image_HWC[:, :, 0])
        image_HWC = np.atleast_3d(np.asarray(image.reduce(-(-longer // side))))
    fine = longer <= TINY
    space, sampling = ("RGB", "444" if fine else "420") if channels == 3 else ("GRAY", "Gray")
    jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(image_HWC), 95 if fine else 70, space, sampling)
    return f"data:image/jpeg;base64,{b64encode(jpeg).decode()}"


def tinted(image_HWC: NDArray[np.uint8], mask_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image with each class of its mask in its colour; what counts for nothing stays as it is."""
    tint_HW1 = np.where(mask_HW == IGNORED, np.float32(0), np.float32(_TINT))[:, :, None]
    tinted_HWC: NDArray[np.uint8] = (image_HWC * (1 - tint_HW1) + _COLOURS[mask_HW] * tint_HW1).astype(np.uint8)
    return tinted_HWC


def colour(number: int) -> tuple[int, int, int]:
    """Return the colour (red, green, blue) of a class; those of neighbours are far apart."""
    value, saturation = (0.95, 0.75, 0.55)[number % 3], (0.85, 0.6)[number % 2]
    red, green, blue = colorsys.hsv_to_rgb((0.58 + 0.618034 * number) % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


_COLOURS = np.array([colour(number) for number in range(256)], np.float32)
