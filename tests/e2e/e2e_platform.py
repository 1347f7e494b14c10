"""A cluster with Kubeflow Pipelines and KServe, and steelyard applied to it, as the tests use it."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minio import Minio

from components.cluster.api import Api, request
from components.cluster.inference_service import InferenceService
from components.images import Images

KFP, SERVING = "kubeflow", "steelyard"
EXPERIMENT = "steelyard-e2e"
BUCKET = "mlpipeline"
STORE = "minio-service.kubeflow:9000"  # what Kubeflow Pipelines brings
VARIABLES = (
    "KUBECONFIG",
    "KFP_ENDPOINT",
    "AWS_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "IMAGE_TAG",
)
FREE_GIB = 4  # of the node's disk: below that kubelets begin to evict
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Platform:
    """What is needed to reach it."""

    api: Api
    kfp: Any
    images: Images
    pipelines: Path
    started: list[str] = field(default_factory=list)

    def service(self, name: str, storage_uri: str = "s3://mlpipeline/none", **changes: Any) -> InferenceService:
        """Describe an InferenceService with the images under test."""
        images = {"image_prefix": self.images.prefix, "image_tag": self.images.tag}
        values = {"name": name, "namespace": SERVING, "storage_uri": storage_uri} | images
        return InferenceService(**values | changes)

    def submit(self, name: str, pipeline: str = "train_and_select.yaml", **arguments: Any) -> str:
        """Start a run and return its id."""
        run = self.kfp.create_run_from_pipeline_package(
            str(self.pipelines / pipeline),
            arguments=arguments,
            run_name=name,
            experiment_name=EXPERIMENT,
        )
        self.started.append(run.run_id)
        return str(run.run_id)

    def ended(self, run_id: str, within_s: float = 600) -> str:
        """Wait for a run's end and return its state."""
        return str(wait_for(lambda: _ended(self.kfp.get_run(run_id).state), within_s, f"the end of run {run_id}"))

    def pods(self, namespace: str, selector: str) -> list[dict[str, Any]]:
        """List pods."""
        found = request(self.api, "GET", f"/api/v1/namespaces/{namespace}/pods", [("labelSelector", selector)])
        return list(found["items"])

    @contextmanager
    def tracking(self) -> Iterator[str]:
        """Reach MLflow, and yield its URI."""
        with forwarded(SERVING, "service/mlflow", 5000) as port:
            yield f"http://127.0.0.1:{port}"

    def predictor_pods(self, client: str) -> list[dict[str, Any]]:
        """List the pods that serve a client."""
        return self.pods(SERVING, f"serving.kserve.io/inferenceservice={client}")


def _ended(state: str) -> str:
    return state if state in {"SUCCEEDED", "FAILED", "CANCELED"} else ""


def wait_for(look: Callable[[], Any], within_s: float, what: str, every_s: float = 1.0) -> Any:
    """Look until there is something to see."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if seen := look():
            return seen
        time.sleep(every_s)
    raise AssertionError(f"waited {within_s:.0f} s in vain for {what}")


def kubectl(*words: str, stdin: str | None = None) -> str:
    """Run kubectl and return what it prints."""
    done = subprocess.run(["kubectl", *words], input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr.strip()}"
    return done.stdout


@contextmanager
def forwarded(namespace: str, target: str, port: int) -> Iterator[int]:
    """Reach a port of a Service or pod at a local port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        local = int(probe.getsockname()[1])
    command = ["kubectl", "-n", namespace, "port-forward", target, f"{local}:{port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: _listens(local), 20, f"port {port} of {target}", 0.1)
        yield local
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def missing_from(environ: dict[str, str]) -> Sequence[str]:
    """Name the variables without which there is nothing to test on."""
    return [name for name in VARIABLES if not environ.get(name)]


def free_gib(api: Api) -> float:
    """Return the free disk of the fullest node, as its kubelet sees it."""
    nodes = request(api, "GET", "/api/v1/nodes")["items"]
    paths = [f"/api/v1/nodes/{node['metadata']['name']}/proxy/stats/summary" for node in nodes]
    return float(min(request(api, "GET", path)["node"]["fs"]["availableBytes"] for path in paths) / 2**30)


@contextmanager
def steelyard_applied(images: Images) -> Iterator[None]:
    """Apply the local overlay and the Secrets as the README says, and take them away; leave what is there already."""
    if exists("namespace", SERVING):
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        tag = ["--image-prefix", images.prefix, "--image-tag", images.tag]
        subprocess.run([sys.executable, ROOT / "manifests/render.py", "--output", folder, *tag], check=True)
        overlay = f"{folder}/local"
        try:
            kubectl("apply", "-k", overlay)
            _make_secret(KFP, {"AWS_ENDPOINT_URL": f"http://{STORE}"}, {})
            about = {"serving.kserve.io/s3-endpoint": STORE, "serving.kserve.io/s3-usehttps": "0"}
            _make_secret(SERVING, {}, about)
            unprivileged = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            patch = json.dumps({"spec": {"container": {"securityContext": unprivileged}}})
            kubectl("patch", "clusterstoragecontainer", "default", "--type=merge", "--patch", patch)
            kubectl("-n", SERVING, "rollout", "status", "deployment/mlflow", "--timeout=180s")
            yield
        finally:
            kubectl("-n", KFP, "delete", "secret", "s3-credentials", "--ignore-not-found")
            kubectl("delete", "-k", overlay, "--timeout=120s", "--ignore-not-found")


def _make_secret(namespace: str, more: dict[str, str], annotations: dict[str, str]) -> None:
    """By standard input: what stands on a command line can be read by others."""
    keys = {key: os.environ[key] for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    metadata = {"name": "s3-credentials", "namespace": namespace, "annotations": annotations}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": keys | more}
    kubectl("apply", "-f", "-", stdin=json.dumps(secret))


def exists(*words: str) -> bool:
    """Whether the cluster has an object."""
    return bool(kubectl("get", *words, "--ignore-not-found", "-o=name"))


def minio() -> Minio:
    """Return a client of the object store."""
    scheme, _, address = os.environ["AWS_ENDPOINT_URL"].partition("://")
    keys = {"access_key": os.environ["AWS_ACCESS_KEY_ID"], "secret_key": os.environ["AWS_SECRET_ACCESS_KEY"]}
    return Minio(address, secure=scheme == "https", **keys)


def remove_objects(prefix: str) -> None:
    """Remove what lies below a prefix of KFP's bucket."""
    for found in minio().list_objects(BUCKET, prefix=f"{prefix}/", recursive=True):
        minio().remove_object(BUCKET, found.object_name)


def run_python(namespace: str, pod: str, container: str, program: str) -> str:
    """Run a program in a container and return what it prints."""
    return kubectl("-n", namespace, "exec", pod, "-c", container, "--", "python", "-c", program)
