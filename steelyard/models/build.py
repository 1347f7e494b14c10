"""Candidate -> torch module."""

import copy
import difflib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from steelyard.errors import DoesNotFit
from steelyard.models.layers import Layer, Shape, check_layers
from steelyard.params import Candidate

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


class Network(nn.Module):
    """A body that ends in flat features, which become the embedding, and a linear head over the classes."""

    def __init__(self, body: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(features, classes)

    def forward(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, classes) and embedding (N, features) of float images."""
        embedding_ND = self.body(images_NCHW)
        return self.head(embedding_ND), embedding_ND


def build(candidate: Candidate, image_shape: Shape, classes: int) -> Network:
    """Build a candidate's network with fresh weights, drawn from torch's global generator.

    Args:
        candidate: its architecture.
        image_shape: (height, width, channels).
        classes: how many.

    Raises:
        DoesNotFit: the architecture is unknown, or can't take images of this shape.
    """
    if candidate.layers is not None:
        return _from_layers(candidate.layers, image_shape, classes)
    network = _from_torchvision(str(candidate.arch), candidate.stem, image_shape[2], classes)
    _try(network, image_shape, str(candidate.arch))
    return network


def _from_layers(layers: Sequence[Layer], image_shape: Shape, classes: int) -> Network:
    modules: list[nn.Module] = []
    shape = image_shape
    try:
        shapes = check_layers(layers, image_shape)
    except ValueError as error:
        raise DoesNotFit(f"layer {error}") from None
    for layer, after in zip(layers, shapes, strict=True):
        modules += _modules(layer, shape)
        shape = after
    return Network(nn.Sequential(*modules), shape[0], classes)


def _modules(layer: Layer, before: Shape) -> list[nn.Module]:
    """Return the modules of one layer; `before` is (height, width, channels) or (features,)."""
    channels = before[-1]
    match layer.kind:
        case "conv":
            kernel, stride = layer.kernel or 3, layer.stride or 1
            padding = _same_padding(before[:2], kernel, stride)
            return [nn.ZeroPad2d(padding), nn.Conv2d(channels, int(layer.conv or 0), kernel, stride), nn.ReLU()]
        case "pool":
            return [nn.MaxPool2d(int(layer.pool or 0))]
        case "batch_norm":
            return [nn.BatchNorm2d(channels) if len(before) == 3 else nn.BatchNorm1d(channels)]
        case "dropout":
            return [nn.Dropout(float(layer.dropout or 0))]
        case "global_pool":
            return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        case "flatten":
            return [nn.Flatten()]
        case _:
            return [nn.Linear(channels, int(layer.dense or 0)), nn.ReLU()]


def _same_padding(size: Shape, kernel: int, stride: int) -> tuple[int, int, int, int]:
    """Return (left, right, top, bottom) so that the output has ceil(size / stride) pixels."""
    total = [max((-(-extent // stride) - 1) * stride + kernel - extent, 0) for extent in size]
    return (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2)


def _from_torchvision(arch: str, stem: str, channels: int, classes: int) -> Network:
    from torchvision import models

    known = models.list_models(module=models)
    if arch not in known:
        close = difflib.get_close_matches(arch, known, n=1)
        raise DoesNotFit(f"torchvision has no model {arch!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    if stem == "small" and not arch.startswith(SMALL_STEM_SUITS):
        raise DoesNotFit(f"'stem: small' does not suit {arch!r}; it suits the families {', '.join(SMALL_STEM_SUITS)}")
    body = models.get_model(arch, weights=None, num_classes=classes)
    last = list(body.named_modules())[-1]
    if not isinstance(last[1], nn.Linear):
        raise DoesNotFit(f"{arch!r} does not end in a linear layer, so its head can't be replaced")
    body.set_submodule(last[0], nn.Identity())
    _replace_stem(body, stem, channels)
    return Network(body, last[1].in_features, classes)


def _replace_stem(body: nn.Module, stem: str, channels: int) -> None:
    """Fit the first convolution to the channels, and with `small` let it keep every pixel."""
    name, first = next((name, module) for name, module in body.named_modules() if isinstance(module, nn.Conv2d))
    if stem == "standard" and channels == first.in_channels:
        return
    small = {"kernel_size": 3, "stride": 1, "padding": first.dilation} if stem == "small" else {}
    kept = {part: getattr(first, part) for part in ("kernel_size", "stride", "padding", "dilation", "groups")}
    body.set_submodule(name, nn.Conv2d(channels, first.out_channels, **(kept | small), bias=first.bias is not None))
    if stem == "small" and hasattr(body, "maxpool"):
        body.set_submodule("maxpool", nn.Identity())


def _try(network: Network, image_shape: Shape, name: str) -> None:
    """Send two blank images through, because some sizes only show in the forward pass, and some in training."""
    height, width, channels = image_shape
    blank_NCHW = torch.zeros(2, channels, height, width)
    trial = copy.deepcopy(network)  # a forward pass in training changes the statistics of batch norm
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            trial.eval()(blank_NCHW)
            trial.train()(blank_NCHW)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        verb = "be trained on" if trial.training else "take"
        problem = str(error).partition("\n")[0]
        raise DoesNotFit(f"{name!r} can't {verb} images of {height}x{width}x{channels}: {problem}") from None
