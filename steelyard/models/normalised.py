"""A network that takes images as they are stored."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steelyard.models.build import Network


class Normalised(nn.Module):
    """A network behind its normalisation: uint8 NHWC in."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, mean_C: NDArray[np.float64], std_C: NDArray[np.float64]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean_C, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std_C, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images_NHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, classes) and embedding (N, features)."""
        return self.answer(as_fractions(images_NHWC))

    def answer(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same for images in [0, 1]."""
        logits_NC, embedding_ND = self.network((images_NCHW - self.mean) / self.std)
        return logits_NC, embedding_ND


def as_fractions(images_NHWC: Tensor) -> Tensor:
    """Return uint8 images (N, H, W, C) as (N, C, H, W) in [0, 1], in the same order of memory: channels last."""
    return images_NHWC.permute(0, 3, 1, 2).float() / 255
