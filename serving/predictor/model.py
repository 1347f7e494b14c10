"""ImageModel: a ModelBundle as KServe's Model. gRPC comes in here; HTTP has routes of its own."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import kserve
import numpy as np
from kserve import InferOutput, InferRequest, InferResponse
from kserve.errors import InvalidInput
from numpy.typing import NDArray

from serving.predictor import v1, v2
from serving.predictor.metrics import IMAGES
from serving.predictor.refusal import Refusal
from serving.predictor.tap import Tap
from serving.predictor.v1 import Tensors
from steelyard.bundle import ModelBundle

R = TypeVar("R")
BATCH = 64  # images that ONNX Runtime takes at once: bounds the memory of its activations

log = logging.getLogger(__name__)


class ImageModel(kserve.Model):  # type: ignore[misc]
    """Answers images with one bundle, on one thread of its own, so that liveness never waits for a computation."""

    def __init__(self, name: str, bundle: ModelBundle, *, tap: Tap | None, max_images: int) -> None:
        super().__init__(name)
        self.bundle, self.tap, self.max_images = bundle, tap, max_images
        self.classes, self.shape = bundle.index.classes, bundle.index.input_shape
        self.outputs = v2.OUTPUTS[bundle.index.task]
        self._names_C = np.array(self.classes, np.object_)
        self.version = bundle.index.run_key[:12]
        self.draining = False
        self._thread = ThreadPoolExecutor(1, "model")

    def warm_up(self) -> None:
        """Answer one image, so that the first client does not wait for ONNX Runtime to set itself up."""
        start = time.perf_counter()
        self.bundle.predict(np.zeros((1, *self.shape), np.uint8))
        log.info("%s version %s is ready after %.2f s", self.name, self.version, time.perf_counter() - start)
        self.ready = True

    def load(self) -> bool:
        """Do nothing: KServe calls this for every gRPC request that comes in while the server drains."""
        return True

    async def healthy(self) -> bool:
        """Whether new requests may be sent here."""
        return bool(self.ready) and not self.draining

    async def run(self, work: Callable[..., R], *args: object) -> R:
        """Run something on the model's thread; one at a time, in the order asked."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    def answer(self, images_NHWC: NDArray[np.uint8]) -> Tensors:
        """Return v2's outputs by name, and let the drift detector have the samples."""
        if self.bundle.index.task == "segmentation":
            masks_NHW, outputs = self.bundle.segment(images_NHWC)
            tensors: Tensors = {"masks": masks_NHW, "classes": self._names_C}
        else:
            outputs = self.bundle.predict_all(images_NHWC, BATCH)
            labels_N = self._names_C[outputs.probabilities_NC.argmax(1)]
            tensors = {"probabilities": outputs.probabilities_NC, "labels": labels_N}
        IMAGES.inc(len(images_NHWC))
        if self.tap is not None:
            self.tap.offer(images_NHWC, outputs)
        return tensors

    async def predict(self, payload: InferRequest, headers: object = None) -> InferResponse:
        """Answer a gRPC request.

        Raises:
            InvalidInput: says what is wrong; becomes INVALID_ARGUMENT.
        """
        try:
            return await self.run(self._infer, payload)
        except Refusal as refusal:
            raise InvalidInput(str(refusal)) from None

    def _infer(self, request: InferRequest) -> InferResponse:
        wanted = v2.wanted_outputs([output.name for output in request.request_outputs or []], self.outputs)
        tensors, raw = self.answer(self._images(request)), bool(request.use_binary_outputs)
        chosen = [_output(name, tensors[name], raw) for name in wanted]
        return InferResponse(request.id, self.name, chosen, self.version)

    def _images(self, request: InferRequest) -> NDArray[np.uint8]:
        if len(request.inputs) != 1:
            raise Refusal(400, f"the request has {len(request.inputs)} inputs; the one input is 'images'")
        tensor = request.inputs[0]
        count = v2.check_input(tensor.name, tensor.datatype, tensor.shape, self.shape)
        v1.refuse_too_many(count, self.max_images)
        if tensor._raw_data is not None:  # as_numpy() would reshape it first, and fail with no sentence for people
            return v2.from_raw(tensor._raw_data, tensor.datatype, count, self.shape)
        if tensor.datatype == "UINT8":
            return v2.from_numbers(tensor.data, count, self.shape)
        if len(tensor.data) != count:
            raise Refusal(400, f"'images' holds {len(tensor.data)} encoded images, not the {count} of its shape")
        return v1.decode_all(tensor.data, self.shape, "images")

    def get_input_types(self) -> list[dict[str, object]]:
        """Describe the input for v2's metadata."""
        return [{"name": "images", "datatype": "UINT8", "shape": [-1, *self.shape]}]

    def get_output_types(self) -> list[dict[str, object]]:
        """Describe the outputs for v2's metadata."""
        if self.bundle.index.task == "segmentation":
            return [
                {"name": "masks", "datatype": "UINT8", "shape": [-1, *self.shape[:2]]},
                {"name": "classes", "datatype": "BYTES", "shape": [len(self.classes)]},
            ]
        return [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(self.classes)]},
            {"name": "labels", "datatype": "BYTES", "shape": [-1]},
        ]


def _output(name: str, values: NDArray[Any], raw: bool) -> InferOutput:
    data = values if raw else values.ravel().tolist()  # KServe writes an array as raw bytes, a list as typed contents
    return InferOutput(name, list(values.shape), v2.datatype_of(values), data)
