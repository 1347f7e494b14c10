"""Augmentation of whole batches, where they are.

torchvision's transforms draw once for a batch; here each image gets a draw of its own, but for mixing, which is
torchvision's: one share for a batch.
"""

import torch
from torch import Tensor

from steelyard.models.normalised import as_fractions
from steelyard.params import Augment

GREY = 0.5


class Augmentation:
    """Changes a batch as a recipe says, by draws from torch's global generator."""

    def __init__(self, settings: Augment, classes: int) -> None:
        self._settings, self._mixers = settings, _mixers(settings, classes)

    def __call__(self, images_NHWC: Tensor, truths: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (N, C, H, W) in [0, 1] and what they are.

        Args:
            images_NHWC: uint8.
            truths: labels (N,), which mixing turns into shares of classes (N, classes); or masks (N, H, W), which
                are moved with their images.
        """
        settings = self._settings
        if settings.crop or settings.flip:
            images_NHWC, truths = _moved(images_NHWC, truths, settings.crop, settings.flip)
        images_NCHW = as_fractions(images_NHWC)
        if settings.colour:
            images_NCHW = _coloured(images_NCHW, settings.colour)
        if settings.cutout:
            images_NCHW = images_NCHW.masked_fill(_squares(images_NCHW, settings.cutout), GREY)
        if self._mixers:
            mixer = self._mixers[int(torch.randint(len(self._mixers), ()))]
            images_NCHW, truths = mixer(images_NCHW, truths)
        return images_NCHW, truths


def _moved(images_NHWC: Tensor, truths: Tensor, shift: int, flip: bool) -> tuple[Tensor, Tensor]:
    """Shift each image by up to `shift` pixels both ways, mirroring what is missing, and flip every other one."""
    count, height, width, _ = images_NHWC.shape
    device = images_NHWC.device
    y_NH, x_NW = (
        _mirrored(torch.arange(extent, device=device) + _whole(count, -shift, shift, device), extent)
        for extent in (height, width)
    )
    if flip:
        x_NW = torch.where(torch.rand(count, 1, device=device) < 0.5, x_NW.flip(1), x_NW)
    where = (torch.arange(count, device=device)[:, None, None], y_NH[:, :, None], x_NW[:, None, :])
    return images_NHWC[where], truths[where] if truths.ndim == 3 else truths


def _whole(count: int, low: int, high: int, device: torch.device) -> Tensor:
    return torch.randint(low, high + 1, (count, 1), device=device)


def _mirrored(positions: Tensor, extent: int) -> Tensor:
    positions = positions.abs()
    return torch.where(positions >= extent, 2 * (extent - 1) - positions, positions)


def _coloured(images_NCHW: Tensor, by: float) -> Tensor:
    """Change brightness, contrast and (of three channels) saturation, each by a factor in 1 - by to 1 + by."""
    count, channels = images_NCHW.shape[:2]
    brightness, contrast, saturation = 1 + by * (2 * torch.rand(3, count, 1, 1, 1, device=images_NCHW.device) - 1)
    images_NCHW = images_NCHW * brightness
    mean = images_NCHW.mean((1, 2, 3), keepdim=True)
    images_NCHW = mean + contrast * (images_NCHW - mean)
    if channels == 3:
        red, green, blue = images_NCHW.split_with_sizes((1, 1, 1), 1)
        grey = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
        images_NCHW = grey + saturation * (images_NCHW - grey)
    return images_NCHW.clamp(0, 1)


def _squares(images_NCHW: Tensor, side: int) -> Tensor:
    """Return where a square lies in each image (N, 1, H, W), anywhere inside it."""
    count, _, height, width = images_NCHW.shape
    device = images_NCHW.device
    rows_NH, columns_NW = (
        (first <= (place := torch.arange(extent, device=device))) & (place < first + side)
        for extent, first in ((e, _whole(count, 0, e - side, device)) for e in (height, width))
    )
    return (rows_NH[:, :, None] & columns_NW[:, None, :])[:, None]


def _mixers(settings: Augment, classes: int) -> "list[torch.nn.Module]":
    if not (settings.mixup or settings.cutmix):
        return []
    from torchvision.transforms import v2

    kinds = ((v2.MixUp, settings.mixup), (v2.CutMix, settings.cutmix))
    return [kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds if alpha]
