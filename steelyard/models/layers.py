"""The layers of a YAML network: their grammar and the shapes they make. Knows no torch."""

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
Shape = tuple[int, ...]  # (height, width, channels), or (features,) once flat

KINDS = ("conv", "pool", "batch_norm", "dropout", "global_pool", "flatten", "dense")


class Layer(Strict):
    """One layer: exactly one of the kinds, and for `conv` its kernel and stride.

    `conv: 16` is 16 filters, zero-padded to keep the size, with a ReLU; `pool: 2` the maximum over 2x2 pixels;
    `dense: 64` 64 units with a ReLU. The layer that names the classes is added by itself.
    """

    conv: Count | None = None
    pool: Count | None = None
    batch_norm: Flag | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    global_pool: Flag | None = None
    flatten: Flag | None = None
    dense: Count | None = None
    kernel: Count | None = None
    stride: Count | None = None

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        kinds = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"a layer is exactly one of: {', '.join(KINDS)}")
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
    shapes = []
    for index, layer in enumerate(layers):
        try:
            shape = _shape_after(layer, shape)
        except ValueError as error:
            raise ValueError(f"{index} ({layer.kind}): {error}") from None
        shapes.append(shape)
    if len(shape) != 1:
        raise ValueError(f"{len(layers) - 1}: ends in {_text(shape)}; end with flatten, global_pool or dense")
    return shapes


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
            features = 1
            for extent in shape:
                features *= extent
            return (features,)
        case "dense":
            return (int(layer.dense or 0),)
        case _:
            return shape


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))
