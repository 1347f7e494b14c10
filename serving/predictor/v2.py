"""The v2 protocol (Open Inference Protocol) with KServe's binary extension.

One input, `images`: UINT8 [n, H, W, C] ready for the model, or BYTES [n] of encoded images (base64 in JSON).
Two outputs: `probabilities` FP32 [n, K] and `labels` BYTES [n]; or, of a segmentation, `masks` UINT8 [n, H, W], whose
pixels are places in `classes` BYTES [K].
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from serving.predictor.refusal import Refusal
from serving.predictor.v1 import Tensors, decode_all, from_base64, read_json, refuse_too_many
from steelyard.data.decode import Shape

OUTPUTS = {"classification": ("probabilities", "labels"), "segmentation": ("masks", "classes")}
DATATYPES = {"f": "FP32", "u": "UINT8", "O": "BYTES"}  # by the kind of an array


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A v2 request, understood."""

    images_NHWC: NDArray[np.uint8]
    id: str | None
    binary: dict[str, bool]  # the outputs asked for, and whether each travels behind the JSON


def read_query(body: bytes, json_length: str | None, shape: Shape, max_images: int, outputs: Sequence[str]) -> Query:
    """Understand a request.

    Args:
        body: of the request.
        json_length: its header Inference-Header-Content-Length, if any.
        shape: of the images that the model takes.
        max_images: of a request.
        outputs: that the model has.

    Raises:
        Refusal: says what is wrong.
    """
    json_part, raw = _split(body, json_length)
    content = read_json(json_part)
    tensor = _only_input(content.get("inputs"))
    count = _count(tensor, shape)
    refuse_too_many(count, max_images)
    size = _parameters(tensor, "inputs[0]").get("binary_data_size")
    if size is not None:
        if size != len(raw) or isinstance(size, bool):
            raise Refusal(400, f"'binary_data_size' is {size}, but {len(raw)} bytes follow the JSON")
        images_NHWC = from_raw(raw, str(tensor["datatype"]), count, shape)
    elif raw:
        raise Refusal(400, f"{len(raw)} bytes follow the JSON, but the input has no 'binary_data_size'")
    elif tensor["datatype"] == "BYTES":
        images_NHWC = decode_all(_base64_list(tensor.get("data"), count), shape, "data")
    else:
        images_NHWC = from_numbers(tensor.get("data"), count, shape)
    return Query(images_NHWC=images_NHWC, id=_id(content.get("id")), binary=_wanted(content, outputs))


