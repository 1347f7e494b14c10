"""Image corruptions for rehearsals and tests, after Hendrycks & Dietterich 2019 (arXiv:1903.12261); severity 1 to 5.

Names and severities are theirs (ImageNet-C's for noise, CIFAR-10-C's for blur, contrast and brightness); `rotate`
is no corruption of theirs. Grey or colour, any size; numpy only.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]
Corruption = Callable[[Images, int, np.random.Generator], Images]


def corrupt(images_NHWC: NDArray[np.uint8], name: str, severity: int, seed: int) -> NDArray[np.uint8]:
    """Return a corrupted copy of the images.

    Args:
        images_NHWC: uint8.
        name: one of CORRUPTIONS.
        severity: 1 (mild) to 5.
        seed: of the random corruptions.
    """
    values_NHWC = images_NHWC.astype(np.float32) / np.float32(255)
    corrupted_NHWC = CORRUPTIONS[name](values_NHWC, severity, np.random.default_rng(seed))
    return (np.clip(corrupted_NHWC, 0, 1) * 255).round().astype(np.uint8)


def gaussian_noise(images_NHWC: Images, severity: int, generator: np.random.Generator) -> Images:
    """Add independent noise to every value."""
    spread = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1]
    return images_NHWC + generator.normal(0, spread, images_NHWC.shape).astype(np.float32)


def gaussian_blur(images_NHWC: Images, severity: int, _generator: np.random.Generator) -> Images:
    """Smooth along rows and columns; edges are repeated outwards."""
    sigma = (0.4, 0.6, 0.7, 0.8, 1.0)[severity - 1]
    offsets = np.arange(-3, 4)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2).astype(np.float32)
    kernel /= kernel.sum()
    for axis in (1, 2):
        size = images_NHWC.shape[axis]
        neighbours = np.clip(np.arange(size)[:, None] + offsets, 0, size - 1)
        taps = (np.take(images_NHWC, neighbours[:, tap], axis=axis) * weight for tap, weight in enumerate(kernel))
        images_NHWC = np.stack(list(taps)).sum(axis=0, dtype=np.float32)
    return images_NHWC


def brightness(images_NHWC: Images, severity: int, _generator: np.random.Generator) -> Images:
    """Lift every value."""
    return images_NHWC + np.float32((0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1])


def contrast(images_NHWC: Images, severity: int, _generator: np.random.Generator) -> Images:
    """Pull every value towards its image's and channel's mean."""
    kept = np.float32((0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1])
    mean_NHWC: Images = images_NHWC.mean(axis=(1, 2), keepdims=True)
    return (images_NHWC - mean_NHWC) * kept + mean_NHWC


def rotate(images_NHWC: Images, severity: int, generator: np.random.Generator) -> Images:
    """Turn each image left or right about its centre; the nearest pixel, edges repeated outwards."""
    angle = np.deg2rad((5, 10, 15, 20, 30)[severity - 1])
    _, height, width, _ = images_NHWC.shape
    rows, columns = np.mgrid[:height, :width] - np.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    turned = {}
    for sign in (-1, 1):
        sine, cosine = np.sin(sign * angle), np.cos(sign * angle)
        source_rows = (rows * cosine - columns * sine + (height - 1) / 2).round().astype(int).clip(0, height - 1)
        source_columns = (rows * sine + columns * cosine + (width - 1) / 2).round().astype(int).clip(0, width - 1)
        turned[sign] = images_NHWC[:, source_rows, source_columns]
    left_N = generator.random(len(images_NHWC)) < 0.5
    return np.where(left_N[:, None, None, None], turned[-1], turned[1])


CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        "gaussian_noise": gaussian_noise,
        "gaussian_blur": gaussian_blur,
        "brightness": brightness,
        "contrast": contrast,
        "rotate": rotate,
    }
)
