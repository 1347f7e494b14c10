"""The layers of a YAML network: their grammar and the shapes they make. Knows no torch."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from steelyard.yaml_file import Strict


def _true_only(value: object) -> object:
    if value is not True:
        raise ValueError("true adds the layer; to have none, leave the line out")
    return value


Count = Annotated[int, Field(ge=1)]
Flag = Annotated[Literal[True], BeforeValidator(_true_only)]
Activation = Literal["relu", "leaky_relu", "gelu", "silu", "hardswish", "elu", "tanh", "sigmoid", "none"]
Shape = tuple[int, ...]  # (height, width, channels), or (features,) once flat

KINDS = (
    *("conv", "pool", "batch_norm", "dropout", "global_pool", "flatten", "dense"),
    *("residual", "parallel", "activation"),
)


class Layer(Strict):
    """One layer: exactly one of the kinds, and for `conv` its kernel and stride.

    `conv: 16` is 16 filters, zero-padded to keep the size, with a ReLU; `pool: 2` the maximum over 2x2 pixels;
    `dense: 64` 64 units with a ReLU. `activation` beside these two replaces the ReLU, alone it is a layer.
    `residual: [...]` adds what arrives to what its layers make of it, through a 1x1 convolution where the shapes
    differ; `parallel: [[...], [...]]` joins the channels (or features) of its branches. The layer that names the
    classes is added by itself.
    """

    conv: Count | None = None
    pool: Count | None = None
    batch_norm: Flag | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    global_pool: Flag | None = None
    flatten: Flag | None = None
    dense: Count | None = None
    residual: Annotated[tuple["Layer", ...], Field(min_length=1)] | None = None
    parallel: Annotated[tuple[tuple["Layer", ...], ...], Field(min_length=2)] | None = None
    activation: Activation | None = None
    kernel: Count | None = None
    stride: Count | None = None

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        kinds = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(kinds) > 1 and kinds[0] in ("conv", "dense"):
            kinds = [kind for kind in kinds if kind != "activation"]
        if len(kinds) != 1:
            raise ValueError(f"a layer is exactly one of: {', '.join(KINDS)}; conv and dense may have an activation")
        if self.conv is None and (self.kernel or self.stride):
            raise ValueError("kernel and stride go with conv")
        return self

    @property
    def kind(self) -> str:
        """The name of the one kind that this layer is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)


def check_layers(layers: Sequence[Layer], shape: Shape) -> list[Shape]:
    """Follow an image's shape through the layers, which must end in flat features.

    Args:
        layers: in order.
        shape: (height, width, channels) of the images.

    Returns:
        The shape after each layer.

    Raises:
        ValueError: the text begins with the index of the layer that does not fit.
    """
    shapes = shapes_after(layers, shape)
    last = shapes[-1] if shapes else shape
    if len(last) != 1:
        raise ValueError(f"{len(layers) - 1}: ends in {_text(last)}; end with flatten, global_pool or dense")
    return shapes


def shapes_after(layers: Sequence[Layer], shape: Shape) -> list[Shape]:
    """Return the shape after each layer; errors as of `check_layers`."""
    shapes = []
    for index, layer in enumerate(layers):
        try:
            shape = _shape_after(layer, shape)
        except _Inside as error:
            raise _Inside(f"{index} ({layer.kind}).{error}") from None
        except ValueError as error:
            raise _Inside(f"{index} ({layer.kind}): {error}") from None
        shapes.append(shape)
    return shapes


class _Inside(ValueError):
    """Its text begins with the index of a layer."""


def shortcut_stride(before: Shape, after: Shape) -> tuple[int, int]:
    """Return the strides of the 1x1 convolution that takes an image to the size of another.

    Raises:
        ValueError: there are none.
    """
    strides = (-(-before[0] // after[0]), -(-before[1] // after[1]))
    if tuple(-(-extent // stride) for extent, stride in zip(before[:2], strides, strict=True)) != after[:2]:
        raise ValueError(f"{_text(before)} can't be added to {_text(after)}; use convolutions with a stride")
    return strides


def _shape_after(layer: Layer, shape: Shape) -> Shape:
    spatial = len(shape) == 3
    if layer.kind in ("conv", "pool", "global_pool") and not spatial:
        raise ValueError(f"needs an image, but {_text(shape)} arrives; put it before flatten")
    if layer.kind == "dense" and spatial:
        raise ValueError(f"needs flat features, but {_text(shape)} arrives; put flatten or global_pool before it")
    match layer.kind:
        case "conv":
            stride = layer.stride or 1
            return (-(-shape[0] // stride), -(-shape[1] // stride), int(layer.conv or 0))
        case "pool":
            size = int(layer.pool or 0)
            if min(shape[:2]) < size:
                raise ValueError(f"cannot pool {_text(shape)} by {size}; the image is already smaller than that")
            return (shape[0] // size, shape[1] // size, shape[2])
        case "global_pool":
            return (shape[2],)
        case "flatten":
            return (math.prod(shape),)
        case "dense":
            return (int(layer.dense or 0),)
        case "residual":
            return _residual_shape(layer.residual or (), shape)
        case "parallel":
            return _joined_shape(layer.parallel or (), shape)
        case _:
            return shape


def _residual_shape(layers: Sequence[Layer], shape: Shape) -> Shape:
    after = shapes_after(layers, shape)[-1]
    if len(after) != len(shape) or (len(shape) == 1 and after != shape):
        raise ValueError(f"{_text(shape)} can't be added to {_text(after)}")
    if len(shape) == 3:
        shortcut_stride(shape, after)
    return after


def _joined_shape(branches: Sequence[Sequence[Layer]], shape: Shape) -> Shape:
    ends = []
    for number, branch in enumerate(branches):
        try:
            ends.append((shapes_after(branch, shape) or [shape])[-1])
        except _Inside as error:
            raise _Inside(f"{number}.{error}") from None
    if len({end[:-1] for end in ends}) > 1:
        raise ValueError(f"the branches end in {' and '.join(map(_text, ends))}, which can't be joined")
    return (*ends[0][:-1], sum(end[-1] for end in ends))


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))
