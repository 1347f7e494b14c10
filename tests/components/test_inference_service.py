"""Rendering, applying and awaiting an InferenceService. Only the API server is a fake, reached over HTTP."""

import copy
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from components.inference_service import DIGEST, ClusterRefused, Manifest, NotReady, apply, render, wait_until_ready

SERVICE = "/apis/serving.kserve.io/v1beta1/namespaces/steelyard/inferenceservices/acme"
DEPLOYMENTS = "/apis/apps/v1/namespaces/steelyard/deployments"
PODS = "/api/v1/namespaces/steelyard/pods"


def acme(**changes: Any) -> Manifest:
    values = {"client": "acme", "storage_uri": "s3://models/42", "image_prefix": "steelyard", "image_tag": "0.1.0"}
    return render(**values | changes)


class Cluster:
    """An API server that keeps what it is given and lists what a test puts into it."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {DEPLOYMENTS: {"items": []}, PODS: {"items": []}}
        self.requests: list[tuple[str, str, dict[str, list[str]], str]] = []
        self.refusal = ""

    def answer(self, method: str, url: str, content_type: str, body: bytes) -> tuple[int, Any]:
        path, query = urlsplit(url).path, parse_qs(urlsplit(url).query)
        self.requests.append((method, path, query, content_type))
        if self.refusal:
            return 403, {"kind": "Status", "message": self.refusal}
        if method == "PATCH":
            self.objects[path] = json.loads(body) | {"status": {}}
        found = self.objects.get(path)
        return (200, found) if found else (404, {"kind": "Status", "message": f"{path} not found"})

    def deploy(self, manifest: Manifest, *, ready: bool = False, **pod_status: Any) -> None:
        """Do KServe's part: a Deployment and a pod."""
        metadata = {"generation": 2, "annotations": {DIGEST: manifest["metadata"]["annotations"][DIGEST]}}
        counts = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), 1)
        status = {"observedGeneration": 2, **counts} if ready else {"observedGeneration": 1}
        deployment = {"metadata": metadata, "spec": {"replicas": 1}, "status": status}
        self.objects[DEPLOYMENTS] = {"items": [deployment]}
        self.objects[PODS] = {"items": [{"metadata": metadata, "status": pod_status}]}
        conditions = [{"type": "Ready", "status": "True" if ready else "False", "message": "not yet"}]
        self.objects[SERVICE] = {"status": {"conditions": conditions}}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def api(cluster: Cluster) -> Iterator[Any]:
    client = pytest.importorskip("kubernetes.client", reason="the extra 'pipeline' is not installed")

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

        do_PATCH = do_GET

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    configuration = client.Configuration(host=f"http://127.0.0.1:{server.server_port}")
    configuration.retries = False
    with client.ApiClient(configuration) as connected:
        yield connected
    server.shutdown()
    server.server_close()


def wait(manifest: Manifest, api: Any) -> str:
    return wait_until_ready(manifest, timeout_s=0.1, interval_s=0.02, tell=lambda _: None, api=api)


def test_the_template_is_filled_in() -> None:
    found = acme(namespace="clients", min_replicas=2, max_replicas=5)
    predictor = found["spec"]["predictor"]
    main, sidecar = predictor["containers"]
    assert found["metadata"]["name"] == "acme"
    assert found["metadata"]["namespace"] == "clients"
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (2, 5)
    assert main["image"] == "steelyard/predictor:0.1.0"
    assert sidecar["image"] == "steelyard/drift-detector:0.1.0"
    assert {"name": "STORAGE_URI", "value": "s3://models/42"} in main["env"]
    assert main["readinessProbe"]["httpGet"]["path"] == "/v2/models/acme/ready"
    assert "${" not in json.dumps(found)


def test_no_value_changes_the_structure() -> None:
    uri = 's3://models/42"}\n- {name: EVIL, value: "1'
    main = acme(storage_uri=uri)["spec"]["predictor"]["containers"][0]
    assert {"name": "STORAGE_URI", "value": uri} in main["env"]
    assert "EVIL" not in {variable["name"] for variable in main["env"]}


def test_the_digest_tells_one_rollout_from_another() -> None:
    digests = [acme(storage_uri=uri)["metadata"]["annotations"][DIGEST] for uri in ("s3://a", "s3://a", "s3://b")]
    assert digests[0] == digests[1] != digests[2]


def test_applying_is_server_side_and_forces_its_fields(cluster: Cluster, api: Any) -> None:
    manifest = acme()
    apply(manifest, api)
    apply(manifest, api)
    method, path, query, content_type = cluster.requests[0]
    assert (method, path, content_type) == ("PATCH", SERVICE, "application/apply-patch+yaml")
    assert query == {"fieldManager": ["steelyard"], "force": ["true"]}
    assert cluster.requests[1] == cluster.requests[0]
    assert cluster.objects[SERVICE]["spec"] == manifest["spec"]


def test_a_refusal_carries_the_webhooks_words(cluster: Cluster, api: Any) -> None:
    cluster.refusal = 'admission webhook "inferenceservice.kserve-webhook-server.validator" denied the request: no'
    with pytest.raises(ClusterRefused, match="denied the request: no"):
        apply(acme(), api)