def write_answer(query: Query, tensors: Tensors, *, name: str, version: str) -> tuple[bytes, int | None]:
    """Return the body of a v2 answer and, where bytes follow its JSON, the length of the JSON."""
    outputs, behind = [], []
    for output, binary in query.binary.items():
        values = tensors[output]
        tensor: dict[str, object] = {"name": output, "datatype": datatype_of(values), "shape": values.shape}
        if binary:
            behind.append(_raw(values))
            tensor["parameters"] = {"binary_data_size": len(behind[-1])}
        else:
            tensor["data"] = values.tolist() if values.dtype == np.object_ else values.ravel()
        outputs.append(tensor)
    answer = {"model_name": name, "model_version": version, "outputs": outputs}
    json_part = orjson.dumps(answer | ({"id": query.id} if query.id else {}), option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([json_part, *behind]), len(json_part) if behind else None


def datatype_of(values: NDArray[Any]) -> str:
    """Return v2's name for the type of an array."""
    return DATATYPES[values.dtype.kind]


def check_input(name: object, datatype: object, shape: object, wanted: Shape) -> int:
    """Return the number of images that an input announces.

    Raises:
        Refusal: it is not the input that the model takes.
    """
    if name != "images":
        raise Refusal(400, f"the model has no input {str(name)[:40]!r}; its one input is 'images'")
    if datatype not in ("UINT8", "BYTES"):
        raise Refusal(400, f"'images' must be of datatype UINT8 or BYTES, not {str(datatype)[:20]}")
    expected = list(wanted) if datatype == "UINT8" else []
    if (
        not isinstance(shape, list)
        or shape[1:] != expected
        or not shape
        or any(type(side) is not int for side in shape)
        or shape[0] < 1
    ):
        wanted_text = ", ".join(map(str, ["n", *expected]))
        raise Refusal(400, f"'images' of {datatype} must have shape [{wanted_text}] with n >= 1, not {str(shape)[:60]}")
    return int(shape[0])


def from_raw(raw: bytes, datatype: str, count: int, shape: Shape) -> NDArray[np.uint8]:
    """Return the images of a binary tensor: pixels, or encoded images each behind its length.

    Raises:
        Refusal: more or fewer bytes than announced, or an unreadable image.
    """
    if datatype == "BYTES":
        return decode_all(_unprefixed(raw, count), shape, "images")
    size = count * math.prod(shape)
    if len(raw) != size:
        raise Refusal(400, f"'images' of shape {[count, *shape]} takes {size} bytes, not {len(raw)}")
    return np.frombuffer(raw, np.uint8).reshape(count, *shape)


def from_numbers(data: object, count: int, shape: Shape) -> NDArray[np.uint8]:
    """Return the images of a list of numbers, flat or nested.

    Raises:
        Refusal: they are too many, too few, or not all integers from 0 to 255.
    """
    try:
        numbers = np.array(data)
    except ValueError:  # a ragged list
        numbers = np.array(None)
    if numbers.size != count * math.prod(shape) or not isinstance(data, list):
        raise Refusal(400, f"'data' must hold {count * math.prod(shape)} numbers for shape {[count, *shape]}")
    if numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() > 255:
        raise Refusal(400, "'data' of UINT8 must hold nothing but integers from 0 to 255")
    return numbers.astype(np.uint8).reshape(count, *shape)


def wanted_outputs(names: Sequence[object], known: Sequence[str]) -> list[str]:
    """Return the outputs asked for; all of them where none is named.

    Raises:
        Refusal: the model has no such output.
    """
    for name in names:
        if name not in known:
            raise Refusal(400, f"the model has no output {str(name)[:40]!r}; it has: {', '.join(known)}")
    return [str(name) for name in names] or list(known)


def _split(body: bytes, json_length: str | None) -> tuple[bytes, bytes]:
    if json_length is None:
        return body, b""
    if not (json_length.isascii() and json_length.isdigit()) or int(json_length) > len(body):
        raise Refusal(400, "the header Inference-Header-Content-Length must be the length of the JSON part of the body")
    return body[: int(json_length)], body[int(json_length) :]


def _only_input(inputs: object) -> dict[str, object]:
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise Refusal(400, "'inputs' must be a list with exactly one tensor, 'images'")
    return inputs[0]


def _count(tensor: dict[str, object], shape: Shape) -> int:
    for key in ("name", "datatype", "shape"):
        if key not in tensor:
            raise Refusal(400, f"inputs[0] has no {key!r}")
    return check_input(tensor["name"], tensor["datatype"], tensor["shape"], shape)


def _parameters(holder: dict[str, object], where: str) -> dict[str, object]:
    parameters = holder.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise Refusal(400, f"'parameters' of {where} must be an object")
    return parameters


def _base64_list(data: object, count: int) -> list[bytes]:
    if not isinstance(data, list) or len(data) != count:
        raise Refusal(400, f"'data' must hold {count} base64 string(s), one per image")
    return [from_base64(text, f"data[{i}]") for i, text in enumerate(data)]


def _id(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise Refusal(400, "'id' must be a string")
    return value


def _wanted(content: dict[str, object], known: Sequence[str]) -> dict[str, bool]:
    outputs = content.get("outputs") or []
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise Refusal(400, "'outputs' must be a list of objects with a 'name'")
    every = bool(_parameters(content, "the request").get("binary_data_output", False))
    own = {str(output.get("name")): _parameters(output, "an output").get("binary_data", every) for output in outputs}
    names = wanted_outputs([output.get("name") for output in outputs], known)
    return {name: bool(own.get(name, every)) for name in names}


def _raw(values: NDArray[Any]) -> bytes:
    return b"".join(_prefixed(text.encode()) for text in values) if values.dtype == np.object_ else values.tobytes()


def _prefixed(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def _unprefixed(raw: bytes, count: int) -> list[bytes]:
    parts: list[bytes] = []
    rest = memoryview(raw)
    while len(rest) >= 4 and len(parts) <= count:
        (size,) = struct.unpack_from("<I", rest)
        parts.append(bytes(rest[4 : 4 + size]))
        rest = rest[4 + size :] if 4 + size <= len(rest) else memoryview(b"?")
    if len(rest) or len(parts) != count:
        raise Refusal(400, f"the bytes are not {count} encoded image(s), each behind its 4-byte length")
    return parts
