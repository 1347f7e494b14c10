"""KServe's ModelServer around one ImageModel, with the defects of 0.21 that its options can't mend mended."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import FrameType
from typing import Any

import grpc
import kserve
from kserve import model_server
from kserve.errors import InvalidInput
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.server import GRPCServer
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

from serving.predictor.model import ImageModel
from serving.predictor.routes import Routes

GRACE_S = 15  # for requests under way; with the drain it stays below the 30 s of Kubernetes


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where and how to serve."""

    host: str
    http_port: int
    grpc_port: int  # 0 for no gRPC
    max_body: int  # bytes
    drain_s: float


class Server(kserve.ModelServer):  # type: ignore[misc]
    """On SIGTERM it first calls itself not ready and answers on, until the endpoints have forgotten this Pod."""

    def __init__(self, model: ImageModel, options: Options) -> None:
        super().__init__(
            http_port=options.http_port,
            grpc_port=options.grpc_port,
            enable_grpc=False,
            grace_period=GRACE_S,
            enable_latency_logging=False,
        )
        self.model, self._options = model, options
        self.dataplane = _DataPlane(self.registered_models, model)
        self.model_repository_extension = _FixedRepository(self.registered_models)
        model_server.args.grpc_max_receive_message_length = options.max_body
        if options.grpc_port:
            settings = vars(model_server.args)
            self._grpc_server = _GRPCServer(
                options.host, options.grpc_port, self.dataplane, self.model_repository_extension, settings, GRACE_S
            )
            self.servers.append(self._grpc_server.start(self.max_threads))
        Routes(model, options.max_body).add_to(model_server.app)
        for name in ("kserve", "kserve.trace"):  # several lines for each request otherwise
            logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger("uvicorn.access").propagate = False  # without a handler, uvicorn skips its access log

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        self.start([self.model])

    async def _serve(self) -> None:
        self._rest_server.config.host = self._options.host
        uvicorn_server = self._rest_server._server
        stop, loop = uvicorn_server.handle_exit, asyncio.get_running_loop()

        def drain_then_stop(signal: int, frame: FrameType | None) -> None:
            delay_s = 0.0 if self.model.draining else self._options.drain_s  # a second signal means now
            self.model.draining = True
            loop.call_soon_threadsafe(loop.call_later, delay_s, stop, signal, frame)

        uvicorn_server.handle_exit = drain_then_stop
        await super()._serve()


class _GRPCServer(GRPCServer):  # type: ignore[misc]
    """KServe's own listens on every address, whatever HTTP does."""

    def __init__(self, host: str, *settings: Any) -> None:
        super().__init__(*settings)
        self._host = host

    async def start(self, max_workers: int) -> None:
        sizes = ("grpc.max_send_message_length", "grpc.max_receive_message_length")
        self._server = grpc.aio.server(
            ThreadPoolExecutor(max_workers),
            interceptors=(ExceptionToStatusInterceptor(),),
            options=[(name, self._kwargs.get(name.replace(".", "_"))) for name in sizes],
        )
        servicer = InferenceServicer(self._data_plane, self._model_repository_extension)
        add_GRPCInferenceServiceServicer_to_server(servicer, self._server)
        self._server.add_insecure_port(f"{self._host}:{self._port}")
        await self._server.start()
        await self._server.wait_for_termination()


class _DataPlane(DataPlane):  # type: ignore[misc]
    """KServe's own says ready whatever the model says."""

    def __init__(self, registry: kserve.ModelRepository, model: ImageModel) -> None:
        super().__init__(model_registry=registry)
        self._model = model

    async def ready(self) -> bool:
        return await self._model.healthy()


class _FixedRepository(ModelRepositoryExtension):  # type: ignore[misc]
    """KServe's own lets anyone unload the model."""

    async def load(self, model_name: str) -> None:
        raise InvalidInput("the model of this server is fixed; it can't be loaded or unloaded")

    async def unload(self, model_name: str) -> None:
        raise InvalidInput("the model of this server is fixed; it can't be loaded or unloaded")
