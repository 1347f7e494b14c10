"""Rendering, applying and awaiting an InferenceService. Only the API server is a fake, reached over HTTP."""

import json
import threading
from typing import Any

import pytest

from components.cluster.api import ClusterRefused
from components.cluster.inference_service import (
    InferenceService,
    NotReady,
    apply,
    delete,
    is_serving,
    wait_until_ready,
)
from tests.fake_cluster import DEPLOYMENTS, Cluster


def acme(**changes: Any) -> InferenceService:
    values = {"name": "acme", "namespace": "steelyard", "storage_uri": "s3://models/42"}
    return InferenceService(**values | {"image_prefix": "steelyard", "image_tag": "0.1.0"} | changes)


def wait(service: InferenceService, api: Any) -> None:
    wait_until_ready(service, timeout_s=0.1, interval_s=0.02, tell=lambda _: None, api=api)


def test_the_template_is_filled_in() -> None:
    found = acme(namespace="clients", replicas=5).manifest()
    predictor = found["spec"]["predictor"]
    main, sidecar = predictor["containers"]
    assert found["metadata"]["name"] == "acme"
    assert found["metadata"]["namespace"] == "clients"
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (5, 5)
    assert main["image"] == "steelyard/predictor:0.1.0"
    assert sidecar["image"] == "steelyard/drift-detector:0.1.0"
    assert {"name": "STORAGE_URI", "value": "s3://models/42"} in main["env"]
    assert main["readinessProbe"]["httpGet"]["path"] == "/v2/models/acme/ready"
    assert "${" not in json.dumps(found)


def test_no_value_changes_the_structure() -> None:
    uri = 's3://models/42"}\n- {name: EVIL, value: "1'
    main = acme(storage_uri=uri).manifest()["spec"]["predictor"]["containers"][0]
    assert {"name": "STORAGE_URI", "value": uri} in main["env"]
    assert "EVIL" not in {variable["name"] for variable in main["env"]}


def test_the_digest_tells_one_rollout_from_another() -> None:
    digests = [acme(storage_uri=uri).digest for uri in ("s3://a", "s3://a", "s3://b")]
    assert digests[0] == digests[1] != digests[2]


def test_applying_is_server_side_and_forces_its_fields(cluster: Cluster, api: Any) -> None:
    service = acme()
    apply(service, api)
    apply(service, api)
    method, path, query, content_type = cluster.requests[0]
    assert (method, path, content_type) == ("PATCH", service.path, "application/apply-patch+yaml")
    assert query == {"fieldManager": ["steelyard"], "force": ["true"]}
    assert cluster.requests[1] == cluster.requests[0]
    assert cluster.objects[service.path]["spec"] == service.manifest()["spec"]


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
    wait(acme(), api)
    assert is_serving(acme(), api)
    assert not is_serving(acme(storage_uri="s3://models/43"), api)


def test_fewer_pods_than_asked_for_are_not_enough(cluster: Cluster, api: Any) -> None:
    cluster.deploy(acme(replicas=2), ready=True)
    with pytest.raises(NotReady, match="its pods are starting"):
        wait(acme(replicas=2), api)


def test_pods_of_the_rollout_before_do_not_count(cluster: Cluster, api: Any) -> None:
    cluster.deploy(acme(storage_uri="s3://models/41"), ready=True)
    with pytest.raises(NotReady, match=r"not ready after .* s: not yet|made its pods yet"):
        wait(acme(), api)


def test_old_pods_beside_the_new_ones_are_waited_for(cluster: Cluster, api: Any) -> None:
    cluster.deploy(acme(), ready=True)
    cluster.objects[f"{DEPLOYMENTS}?acme"][0]["status"]["replicas"] = 2
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
        "the predictor is too large",
        {
            "containerStatuses": [
                {
                    "name": "kserve-container",
                    "image": "steelyard/predictor:0.1.0",
                    "ready": False,
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
                }
            ]
        },
        "container kserve-container ran out of memory: its limit is 1Gi",
    ),
    (
        "its node needed the room",
        {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."},
        "its pod was ended (Evicted): The node was low on resource: memory.",
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
    cluster.without_pods(acme())
    with pytest.raises(NotReady, match="not yet"):
        wait(acme(), api)


def test_a_failure_of_the_rollout_before_is_not_told_again(cluster: Cluster, api: Any) -> None:
    cluster.deploy(acme())
    cluster.objects[acme().path]["status"]["modelStatus"] = {
        "lastFailureInfo": {"message": "nothing at s3://models/41"}
    }
    with pytest.raises(NotReady, match="its pods are starting"):
        wait(acme(), api)


def test_pods_that_admission_refuses_are_told(cluster: Cluster, api: Any) -> None:
    cluster.deploy(acme())
    problem = {"type": "ReplicaFailure", "status": "True", "message": 'violates PodSecurity "restricted:latest"'}
    cluster.objects[f"{DEPLOYMENTS}?acme"][0]["status"]["conditions"] = [problem]
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


def test_what_is_not_there_is_deleted_without_a_word(cluster: Cluster, api: Any) -> None:
    apply(acme(), api)
    delete(acme(), api)
    assert acme().path not in cluster.objects
    delete(acme(), api)
    assert not is_serving(acme(), api)
