"""Why a pod is not what it should be, in one sentence each."""

from collections.abc import Iterator, Mapping

from components.cluster.api import Object


def problems(pod: Object) -> Iterator[str]:
    """Yield what keeps a pod from running, or ended it; nothing where all is well."""
    status = pod.get("status", {})
    scheduled = condition(status, "PodScheduled")
    if scheduled.get("status") == "False":
        reason = scheduled.get("message", scheduled.get("reason", ""))
        yield f"no node takes its pod: {reason.partition(' preemption:')[0]}"
    if status.get("phase") == "Failed" and status.get("reason"):
        yield f"its pod was ended ({status['reason']}): {status.get('message', '')}"
    specs = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
    limits = {spec["name"]: spec.get("resources", {}).get("limits", {}) for spec in specs}
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        yield from _container_problems(container, limits.get(container["name"], {}).get("memory", "not known"))


def condition(status: Object, kind: str) -> Mapping[str, str]:
    """Return a condition of a status; an empty one where it is not stated."""
    return next((c for c in status.get("conditions", []) if c["type"] == kind), {})


def _container_problems(container: Object, memory: str) -> Iterator[str]:
    name = container["name"]
    waiting = container.get("state", {}).get("waiting", {})
    ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated") or {}
    if "Image" in waiting.get("reason", ""):
        yield f"image {container['image']} can't be pulled: {waiting.get('message', waiting['reason'])}"
    elif waiting.get("reason") in {"CreateContainerConfigError", "CreateContainerError"}:
        yield f"container {name} can't be made: {waiting.get('message', waiting['reason'])}"
    elif ended.get("reason") == "OOMKilled":
        yield f"container {name} ran out of memory: its limit is {memory}"
    elif ended.get("exitCode") and not container.get("ready"):
        last_words = (ended.get("message") or ended.get("reason", "")).strip().splitlines()[-1:]
        what = "the model can't be fetched" if name == "storage-initializer" else "it crashes"
        yield f"{what}: container {name} ended with code {ended['exitCode']}: {''.join(last_words)}"
