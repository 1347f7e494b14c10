"""The second client's InferenceService: two replicas of the predictor with the detector beside each."""

import base64
import io
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np
import pytest
import urllib3
from e2e_platform import SERVING, Platform, exists, forwarded, kubectl, run_python, wait_for
from e2e_runs import CLIENT, SECOND_CLIENT, Runs
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from numpy.typing import NDArray
from PIL import Image

from steelyard.smoke_test import SmokeTest
from steelyard.tracking.tracking import Tracking

DETECTOR = "drift-detector"
ACCOUNT = "system:serviceaccount:kubeflow:pipeline-runner"
# In the cluster, because a forwarded port holds on to one pod: a new connection for each request.
LOAD = """
import json, time, urllib3
body, until, done, failed = {body!r}, time.time() + {seconds}, 0, []
while time.time() < until:
    try:
        once = {{"headers": {{"Connection": "close"}}, "timeout": 10, "retries": False}}
        answer = urllib3.request("POST", "{url}", body=body, **once)
        failed += [] if answer.status == 200 else [answer.status]
    except Exception as error:
        failed.append(repr(error))
    done += 1
print(json.dumps([done, failed]))
"""
WORKER = """
import os, pathlib
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    if b"-m\\0serving.drift_detector.worker" in (folder / "cmdline").read_bytes():
        pid = int(folder.name)
"""


@pytest.fixture(scope="module")
def client(platform: Platform, runs: Runs) -> str:
    assert runs.finished_second
    return SECOND_CLIENT


@pytest.fixture(scope="module")
def smoke_test(platform: Platform, client: str) -> SmokeTest:
    with platform.tracking() as uri:
        tracking = Tracking(uri)
        return tracking.fetch_smoke_test(tracking.registered(client))


