"""YAML layers -> torch modules."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from steelyard.errors import DoesNotFit
from steelyard.models.layers import Layer, Shape, check_layers, shapes_after, shortcut_stride

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "none": nn.Identity,
}


class Residual(nn.Module):
    """Adds what arrives to what its layers make of it."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, values: Tensor) -> Tensor:
        """Return the sum."""
        return torch.add(self.body(values), self.shortcut(values))


class Parallel(nn.Module):
    """Joins the channels, or features, of its branches."""

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, values: Tensor) -> Tensor:
        """Return them joined."""
        return torch.cat([branch(values) for branch in self.branches], dim=1)


def from_layers(layers: Sequence[Layer], image_shape: Shape) -> tuple[nn.Module, int]:
    """Return a body and the number of features that it ends in.

    Raises:
        DoesNotFit: names the layer that does not fit.
    """
    try:
        features = check_layers(layers, image_shape)[-1][0]
    except ValueError as error:
        raise DoesNotFit(f"layer {error}") from None
    return _sequence(layers, image_shape), features


def _sequence(layers: Sequence[Layer], shape: Shape) -> nn.Sequential:
    modules: list[nn.Module] = []
    for layer, after in zip(layers, shapes_after(layers, shape), strict=True):
        modules += _modules(layer, shape, after)
        shape = after
    return nn.Sequential(*modules)


def _modules(layer: Layer, before: Shape, after: Shape) -> list[nn.Module]:
    """Return the modules of one layer, between shapes (height, width, channels) or (features,)."""
    channels = before[-1]
    activation = _ACTIVATIONS[layer.activation or "relu"]
    found: list[nn.Module]
    match layer.kind:
        case "conv":
            found = [*_convolution(layer, before), _in_place(activation)]
        case "dense":
            found = [nn.Linear(channels, after[0]), _in_place(activation)]
        case "pool":
            found = [nn.MaxPool2d(int(layer.pool or 0))]
        case "batch_norm":
            found = [nn.BatchNorm2d(channels) if len(before) == 3 else nn.BatchNorm1d(channels)]
        case "dropout":
            found = [nn.Dropout(float(layer.dropout or 0))]
        case "global_pool":
            found = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        case "flatten":
            found = [nn.Flatten()]
        case "residual":
            found = [Residual(_sequence(layer.residual or (), before), _shortcut(before, after))]
        case "parallel":
            found = [Parallel([_sequence(branch, before) for branch in layer.parallel or ()])]
        case _:
            found = [activation()]
    return found


def _in_place(activation: type[nn.Module]) -> nn.Module:
    """Return an activation of what nobody else sees; a ReLU then needs no memory of its own."""
    return nn.ReLU(inplace=True) if activation is nn.ReLU else activation()


def _convolution(layer: Layer, before: Shape) -> list[nn.Module]:
    kernel, stride = layer.kernel or 3, layer.stride or 1
    left, right, top, bottom = _same_padding(before[:2], kernel, stride)
    within = (top, left) if (left, top) == (right, bottom) else (0, 0)  # a copy of the image less
    outside: list[nn.Module] = [] if any(within) else [nn.ZeroPad2d((left, right, top, bottom))]
    return [*outside, nn.Conv2d(before[-1], int(layer.conv or 0), kernel, stride, within)]


def _same_padding(size: Shape, kernel: int, stride: int) -> tuple[int, int, int, int]:
    """Return (left, right, top, bottom) so that the output has ceil(size / stride) pixels."""
    total = [max((-(-extent // stride) - 1) * stride + kernel - extent, 0) for extent in size]
    return (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2)


def _shortcut(before: Shape, after: Shape) -> nn.Module:
    if before == after:
        return nn.Identity()
    return nn.Conv2d(before[-1], after[-1], 1, shortcut_stride(before, after))
