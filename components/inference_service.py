"""The InferenceService of one client: rendered from its template, applied, awaited."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from steelyard.errors import MissingExtra, SteelyardError

TEMPLATE = Path(__file__).parents[1] / "manifests/inferenceservice/inferenceservice.yaml"
DIGEST = "steelyard/spec-digest"  # KServe copies annotations to the pods: tells this rollout from the one before

Manifest = dict[str, Any]
Api = Any  # kubernetes.client.ApiClient, which has no types


class ClusterRefused(SteelyardError):
    """The Kubernetes API did not do what was asked; its reason is in the text."""


class NotReady(SteelyardError):
    """An InferenceService that did not become ready in time."""

    def __init__(self, name: str, timeout_s: float, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(f"inference service {name!r} is not ready after {timeout_s:.0f} s: {reason}")


def render(
    *,
    client: str,
    storage_uri: str,
    image_prefix: str,
    image_tag: str,
    namespace: str = "steelyard",
    min_replicas: int = 1,
    max_replicas: int = 3,
) -> Manifest:
    """Fill in the template, whose head says what each value is."""
    import yaml

    images = {"IMAGE_PREFIX": image_prefix, "IMAGE_TAG": image_tag}
    values = {"CLIENT": client, "NAMESPACE": namespace, "STORAGE_URI": storage_uri} | images
    manifest: Manifest = _filled(yaml.safe_load(TEMPLATE.read_text(encoding="utf-8")), values)
    manifest["spec"]["predictor"] |= {"minReplicas": min_replicas, "maxReplicas": max_replicas}
    spec = json.dumps(manifest["spec"], sort_keys=True).encode()
    manifest["metadata"]["annotations"][DIGEST] = hashlib.sha256(spec).hexdigest()
    return manifest


def apply(manifest: Manifest, api: Api | None = None) -> None:
    """Create or change the InferenceService by server-side apply; the same manifest twice changes nothing.

    Raises:
        ClusterRefused: the API server or KServe's webhook refused it, or there is no cluster.
    """
    query = [("fieldManager", "steelyard"), ("force", "true")]
    _request(api or connect(), "PATCH", _path(manifest), query, manifest)


def wait_until_ready(
    manifest: Manifest,
    *,
    timeout_s: float = 600,
    interval_s: float = 2,
    tell: Callable[[str], None] = print,
    api: Api | None = None,
) -> str:
    """Wait until every pod of the applied manifest answers, and none of an older one is left.

    Args:
        manifest: what was applied.
        timeout_s: how long to wait.
        interval_s: between two looks.
        tell: gets one sentence each time the reason for waiting changes.
        api: a connection; made if left out.

    Returns:
        The service's address inside the cluster.

    Raises:
        NotReady: not within the time; with the last reason.
        ClusterRefused: the API server could not be asked.
    """
    api = api or connect()
    name, namespace = manifest["metadata"]["name"], manifest["metadata"]["namespace"]
    deadline, reason = time.monotonic() + timeout_s, ""
    while now := why_not_ready(manifest, api):
        if now != reason:
            tell(f"{name}: {now}")
            reason = now
        if time.monotonic() >= deadline:
            raise NotReady(name, timeout_s, reason)
        time.sleep(interval_s)
    return f"http://{name}-predictor.{namespace}.svc.cluster.local"


def why_not_ready(manifest: Manifest, api: Api) -> str:
    """Return one sentence on what an applied InferenceService waits for; nothing once it is ready."""
    # status.modelStatus.lastFailureInfo is not asked: KServe 0.20 still tells an earlier rollout's failure there.
    name, namespace = manifest["metadata"]["name"], manifest["metadata"]["namespace"]
    digest = manifest["metadata"]["annotations"][DIGEST]
    status = _request(api, "GET", _path(manifest)).get("status", {})
    deployments = _owned(api, f"/apis/apps/v1/namespaces/{namespace}/deployments", name, digest)
    pods = _owned(api, f"/api/v1/namespaces/{namespace}/pods", name, digest)
    ready = _condition(status, "Ready")
    if deployments and _rolled_out(deployments[0]) and ready.get("status") == "True":
        return ""
    reasons = [problem for pod in pods for problem in _pod_problems(pod)]
    reasons += [_condition(d.get("status", {}), "ReplicaFailure").get("message", "") for d in deployments]
    if not deployments:
        reasons += [ready.get("message", ""), "KServe has not made its pods yet"]
    reasons += ["its pods are starting"]
    return next(_one_line(reason) for reason in reasons if reason)


def connect() -> Api:
    """Connect as kubectl would, or else as the account of the pod that this runs in."""
    try:
        from kubernetes import client, config
    except ImportError:
        raise MissingExtra("kubernetes", "pipeline") from None
    try:
        config.load_config()
    except config.ConfigException as error:
        raise ClusterRefused(f"no cluster is configured: {error}") from None
    return client.ApiClient()


def _filled(node: Any, values: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _filled(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, values) for value in node]
    return Template(node).substitute(values) if isinstance(node, str) else node


def _path(manifest: Manifest) -> str:
    metadata = manifest["metadata"]
    return f"/apis/{manifest['apiVersion']}/namespaces/{metadata['namespace']}/inferenceservices/{metadata['name']}"


def _request(
    api: Api, method: str, path: str, query: Sequence[tuple[str, str]] = (), body: Manifest | None = None
) -> Any:
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    headers = {"Accept": "application/json", "Content-Type": "application/apply-patch+yaml"}
    how = {"response_type": "object", "auth_settings": ["BearerToken"], "_request_timeout": 30}
    try:
        return api.call_api(path, method, query_params=query, header_params=headers, body=body, **how)[0]
    except ApiException as error:
        said = str(error.body or error.reason)
        reason = json.loads(said).get("message", said) if said.startswith("{") else said
        raise ClusterRefused(f"{method} {path}: {_one_line(reason)}") from None
    except HTTPError as error:
        raise ClusterRefused(f"{method} {path}: the API server does not answer: {_one_line(str(error))}") from None


def _owned(api: Api, path: str, name: str, digest: str) -> list[Manifest]:
    """List the objects that KServe made for this rollout of the service."""
    items = _request(api, "GET", path, [("labelSelector", f"serving.kserve.io/inferenceservice={name}")])["items"]
    return [item for item in items if item["metadata"].get("annotations", {}).get(DIGEST) == digest]


def _rolled_out(deployment: Manifest) -> bool:
    status, wanted = deployment.get("status", {}), deployment["spec"].get("replicas", 1)
    seen = status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    return seen and all(status.get(key, 0) == wanted for key in ("replicas", "updatedReplicas", "availableReplicas"))


def _condition(status: Manifest, kind: str) -> Mapping[str, str]:
    return next((c for c in status.get("conditions", []) if c["type"] == kind), {})


def _pod_problems(pod: Manifest) -> Iterator[str]:
    status = pod.get("status", {})
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False":
        yield f"no node takes its pod: {scheduled.get('message', scheduled.get('reason', ''))}"
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = container.get("state", {}).get("waiting", {})
        ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated") or {}
        if "Image" in waiting.get("reason", ""):
            yield f"image {container['image']} can't be pulled: {waiting.get('message', waiting['reason'])}"
        elif waiting.get("reason") in {"CreateContainerConfigError", "CreateContainerError"}:
            yield f"container {container['name']} can't be made: {waiting.get('message', waiting['reason'])}"
        elif ended.get("exitCode") and not container.get("ready"):
            last_words = (ended.get("message") or ended.get("reason", "")).strip().splitlines()[-1:]
            what = "the model can't be fetched" if container["name"] == "storage-initializer" else "it crashes"
            yield f"{what}: container {container['name']} ended with code {ended['exitCode']}: {''.join(last_words)}"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:400]
