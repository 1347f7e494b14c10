"""An API server, reached over HTTP, that keeps what it is given and shows what a test puts into it."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from components.cluster.inference_service import DIGEST, InferenceService

DEPLOYMENTS = "/apis/apps/v1/namespaces/steelyard/deployments"
PODS = "/api/v1/namespaces/steelyard/pods"
PROXY = "/api/v1/namespaces/steelyard/services/"


class Cluster:
    """Holds objects by path; a list is filtered by the service it is asked for."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.requests: list[tuple[str, str, dict[str, list[str]], str]] = []
        self.bodies: list[tuple[str, str, Any]] = []
        self.refusal = ""
        self.kserve: Callable[[str], None] = lambda name: None  # what happens when a service is applied
        self.predictor: Callable[[str, Any], Any] = lambda name, body: {}

    def answer(self, method: str, url: str, content_type: str, body: bytes) -> tuple[int, Any]:
        path, query = urlsplit(url).path, parse_qs(urlsplit(url).query)
        self.requests.append((method, path, query, content_type))
        if self.refusal:
            return 403, {"kind": "Status", "message": self.refusal}
        if path.startswith(PROXY):
            return 200, self.predictor(path.removeprefix(PROXY).partition("-predictor:80/proxy")[0], json.loads(body))
        if method == "DELETE":
            return (200, {}) if self.objects.pop(path, None) else (404, {"message": "not found"})
        if method == "PATCH":
            self.bodies.append((method, path, json.loads(body)))
            self.objects[path] = json.loads(body) | {"status": {}}
            self.kserve(path.rpartition("/")[2])
        if selector := query.get("labelSelector"):
            return 200, {"items": self.objects.get(f"{path}?{selector[0].partition('=')[2]}", [])}
        found = self.objects.get(path)
        return (200, found) if found else (404, {"kind": "Status", "message": f"{path} not found"})

    def deploy(self, service: InferenceService, *, ready: bool = False, **pod_status: Any) -> None:
        """Do KServe's part: a Deployment and a pod."""
        metadata = {"generation": 2, "annotations": {DIGEST: service.digest}}
        counts = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), 1)
        status = {"observedGeneration": 2, **counts} if ready else {"observedGeneration": 1}
        predictor = service.manifest()["spec"]["predictor"]
        self.objects[f"{DEPLOYMENTS}?{service.name}"] = [
            {"metadata": metadata, "spec": {"replicas": 1}, "status": status}
        ]
        self.objects[f"{PODS}?{service.name}"] = [{"metadata": metadata, "spec": predictor, "status": pod_status}]
        conditions = [{"type": "Ready", "status": "True" if ready else "False", "message": "not yet"}]
        self.objects[service.path] = service.manifest() | {"status": {"conditions": conditions}}

    def without_pods(self, service: InferenceService) -> None:
        """KServe has made nothing yet."""
        self.objects[f"{DEPLOYMENTS}?{service.name}"] = self.objects[f"{PODS}?{service.name}"] = []


@contextmanager
def serving(cluster: Cluster) -> Iterator[Any]:
    """Yield a client of the cluster."""
    from kubernetes import client

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, found = cluster.answer(self.command, self.path, self.headers.get("Content-Type", ""), body)
            answer = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_PATCH = do_POST = do_DELETE = do_GET

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    configuration = client.Configuration(host=f"http://127.0.0.1:{server.server_port}")
    configuration.retries = False
    with client.ApiClient(configuration) as connected:
        yield connected
    server.shutdown()
    server.server_close()
