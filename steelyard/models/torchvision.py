"""Architectures of torchvision, by name."""

import difflib
from typing import Any

from torch import Tensor, nn

from steelyard.errors import DoesNotFit, first_line
from steelyard.models.layers import Shape

# Their stem is one 3x3 or 7x7 convolution of stride 2, with at most a pooling named `maxpool` behind it. Elsewhere the
# first convolution cuts patches, pooling hides further in, or nothing is lost that a smaller stem could keep (VGG).
SMALL_STEM_SUITS = (
    "resnet",
    "resnext",
    "wide_resnet",
    "shufflenet",
    "regnet",
    "mnasnet",
    "mobilenet",
    "efficientnet",
)
AUXILIARY = ("googlenet", "inception_v3")  # they have further heads, for training, which answer otherwise


def known_architectures() -> list[str]:
    """Return the names of torchvision's classification models."""
    from torchvision import models

    return list(models.list_models(module=models))


def from_torchvision(arch: str, stem: str, image_shape: Shape) -> tuple[nn.Module, int, tuple[str, ...]]:
    """Return a body without its head, the number of its features, and which of its parts are not the original's.

    Args:
        arch: its name.
        stem: `small` keeps every pixel.
        image_shape: (height, width, channels).

    Raises:
        DoesNotFit: there is no such architecture, or it can't be made for this shape.
    """
    from torchvision import models

    known = known_architectures()
    if arch not in known:
        close = difflib.get_close_matches(arch, known, n=1)
        raise DoesNotFit(f"torchvision has no model {arch!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    if stem == "small" and not arch.startswith(SMALL_STEM_SUITS):
        raise DoesNotFit(f"'stem: small' does not suit {arch!r}; it suits the families {', '.join(SMALL_STEM_SUITS)}")
    height, width, channels = image_shape
    try:
        body = models.get_model(arch, weights=None, **_settings(arch, height, width))
    except (AssertionError, ValueError) as error:
        problem = first_line(error)
        raise DoesNotFit(f"{arch!r} can't take images of {height}x{width}x{channels}: {problem}") from None
    head, features = _take_head(body)
    return body, features, tuple(filter(None, (head, _replace_stem(body, stem, channels))))


class FeatureMap(nn.Module):
    """The parts of a segmentation network of torchvision's without its last convolution, under their own names."""

    def __init__(self, backbone: nn.Module, classifier: nn.Sequential) -> None:
        super().__init__()
        self.backbone, self.classifier = backbone, classifier

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return features (N, D, h, w), smaller than the images."""
        features_NDHW: Tensor = self.classifier(self.backbone(images_NCHW)["out"])
        return features_NDHW


def segmentation_body(arch: str, channels: int) -> tuple[nn.Module, int, tuple[str, ...]]:
    """Return the same as `from_torchvision` for one of SEGMENTATION_ARCHS; its features form a map."""
    from torchvision import models

    whole = models.get_model(arch, weights=None, weights_backbone=None)
    *layers, last = whole.classifier
    body, head = FeatureMap(whole.backbone, nn.Sequential(*layers)), f"classifier.{len(layers)}"
    return body, last.in_channels, tuple(filter(None, (head, _replace_stem(body, "standard", channels))))


def _settings(arch: str, height: int, width: int) -> dict[str, Any]:
    if arch.startswith("vit_"):
        return {"image_size": height}
    if arch.startswith("maxvit"):
        return {"input_size": (height, width)}
    return {"aux_logits": False, "init_weights": False} if arch in AUXILIARY else {}


def _take_head(body: nn.Module) -> tuple[str, int]:
    """Take the layer that names the classes away; return its name and the number of features that reached it."""
    layers = [(name, module) for name, module in body.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    name, last = layers[-1]
    if isinstance(last, nn.Linear):
        body.set_submodule(name, nn.Identity())
        return name, last.in_features
    # SqueezeNet: Dropout, a convolution to the classes, ReLU, pooling. Pooled first, a linear layer does the same.
    body.set_submodule("classifier", nn.Sequential(nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1)))
    return "classifier", last.in_channels


def _replace_stem(body: nn.Module, stem: str, channels: int) -> str:
    """Fit the first convolution to the channels, and with `small` let it keep every pixel; return its name if so."""
    name, first = next((str(name), module) for name, module in body.named_modules() if isinstance(module, nn.Conv2d))
    if stem == "standard" and channels == first.in_channels:
        return ""
    small = {"kernel_size": 3, "stride": 1, "padding": first.dilation} if stem == "small" else {}
    kept = {part: getattr(first, part) for part in ("kernel_size", "stride", "padding", "dilation", "groups")}
    body.set_submodule(name, nn.Conv2d(channels, first.out_channels, **(kept | small), bias=first.bias is not None))
    if stem == "small" and hasattr(body, "maxpool"):
        body.set_submodule("maxpool", nn.Identity())
    return name
