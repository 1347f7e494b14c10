"""Routes of our own for the two ways to predict over HTTP.

KServe 0.21's own answer 500 to most mistakes of a client (after which uvicorn drops the connection), 200 to some, read
bodies of any size, and turn binary tensors into Python lists: 0.3 of the throughput of these.
"""

import logging
import time
from collections.abc import Callable, Mapping

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from serving.predictor import v1, v2
from serving.predictor.metrics import REQUESTS, SECONDS
from serving.predictor.model import ImageModel
from serving.predictor.refusal import Refusal

JSON_LENGTH = "Inference-Header-Content-Length"
CLOSED_BY_CLIENT = 499  # as nginx counts it

log = logging.getLogger(__name__)


class Routes:
    """POST of v1 and v2 for one model."""

    def __init__(self, model: ImageModel, max_body: int) -> None:
        self._model, self._max_body = model, max_body

    def add_to(self, app: FastAPI) -> None:
        """Take precedence over KServe's own routes, which the server adds when it starts."""
        app.add_route("/v1/models/{name}:predict", self.predict, methods=["POST"])
        app.add_route("/v1/models/{name}:explain", self.explain, methods=["POST"])
        app.add_route("/v2/models/{name}/infer", self.infer, methods=["POST"])
        app.add_route("/v2/models/{name}/versions/{version}/infer", self.infer, methods=["POST"])
        app.add_exception_handler(HTTPException, _http_error)

    async def predict(self, request: Request) -> Response:
        """v1."""
        return await self._respond(request, "v1", self._predict)

    async def infer(self, request: Request) -> Response:
        """v2."""
        return await self._respond(request, "v2", self._infer)

    async def explain(self, request: Request) -> Response:
        """Say that there is no explainer, instead of KServe's 500."""
        return JSONResponse({"error": "this model has no explainer"}, 404)

    async def _respond(
        self, request: Request, protocol: str, answer: Callable[[bytes, Mapping[str, str]], Response]
    ) -> Response:
        start = time.perf_counter()
        try:
            self._check_address(request)
            _check_media_type(request)
            body = await _read(request, self._max_body)
            response = await self._model.run(answer, body, request.headers)
        except Refusal as refusal:
            response = JSONResponse({"error": str(refusal)}, refusal.status)
        except ClientDisconnect:
            response = Response(status_code=CLOSED_BY_CLIENT)
        except Exception:  # raised further, it would cost this client's connection with its other requests
            log.exception("a %s request failed", protocol)
            response = JSONResponse({"error": "the server failed; its log says why"}, 500)
        SECONDS.labels(protocol).observe(time.perf_counter() - start)
        REQUESTS.labels(protocol, str(response.status_code)).inc()
        return response

    def _predict(self, body: bytes, headers: Mapping[str, str]) -> Response:
        model = self._model
        tensors = model.answer(v1.read_instances(body, model.shape, model.max_images))
        content = v1.write_predictions(tensors, model.classes)
        return Response(content, headers={"X-Model-Version": model.version}, media_type="application/json")

    def _infer(self, body: bytes, headers: Mapping[str, str]) -> Response:
        model = self._model
        query = v2.read_query(body, headers.get(JSON_LENGTH), model.shape, model.max_images, model.outputs)
        tensors = model.answer(query.images_NHWC)
        content, json_length = v2.write_answer(query, tensors, name=model.name, version=model.version)
        response = Response(content, headers={"X-Model-Version": model.version})
        response.headers["Content-Type"] = "application/json" if json_length is None else "application/octet-stream"
        if json_length is not None:
            response.headers[JSON_LENGTH] = str(json_length)
        return response

    def _check_address(self, request: Request) -> None:
        name, version = request.path_params["name"], request.path_params.get("version", self._model.version)
        if name != self._model.name:
            raise Refusal(404, f"there is no model {name!r} here; the one model is {self._model.name!r}")
        if version != self._model.version:
            raise Refusal(404, f"there is no version {version!r} here; the one version is {self._model.version!r}")


def _check_media_type(request: Request) -> None:
    header = request.headers.get("Content-Type", "application/json")
    media_type = header.split(";")[0].strip().lower()
    binary = JSON_LENGTH in request.headers and media_type == "application/octet-stream"
    if media_type != "application/json" and not binary:
        raise Refusal(415, f"the Content-Type must be application/json, not {media_type[:60]!r}")


async def _read(request: Request, max_body: int) -> bytes:
    """Return the body. What is left of one that is too large, uvicorn throws away; the connection lives on."""
    too_large = Refusal(413, f"the body is larger than {max_body} bytes")
    if int(request.headers.get("Content-Length", 0)) > max_body:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_body:
            raise too_large
    return bytes(body)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": f"{request.method} {request.url.path}: {error.detail}"}, error.status_code)