def test_an_api_server_that_does_not_answer_is_named(api: Any) -> None:
    api.configuration.host = "http://127.0.0.1:1"
    with pytest.raises(ClusterRefused, match="does not answer"):
        apply(acme(), api)


def test_a_service_is_ready_once_its_own_pods_are(cluster: Cluster, api: Any) -> None:
    cluster.deploy(acme(), ready=True)
    assert wait(acme(), api) == "http://acme-predictor.steelyard.svc.cluster.local"


def test_pods_of_the_rollout_before_do_not_count(cluster: Cluster, api: Any) -> None:
    cluster.deploy(acme(storage_uri="s3://models/41"), ready=True)
    with pytest.raises(NotReady, match=r"not ready after .* s: not yet|made its pods yet"):
        wait(acme(), api)


def test_old_pods_beside_the_new_ones_are_waited_for(cluster: Cluster, api: Any) -> None:
    cluster.deploy(acme(), ready=True)
    cluster.objects[DEPLOYMENTS]["items"][0]["status"]["replicas"] = 2
    with pytest.raises(NotReady, match="its pods are starting"):
        wait(acme(), api)


WAITING: list[tuple[str, dict[str, Any], str]] = [
    (
        "the image can't be pulled",
        {
            "containerStatuses": [
                {
                    "name": "kserve-container",
                    "image": "steelyard/predictor:9",
                    "ready": False,
                    "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off: not found"}},
                }
            ]
        },
        "image steelyard/predictor:9 can't be pulled: Back-off: not found",
    ),
    (
        "no node is large enough",
        {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes: Insufficient memory."}]},
        "no node takes its pod: 0/1 nodes: Insufficient memory.",
    ),
    (
        "the predictor crashes",
        {
            "containerStatuses": [
                {
                    "name": "kserve-container",
                    "image": "steelyard/predictor:0.1.0",
                    "ready": False,
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {
                        "terminated": {"exitCode": 1, "message": "Traceback\n  line\nArtifactError: no bundle"}
                    },
                }
            ]
        },
        "it crashes: container kserve-container ended with code 1: ArtifactError: no bundle",
    ),
    (
        "the model is not in the store",
        {
            "initContainerStatuses": [
                {
                    "name": "storage-initializer",
                    "image": "kserve/storage-initializer:v0.21.0",
                    "ready": False,
                    "state": {"terminated": {"exitCode": 1, "message": "RuntimeError: nothing at s3://models/42"}},
                }
            ]
        },
        "the model can't be fetched: container storage-initializer ended with code 1: RuntimeError: nothing at s3://",
    ),
    (
        "a secret is missing",
        {
            "containerStatuses": [
                {
                    "name": "kserve-container",
                    "image": "steelyard/predictor:0.1.0",
                    "ready": False,
                    "state": {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "s3" not found'}},
                }
            ]
        },
        'container kserve-container can\'t be made: secret "s3" not found',
    ),
]


@pytest.mark.parametrize(("pod_status", "sentence"), [row[1:] for row in WAITING], ids=[row[0] for row in WAITING])
def test_the_reason_for_waiting_is_one_sentence(
    cluster: Cluster, api: Any, pod_status: dict[str, Any], sentence: str
) -> None:
    cluster.deploy(acme(), **pod_status)
    with pytest.raises(NotReady) as failure:
        wait(acme(), api)
    assert sentence in failure.value.reason
    assert "\n" not in str(failure.value)


def test_kserves_own_reason_is_told_before_there_are_pods(cluster: Cluster, api: Any) -> None:
    cluster.deploy(acme())
    cluster.objects[DEPLOYMENTS] = cluster.objects[PODS] = {"items": []}
    with pytest.raises(NotReady, match="not yet"):
        wait(acme(), api)


def test_a_failure_of_the_rollout_before_is_not_told_again(cluster: Cluster, api: Any) -> None:
    cluster.deploy(acme())
    cluster.objects[SERVICE]["status"]["modelStatus"] = {"lastFailureInfo": {"message": "nothing at s3://models/41"}}
    with pytest.raises(NotReady, match="its pods are starting"):
        wait(acme(), api)


def test_pods_that_admission_refuses_are_told(cluster: Cluster, api: Any) -> None:
    cluster.deploy(acme())
    problem = {"type": "ReplicaFailure", "status": "True", "message": 'violates PodSecurity "restricted:latest"'}
    cluster.objects[DEPLOYMENTS]["items"][0]["status"]["conditions"] = [problem]
    with pytest.raises(NotReady, match='violates PodSecurity "restricted:latest"'):
        wait(acme(), api)


def test_each_reason_is_told_once_and_readiness_ends_the_wait(cluster: Cluster, api: Any) -> None:
    cluster.deploy(acme())
    told: list[str] = []

    def tell(sentence: str) -> None:
        told.append(sentence)
        threading.Timer(0.1, lambda: cluster.deploy(acme(), ready=True)).start()

    wait_until_ready(acme(), timeout_s=10, interval_s=0.02, tell=tell, api=api)
    assert told == ["acme: its pods are starting"]


def test_a_manifest_is_not_changed_by_applying_it(api: Any) -> None:
    manifest = acme()
    before = copy.deepcopy(manifest)
    apply(manifest, api)
    assert manifest == before
