"""U-Net: a network that answers for each pixel."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from steelyard.params import UNet as Settings


class UNet(nn.Module):
    """A U-Net (Ronneberger et al. 2015) for images of any size.

    Two things differ from the paper. Convolutions pad with zeros and keep the size, so that every pixel is answered
    for; and images whose sides 2**depth does not divide are padded until it does, and the answer is cropped.
    """

    def __init__(self, settings: Settings, channels: int) -> None:
        """Build it with fresh weights.

        Args:
            settings: depth, width, batch norm and dropout.
            channels: of the images.
        """
        super().__init__()
        widths = [settings.width * 2**level for level in range(settings.depth + 1)]
        self.down = nn.ModuleList(_block(*pair, settings.batch_norm) for pair in pairwise([channels, *widths]))
        self.pool, self.dropout = nn.MaxPool2d(2), nn.Dropout2d(settings.dropout)
        steps = list(pairwise(reversed(widths)))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(deep, shallow, 2, 2) for deep, shallow in steps)
        self.up = nn.ModuleList(_block(2 * shallow, shallow, settings.batch_norm) for _, shallow in steps)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return features (N, width, H, W)."""
        height, width = images_NCHW.shape[2:]
        values: Tensor = self._padded(images_NCHW)
        passed: list[Tensor] = []
        for block in self.down[:-1]:
            passed.append(block(values))
            values = self.pool(passed[-1])
        values = self.dropout(self.down[-1](values))
        for enlarge, block in zip(self.enlarge, self.up, strict=True):
            values = block(torch.cat([passed.pop(), enlarge(values)], dim=1))
        return values[:, :, :height, :width]

    def _padded(self, images_NCHW: Tensor) -> Tensor:
        below, right = (-extent % 2 ** len(self.up) for extent in images_NCHW.shape[2:])
        return nn.functional.pad(images_NCHW, (0, right, 0, below)) if below or right else images_NCHW


def _block(before: int, after: int, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers.append(nn.Conv2d(channels, after, 3, padding=1, bias=not batch_norm))
        layers += [nn.BatchNorm2d(after)] if batch_norm else []
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