@pytest.fixture
def ports(client: str) -> Iterator[dict[str, int]]:
    """HTTP and gRPC of the Service, and the detector of a pod, at local ports."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(forwarded(SERVING, target, port))
            for name, target, port in (
                ("http", f"service/{client}-predictor", 80),
                ("grpc", f"service/{client}-predictor", 8081),
            )
        }


def png(image_HWC: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_HWC.squeeze()).save(buffer, "PNG")
    return buffer.getvalue()


def post(port: int, path: str, body: bytes, **headers: str) -> urllib3.BaseHTTPResponse:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    found = urllib3.request("POST", f"http://127.0.0.1:{port}{path}", body=body, headers=names, timeout=30)
    assert found.status == 200, found.data
    return found


def test_http_and_grpc_answer_as_offline(ports: dict[str, int], client: str, smoke_test: SmokeTest) -> None:
    images_NHWC, expected_NC = smoke_test.images_NHWC, smoke_test.answers
    path = f"/v2/models/{client}/infer"
    smoke_test.check(post(ports["http"], path, json.dumps(smoke_test.request()).encode()).json())

    instances = [{"b64": base64.b64encode(png(image_HWC)).decode()} for image_HWC in images_NHWC]
    answer = post(ports["http"], f"/v1/models/{client}:predict", json.dumps({"instances": instances}).encode()).json()
    assert [found["label"] for found in answer["predictions"]] == [str(best) for best in expected_NC.argmax(axis=1)]

    tensor = {"name": "images", "datatype": "UINT8", "shape": images_NHWC.shape}
    binary = tensor | {"parameters": {"binary_data_size": images_NHWC.nbytes}}
    head = json.dumps({"inputs": [binary], "outputs": [{"name": "probabilities"}]}).encode()
    length = {"Inference_Header_Content_Length": str(len(head)), "Content_Type": "application/octet-stream"}
    smoke_test.check(post(ports["http"], path, head + images_NHWC.tobytes(), **length).json())

    request = pb.ModelInferRequest(model_name=client, raw_input_contents=[images_NHWC.tobytes()])
    request.inputs.add(name="images", datatype="UINT8", shape=images_NHWC.shape)
    with grpc.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
        inferred = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=30)
    index = [output.name for output in inferred.outputs].index("probabilities")
    served_NC = np.frombuffer(inferred.raw_output_contents[index], np.float32).reshape(expected_NC.shape)
    assert np.array_equal(served_NC, expected_NC)


def test_a_pod_has_no_token_bounds_on_both_containers_and_may_not_write(platform: Platform, client: str) -> None:
    for pod in platform.predictor_pods(client):
        spec = pod["spec"]
        assert not [volume for volume in spec["volumes"] if "projected" in volume]
        assert spec["securityContext"]["runAsNonRoot"] is True
        for container in spec["containers"]:
            assert all({"cpu", "memory"} <= container["resources"][bound].keys() for bound in ("requests", "limits"))
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert spec["initContainers"][0]["name"] == "storage-initializer"


def test_the_serving_namespace_refuses_a_root_pod(client: str) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "root", "namespace": SERVING},
        "spec": {"containers": [{"name": "root", "image": "busybox:1"}]},
    }
    with pytest.raises(AssertionError, match='violates PodSecurity "restricted'):
        kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))


@pytest.mark.parametrize(
    ("verbs", "resource", "allowed"),
    [
        ("get list watch create patch delete", "inferenceservices.serving.kserve.io", True),
        ("get list watch", "deployments.apps", True),
        ("get list watch", "pods", True),
        ("get list watch", "events", True),
        ("create patch delete", "pods", False),
        ("create patch delete", "deployments.apps", False),
        ("get list", "secrets", False),
        ("get", "services", False),
        ("create", "pods/exec", False),
    ],
)
def test_the_account_of_a_run_may_deploy_and_look_and_nothing_else(
    client: str, verbs: str, resource: str, allowed: bool
) -> None:
    """Asked by its groups too, as the API server does for a real token."""
    groups = ["--as-group=system:serviceaccounts", "--as-group=system:authenticated"]
    for verb in verbs.split():
        command = ["kubectl", "auth", "can-i", verb, resource, "-n", SERVING, f"--as={ACCOUNT}", *groups]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        assert said == ("yes" if allowed else "no"), f"{verb} {resource}"


def detector(platform: Platform, client: str) -> tuple[str, Any]:
    """Return the name of a pod and a way to ask its detector."""
    pod = platform.predictor_pods(client)[0]["metadata"]["name"]

    def ask(path: str) -> str:
        return run_python(
            SERVING,
            pod,
            DETECTOR,
            f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:9090{path}').read().decode())",
        )

    return pod, ask


def test_the_detector_gets_samples_and_its_metrics_can_be_scraped(
    platform: Platform, client: str, smoke_test: SmokeTest
) -> None:
    pod, ask = detector(platform, client)
    before = json.loads(ask("/report"))["samples"]
    with forwarded(SERVING, f"pod/{pod}", 8080) as port:
        post(port, f"/v2/models/{client}/infer", json.dumps(smoke_test.request()).encode())
    wanted = before + len(smoke_test.images_NHWC)
    wait_for(lambda: json.loads(ask("/report"))["samples"] >= wanted, 30, f"{wanted} samples")
    with forwarded(SERVING, f"pod/{pod}", 9090) as port:
        scraped = urllib3.request("GET", f"http://127.0.0.1:{port}/metrics", timeout=10).data.decode()
    assert "drift_samples_total" in scraped


@pytest.mark.parametrize(
    "blow",
    ["os.kill(pid, 9)", "import resource; resource.prlimit(pid, resource.RLIMIT_DATA, (2**20, 2**20))"],
    ids=["killed", "out of its memory"],
)
def test_a_lost_worker_costs_no_prediction_and_no_readiness(
    platform: Platform, client: str, smoke_test: SmokeTest, blow: str
) -> None:
    pod, ask = detector(platform, client)
    before = run_python(SERVING, pod, DETECTOR, WORKER + "print(pid)").strip()
    limit = "import resource; print(resource.prlimit(pid, resource.RLIMIT_DATA)[0])"
    assert int(run_python(SERVING, pod, DETECTOR, WORKER + limit)) == 256 * 2**20, "well below its container's 384 MiB"
    restarts = _restarts(platform, client)
    body = json.dumps(smoke_test.request()).encode()
    with forwarded(SERVING, f"pod/{pod}", 8080) as port:
        run_python(SERVING, pod, DETECTOR, WORKER + blow)

        def another_worker_while_predictions_go_on() -> bool:
            for _ in range(20):
                post(port, f"/v2/models/{client}/infer", body)
            assert all(_ready(one) for one in platform.predictor_pods(client))
            return run_python(SERVING, pod, DETECTOR, f"pid = ''\n{WORKER}\nprint(pid)").strip() not in ("", before)

        wait_for(another_worker_while_predictions_go_on, 60, "another worker")
    wait_for(lambda: json.loads(ask("/report"))["samples"], 30, "samples of the next worker")
    assert _restarts(platform, client) == restarts


def _ready(pod: Any) -> bool:
    return all(container["ready"] for container in pod["status"]["containerStatuses"])


def _restarts(platform: Platform, client: str) -> list[int]:
    pods = platform.predictor_pods(client)
    return [container["restartCount"] for pod in pods for container in pod["status"]["containerStatuses"]]


def test_a_predictor_pod_deleted_under_load_costs_no_request(
    platform: Platform, client: str, smoke_test: SmokeTest
) -> None:
    url = f"{platform.service(client).url}/v2/models/{client}/infer"
    program = LOAD.format(body=json.dumps(smoke_test.request()).encode(), seconds=30, url=url)
    load = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "e2e-load", "namespace": SERVING},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "main",
                    "image": platform.images.base,
                    "command": ["python", "-c", program],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }
    wait_for(lambda: len(platform.predictor_pods(client)) == 2, 60, "two replicas")
    kubectl("apply", "-f", "-", stdin=json.dumps(load))
    try:
        kubectl("-n", SERVING, "wait", "--for=condition=Ready", "pod/e2e-load", "--timeout=60s")
        time.sleep(5)
        victim = platform.predictor_pods(client)[0]["metadata"]["name"]
        kubectl("-n", SERVING, "delete", "pod", victim, "--wait=false")
        kubectl("-n", SERVING, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/e2e-load", "--timeout=120s")
        done, failed = json.loads(kubectl("-n", SERVING, "logs", "e2e-load"))
    finally:
        kubectl("-n", SERVING, "delete", "pod", "e2e-load", "--ignore-not-found")
    assert victim not in {pod["metadata"]["name"] for pod in platform.predictor_pods(client)}
    assert failed == []
    assert done > 100


def test_a_deleted_client_is_gone_within_15_seconds_and_leaves_nothing(platform: Platform, runs: Runs) -> None:
    """The last test of this folder: it takes the first client away."""
    assert runs.finished_main
    began = time.monotonic()
    kubectl("-n", SERVING, "delete", "inferenceservice", CLIENT, "--wait=false")
    wait_for(lambda: not platform.predictor_pods(CLIENT), 60, "the end of its pods", 0.2)
    assert time.monotonic() - began < 15
    selector = f"serving.kserve.io/inferenceservice={CLIENT}"
    kinds = "pods,deployments,replicasets,services,horizontalpodautoscalers,configmaps,secrets,persistentvolumeclaims"
    left = wait_for(lambda: not exists("-n", SERVING, kinds, "-l", selector), 30, f"nothing labelled {selector}", 0.5)
    assert left
    assert not exists("-n", SERVING, "horizontalpodautoscalers,services,deployments", f"{CLIENT}-predictor")
