"""The InferenceService of one client: rendered from its template, applied, awaited."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from components.cluster.api import APPLY, Api, ClusterRefused, Object, one_line, request
from components.cluster.pods import condition, problems
from steelyard.errors import SteelyardError

TEMPLATE = Path(__file__).parents[2] / "manifests/inferenceservice/inferenceservice.yaml"
DIGEST = "steelyard/spec-digest"  # KServe copies annotations to the pods: tells this rollout from the one before
MOST_REPLICAS = 3


class NotReady(SteelyardError):
    """An InferenceService that did not become ready in time."""

    def __init__(self, name: str, timeout_s: float, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(f"inference service {name!r} is not ready after {timeout_s:.0f} s: {reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceService:
    """What the template leaves open; its head says what each value is."""

    name: str
    namespace: str
    storage_uri: str
    image_prefix: str
    image_tag: str
    replicas: int = 1

    @property
    def url(self) -> str:
        """Where it answers inside the cluster."""
        return f"http://{self.name}-predictor.{self.namespace}.svc.cluster.local"

    @property
    def path(self) -> str:
        """Where the API server keeps it."""
        return f"/apis/serving.kserve.io/v1beta1/namespaces/{self.namespace}/inferenceservices/{self.name}"

    @property
    def digest(self) -> str:
        """Of all that is served."""
        digest: str = self.manifest()["metadata"]["annotations"][DIGEST]
        return digest

    def manifest(self) -> Object:
        """Fill in the template."""
        import yaml

        values = {
            "CLIENT": self.name,
            "NAMESPACE": self.namespace,
            "STORAGE_URI": self.storage_uri,
            "IMAGE_PREFIX": self.image_prefix,
            "IMAGE_TAG": self.image_tag,
        }
        manifest: Object = _filled(yaml.safe_load(TEMPLATE.read_text(encoding="utf-8")), values)
        manifest["spec"]["predictor"] |= {
            "minReplicas": self.replicas,
            "maxReplicas": max(self.replicas, MOST_REPLICAS),
        }
        spec = json.dumps(manifest["spec"], sort_keys=True).encode()
        manifest["metadata"]["annotations"][DIGEST] = hashlib.sha256(spec).hexdigest()
        return manifest


def apply(service: InferenceService, api: Api) -> None:
    """Create or change it by server-side apply; the same twice changes nothing.

    Raises:
        ClusterRefused: the API server or KServe's webhook refused it.
    """
    _apply(service.path, service.manifest(), api)


def put_back(service: InferenceService, before: Object, api: Api) -> None:
    """Make it again what `read` returned before.

    Raises:
        ClusterRefused: the API server or KServe's webhook refused it.
    """
    kept = {key: before["metadata"][key] for key in ("name", "namespace", "labels", "annotations")}
    _apply(service.path, {key: before[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": kept}, api)


def delete(service: InferenceService, api: Api) -> None:
    """Delete it with all that KServe made for it, if it is there.

    Raises:
        ClusterRefused: the API server refused.
    """
    try:
        request(api, "DELETE", service.path)
    except ClusterRefused as error:
        if error.status != 404:
            raise


def wait_until_ready(
    service: InferenceService, *, timeout_s: float, tell: Callable[[str], None], api: Api, interval_s: float = 2
) -> None:
    """Wait until every pod of what was applied answers, and none of an older rollout is left.

    Args:
        service: what was applied.
        timeout_s: how long to wait.
        tell: gets one sentence each time the reason for waiting changes.
        api: a connection.
        interval_s: between two looks.

    Raises:
        NotReady: not within the time; with the last reason.
        ClusterRefused: the API server could not be asked.
    """
    deadline, reason = time.monotonic() + timeout_s, ""
    while now := why_not_ready(service, api):
        if now != reason:
            tell(f"{service.name}: {now}")
            reason = now
        if time.monotonic() >= deadline:
            raise NotReady(service.name, timeout_s, reason)
        time.sleep(interval_s)


def why_not_ready(service: InferenceService, api: Api) -> str:
    """Return one sentence on what it waits for; nothing once it is ready."""
    # status.modelStatus.lastFailureInfo is not asked: KServe 0.20 still tells an earlier rollout's failure there.
    status = read(service, api).get("status", {})
    deployments = _owned(api, f"/apis/apps/v1/namespaces/{service.namespace}/deployments", service)
    pods = _owned(api, f"/api/v1/namespaces/{service.namespace}/pods", service)
    ready = condition(status, "Ready")
    if deployments and _rolled_out(deployments[0], service.replicas) and ready.get("status") == "True":
        return ""
    reasons = [problem for pod in pods for problem in problems(pod)]
    reasons += [condition(d.get("status", {}), "ReplicaFailure").get("message", "") for d in deployments]
    if not deployments:
        reasons += [ready.get("message", ""), "KServe has not made its pods yet"]
    reasons += ["its pods are starting"]
    return next(one_line(reason) for reason in reasons if reason)


def is_serving(service: InferenceService, api: Api) -> bool:
    """Whether exactly this is in place, and ready."""
    found = read(service, api).get("metadata", {}).get("annotations", {}).get(DIGEST)
    return found == service.digest and not why_not_ready(service, api)


def read(service: InferenceService, api: Api) -> Object:
    """Return what is in place under its name; an empty object where there is nothing."""
    try:
        found: Object = request(api, "GET", service.path)
    except ClusterRefused as error:
        if error.status != 404:
            raise
        return {}
    return found


def _apply(path: str, manifest: Object, api: Api) -> None:
    query = [("fieldManager", "steelyard"), ("force", "true")]
    request(api, "PATCH", path, query, manifest, APPLY)


def _filled(node: Any, values: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _filled(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, values) for value in node]
    return Template(node).substitute(values) if isinstance(node, str) else node


def _owned(api: Api, path: str, service: InferenceService) -> list[Object]:
    """List the objects that KServe made for this rollout of the service."""
    query = [("labelSelector", f"serving.kserve.io/inferenceservice={service.name}")]
    items, digest = request(api, "GET", path, query)["items"], service.digest
    return [item for item in items if item["metadata"].get("annotations", {}).get(DIGEST) == digest]


def _rolled_out(deployment: Object, replicas: int) -> bool:
    """Whether all its pods are new and answer, the replicas too that an autoscaler adds to the first."""
    status, wanted = deployment.get("status", {}), max(deployment["spec"].get("replicas", 1), replicas)
    seen = status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    return seen and all(status.get(key, 0) == wanted for key in ("replicas", "updatedReplicas", "availableReplicas"))
