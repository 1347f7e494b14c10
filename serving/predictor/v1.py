"""KServe's v1 protocol: a JSON body in, a JSON body out.

    {"instances": [{"b64": "..."}]}   ->   {"predictions": [{"label": "3", "probabilities": {"0": 0.01, ...}}]}
                                  or       {"predictions": [{"mask": {"b64": "..."}, "shares": {"road": 0.4, ...}}]}

An instance may also read {"image_bytes": {"b64": "..."}}. Each holds one encoded image, of any size. A mask is a PNG of
the size that the model takes, whose pixels are places in the list of classes; shares of pixels come in its order.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from serving.predictor.refusal import Refusal
from steelyard.data.decode import Shape, decode
from steelyard.data.encode import png
from steelyard.errors import UnreadableImage

Tensors = Mapping[str, NDArray[Any]]  # what is answered, by the names of v2's outputs


def read_instances(body: bytes, shape: Shape, max_images: int) -> NDArray[np.uint8]:
    """Return the images of a v1 request.

    Raises:
        Refusal: says which instance is wrong, and how.
    """
    content = read_json(body)
    if "instances" not in content:
        raise Refusal(400, "the body has no 'instances'")
    instances = content["instances"]
    if not isinstance(instances, list) or not instances:
        raise Refusal(400, "'instances' must be a list with at least one image")
    refuse_too_many(len(instances), max_images)
    encoded = [_encoded(instance, f"instances[{i}]") for i, instance in enumerate(instances)]
    return decode_all(encoded, shape, "instances")


def write_predictions(tensors: Tensors, classes: Sequence[str]) -> bytes:
    """Return the body of a v1 answer, of what `ImageModel.answer` returns."""
    if "masks" in tensors:
        predictions = [_segmented(mask_HW, classes) for mask_HW in tensors["masks"]]
    else:
        predictions = [
            {"label": label, "probabilities": dict(zip(classes, row_C, strict=True))}
            for label, row_C in zip(tensors["labels"], tensors["probabilities"], strict=True)
        ]
    return orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)


def read_json(data: bytes) -> dict[str, object]:
    """Return a JSON object.

    Raises:
        Refusal: the bytes are something else.
    """
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"the body is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise Refusal(400, "the body must be a JSON object")
    return content


def decode_all(encoded: Sequence[bytes], shape: Shape, where: str) -> NDArray[np.uint8]:
    """Return (N, H, W, C) of N encoded images.

    Raises:
        Refusal: says which image is unreadable.
    """
    images_NHWC = np.empty((len(encoded), *shape), np.uint8)
    for i, data in enumerate(encoded):
        try:
            images_NHWC[i] = decode(data, shape)
        except UnreadableImage as error:
            raise Refusal(400, f"{where}[{i}] {error}") from None
    return images_NHWC


def from_base64(text: object, where: str) -> bytes:
    """Return the bytes behind base64.

    Raises:
        Refusal: the text is none.
    """
    try:
        return base64.b64decode(text, validate=True)  # type: ignore[arg-type]
    except (TypeError, ValueError, binascii.Error):
        raise Refusal(400, f"{where} is not base64 (standard alphabet, padded, no line breaks)") from None


def refuse_too_many(images: int, max_images: int) -> None:
    """Refuse a request whose answer would take the memory or the time of all others."""
    if images > max_images:
        raise Refusal(413, f"the request holds {images} images; at most {max_images} are answered at once")


def _segmented(mask_HW: NDArray[np.uint8], classes: Sequence[str]) -> dict[str, object]:
    shares_C = np.bincount(mask_HW.ravel(), minlength=len(classes)) / mask_HW.size
    mask = base64.b64encode(png(mask_HW)).decode()
    return {"mask": {"b64": mask}, "shares": dict(zip(classes, shares_C, strict=True))}


def _encoded(instance: object, where: str) -> bytes:
    inner = instance.get("image_bytes", instance) if isinstance(instance, dict) else None
    if not isinstance(inner, dict) or "b64" not in inner:
        raise Refusal(400, f'{where} must be {{"b64": "..."}} or {{"image_bytes": {{"b64": "..."}}}}')
    return from_base64(inner["b64"], where)
