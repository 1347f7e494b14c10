"""Candidate -> torch module."""

import torch
from torch import Tensor, nn

from steelyard.errors import DoesNotFit, first_line
from steelyard.models.layers import Shape
from steelyard.models.modules import from_layers
from steelyard.models.outline import on_meta
from steelyard.models.torchvision import from_torchvision, segmentation_body
from steelyard.models.unet import UNet
from steelyard.params import SEGMENTATION_ARCHS, Candidate


class Network(nn.Module):
    """A body that ends in flat features, which become the embedding, and a linear head over the classes."""

    def __init__(self, body: nn.Module, features: int, classes: int, fresh: tuple[str, ...] = ()) -> None:
        """Put a head on a body.

        Args:
            body: (N, C, H, W) to (N, features).
            features: how many.
            classes: how many.
            fresh: names of the body's parts that are not those of its architecture, so that others' weights do not fit.
        """
        super().__init__()
        self.body, self.features, self.classes, self.fresh = body, features, classes, fresh
        self.head = self._head()

    def forward(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, classes) and embedding (N, features) of float images."""
        embedding_ND = self.body(images_NCHW)
        return self.head(embedding_ND), embedding_ND

    def _head(self) -> nn.Module:
        return nn.Linear(self.features, self.classes)


class PixelNetwork(Network):
    """A body that ends in a map of features, and a head that classifies each of its pixels.

    A map smaller than the image is answered for as it is, and the answer enlarged.
    """

    def forward(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, classes, H, W) and embedding (N, features), the features' mean over the image."""
        features_NDHW = self.body(images_NCHW)
        logits_NCHW, size = self.head(features_NDHW), images_NCHW.shape[2:]
        if logits_NCHW.shape[2:] != size:
            logits_NCHW = nn.functional.interpolate(logits_NCHW, size=size, mode="bilinear", align_corners=False)
        return logits_NCHW, features_NDHW.mean((2, 3))

    def _head(self) -> nn.Module:
        return nn.Conv2d(self.features, self.classes, 1)


def build(candidate: Candidate, image_shape: Shape, classes: int) -> Network:
    """Build a candidate's network with fresh weights, drawn from torch's global generator.

    Args:
        candidate: its architecture.
        image_shape: (height, width, channels).
        classes: how many.

    Raises:
        DoesNotFit: the architecture is unknown, or can't take images of this shape.
    """
    _try(outline(candidate, image_shape, classes), image_shape, candidate.arch or candidate.name)
    return _build(candidate, image_shape, classes)


def outline(candidate: Candidate, image_shape: Shape, classes: int) -> Network:
    """Build the same without weights, on the meta device; errors as of `build`, but no image is tried."""
    return on_meta(lambda: _build(candidate, image_shape, classes))


def _build(candidate: Candidate, image_shape: Shape, classes: int) -> Network:
    if candidate.layers is not None:
        body, features = from_layers(candidate.layers, image_shape)
        return Network(body, features, classes)
    if candidate.unet is not None:
        return PixelNetwork(UNet(candidate.unet, image_shape[2]), candidate.unet.width, classes)
    if candidate.arch in SEGMENTATION_ARCHS:
        body, features, fresh = segmentation_body(str(candidate.arch), image_shape[2])
        return PixelNetwork(body, features, classes, fresh)
    body, features, fresh = from_torchvision(str(candidate.arch), candidate.stem, image_shape)
    return Network(body, features, classes, fresh)


def _try(network: Network, image_shape: Shape, name: str) -> None:
    """Send two images through, because some sizes only show in the forward pass, and some in training."""
    height, width, channels = image_shape
    images_NCHW = torch.zeros(2, channels, height, width, device="meta")
    try:
        with torch.inference_mode():
            network.eval()(images_NCHW)
            network.train()(images_NCHW)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        verb = "be trained on" if network.training else "take"
        problem = first_line(error)
        raise DoesNotFit(f"{name!r} can't {verb} images of {height}x{width}x{channels}: {problem}") from None
