"""The tasks of a KFP run as their pods show them: KFP's own API tells no reasons."""

import re
from dataclasses import dataclass

from components.cluster.api import Api, Object, request
from components.cluster.pods import problems

_DRIVER = " (KFP's driver)"
_NODE = re.compile(r"(?:iterations\((\d+):\d+\).*\.)?([a-z0-9-]+?)(-driver|\.executor\((\d+)\))$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One attempt at one task."""

    name: str  # the component's, and which candidate it is at in a loop
    pod: str
    phase: str  # of Kubernetes
    reason: str  # one sentence, where there is something to say: its last words, or what Kubernetes says of its pod

    @property
    def failed(self) -> bool:
        """Whether this attempt ended badly."""
        return self.phase == "Failed"

    @property
    def said(self) -> str:
        """What it does, in a few words."""
        words = {"Pending": "waits", "Running": "runs", "Succeeded": "done", "Failed": "failed"}
        return ": ".join(filter(None, [words.get(self.phase, self.phase), self.reason]))


def list_tasks(api: Api, namespace: str, run_id: str) -> list[Task]:
    """List a run's attempts, the oldest first; of the drivers that KFP puts before each, those that failed.

    Raises:
        ClusterRefused: the API server could not be asked.
    """
    query = [("labelSelector", f"pipeline/runid={run_id}")]
    pods = request(api, "GET", f"/api/v1/namespaces/{namespace}/pods", query)["items"]
    pods.sort(key=lambda pod: pod["metadata"]["creationTimestamp"])
    tasks = [_task(pod) for pod in pods]
    return [task for task in tasks if task.failed or not task.name.endswith(_DRIVER)]


def _task(pod: Object) -> Task:
    node = pod["metadata"]["annotations"]["workflows.argoproj.io/node-name"]
    found = _NODE.search(node)
    name = node if found is None else found[2]
    if found and found[1]:
        name += f" {int(found[1]) + 1}"
    if found and found[3] == "-driver":
        name += _DRIVER
    return Task(name=name, pod=pod["metadata"]["name"], phase=pod["status"]["phase"], reason=_reason(pod))


def _reason(pod: Object) -> str:
    for container in pod["status"].get("containerStatuses", []):
        ended = container.get("state", {}).get("terminated", {})
        if container["name"] == "main" and ended.get("message"):
            return " ".join(ended["message"].split())
    return next(problems(pod), "")
