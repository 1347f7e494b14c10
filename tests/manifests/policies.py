"""What every manifest must fulfil. A policy takes one object and yields a sentence for each violation.

Fields are compared with the models of the Kubernetes and KServe clients, so a misspelt one is found without a cluster.
"""

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes.client

Object = dict[str, Any]
Policy = Callable[[Object], Iterator[str]]

# The Pod Security Standard "restricted", https://kubernetes.io/docs/concepts/security/pod-security-standards/
RESTRICTED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
LABELS = {f"app.kubernetes.io/{name}" for name in ("name", "part-of")}
QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?")
CREDENTIAL = re.compile(r"(?i)(password|passwd|secret|token|credential|access_?key|api_?key)")
CREDENTIAL_IN_URL = re.compile(r"://[^/\s:@]+:[^/\s@]+@")
README = Path(__file__).parents[2] / "manifests/README.md"
NEW_SECRET = re.compile(r"kubectl -n (\S+) create secret generic (\S+)((?:.*\\\n)+.*)")
SECRETS = {
    (namespace, name, key)
    for namespace, name, options in NEW_SECRET.findall(README.read_text("utf-8"))
    for key in re.findall(r"--from-literal=([\w-]+)=", options)
}
PLAIN = {"str": {str}, "int": {int}, "bool": {bool}, "float": {int, float}, "datetime": {str}}


def pod_specs(found: Object) -> Iterator[Object]:
    """Yield the pod specs of an object, an InferenceService's predictor included."""
    spec = found.get("spec", {})
    match found["kind"]:
        case "Pod":
            yield spec
        case "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job":
            yield spec["template"]["spec"]
        case "CronJob":
            yield spec["jobTemplate"]["spec"]["template"]["spec"]
        case "InferenceService":
            yield from (spec[part] for part in ("predictor", "transformer", "explainer") if part in spec)


def containers(found: Object) -> Iterator[tuple[Object, Object]]:
    """Yield each container with its pod spec."""
    for pod in pod_specs(found):
        for kind in ("initContainers", "containers", "ephemeralContainers"):
            yield from ((pod, container) for container in pod.get(kind, []))


def pods_meet_the_restricted_standard(found: Object) -> Iterator[str]:
    for pod in pod_specs(found):
        yield from (f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key))
        for volume in pod.get("volumes", []):
            yield from (f"volume of kind {key}" for key in volume.keys() - {"name"} - RESTRICTED_VOLUMES)
        yield from (f"sysctl {s['name']}" for s in pod.get("securityContext", {}).get("sysctls", []))
    for pod, container in containers(found):
        yield from (f"{container['name']}: {problem}" for problem in _unrestricted(pod, container))


def _unrestricted(pod: Object, container: Object) -> Iterator[str]:
    own = container.get("securityContext", {})
    both = pod.get("securityContext", {}) | own
    capabilities = own.get("capabilities", {})
    if own.get("privileged"):
        yield "is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if both.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if both.get("runAsUser") == 0:
        yield "runs as root"
    if both.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"}:
        yield "has no seccomp profile"
    if "ALL" not in capabilities.get("drop", []):
        yield "does not drop ALL capabilities"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "adds capabilities"
    if own.get("procMount", "Default") != "Default":
        yield "has another procMount"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "takes a port of the host"


def pods_write_only_to_volumes_and_hold_no_token(found: Object) -> Iterator[str]:
    for pod, container in containers(found):
        if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
            yield f"{container['name']}: root file system is writable"
        if pod.get("automountServiceAccountToken") is not False:
            yield f"{container['name']}: gets a service account's token"
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        unknown = {mount["name"] for mount in container.get("volumeMounts", [])} - volumes
        yield from (f"{container['name']}: mounts {name}, which is no volume" for name in unknown)


def images_are_pinned(found: Object) -> Iterator[str]:
    for _, container in containers(found):
        image = container.get("image", "")
        tag = image.rpartition("/")[2].partition(":")[2]
        if "@sha256:" not in image and tag in {"", "latest"}:
            yield f"{container['name']}: image {image!r} names no version"


def resources_are_bounded(found: Object) -> Iterator[str]:
    for _, container in containers(found):
        for bound in ("requests", "limits"):
            missing = {"cpu", "memory"} - container.get("resources", {}).get(bound, {}).keys()
            yield from (f"{container['name']}: no {bound} of {name}" for name in missing)


def quantities_are_written_as_such(found: Object) -> Iterator[str]:
    for _, container in containers(found):
        for bound, quantities in container.get("resources", {}).items():
            wrong = {name: text for name, text in quantities.items() if not QUANTITY.fullmatch(str(text))}
            yield from (f"{container['name']}: {bound} of {name} is {text!r}" for name, text in wrong.items())


def probes_stand_where_they_belong(found: Object) -> Iterator[str]:
    for pod in pod_specs(found):
        sidecars = pod["containers"][1:] if found["kind"] == "InferenceService" else []
        for container in pod["containers"]:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if container in sidecars:
                    if probe in container:
                        yield f"{container['name']}: a {probe} of a sidecar can take the predictor out of service"
                elif "httpGet" not in container.get(probe, {}) and found["kind"] in {"Deployment", "InferenceService"}:
                    yield f"{container['name']}: no {probe} over HTTP"


def labels_are_standard(found: Object) -> Iterator[str]:
    wanted = set(LABELS)
    if found["kind"] == "InferenceService":
        wanted |= {f"app.kubernetes.io/{name}" for name in ("instance", "component", "version", "managed-by")}
    missing = wanted - found["metadata"].get("labels", {}).keys()
    yield from (f"no label {name}" for name in sorted(missing))


def no_credential_is_written_out(found: Object) -> Iterator[str]:
    if found["kind"] == "Secret":
        yield "a Secret does not belong here"
    for text in _strings(found):
        if CREDENTIAL_IN_URL.search(text):
            yield f"{text!r} holds a password"
    for _, container in containers(found):
        for variable in container.get("env", []):
            if CREDENTIAL.search(variable["name"]) and "value" in variable:
                yield f"{container['name']}: {variable['name']} is written out"
        for argument in [*container.get("command", []), *container.get("args", [])]:
            if re.match(r"--?\S*" + CREDENTIAL.pattern.removeprefix("(?i)") + r"\S*=", argument, re.IGNORECASE):
                yield f"{container['name']}: {argument.partition('=')[0]} is written out"


def secrets_have_a_command_in_the_readme(found: Object) -> Iterator[str]:
    for _, container in containers(found):
        for variable in container.get("env", []):
            wanted = variable.get("valueFrom", {}).get("secretKeyRef")
            if wanted and (found["metadata"]["namespace"], wanted["name"], wanted["key"]) not in SECRETS:
                yield f"{container['name']}: nobody makes the secret {wanted['name']} with {wanted['key']}"


def _strings(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _strings(value)
    elif isinstance(node, str):
        yield node


def kserve_container_stands_first(found: Object) -> Iterator[str]:
    if found["kind"] == "InferenceService":
        names = [container["name"] for container in found["spec"]["predictor"]["containers"]]
        if names[0] != "kserve-container":
            yield f"{names[0]} stands first; KServe makes no Deployment unless kserve-container does"


def telemetry_is_off(found: Object) -> Iterator[str]:
    for _, container in containers(found):
        values = {variable["name"]: variable.get("value") for variable in container.get("env", [])}
        if values.get("DO_NOT_TRACK") != "true":
            yield f"{container['name']}: DO_NOT_TRACK is not true"


def rights_name_what_they_allow(found: Object) -> Iterator[str]:
    if found["kind"] in {"ClusterRole", "ClusterRoleBinding"}:
        yield "reaches beyond its namespace"
    for rule in found.get("rules", []) or []:
        if "*" in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]:
            yield "allows '*'"
        if "secrets" in rule["resources"]:
            yield "allows to read secrets"


def fields_are_known(found: Object) -> Iterator[str]:
    """Compare fields, what is required of them, and types with the models of the Kubernetes and KServe clients.

    The models know no enumerations and no formats; those are the API server's to refuse, in the tests on a cluster.

    KServe's models are those of 0.21; 0.20 does not know `tracing`, `schedulingGroup` and `ephemeralContainers` yet.
    """
    version = found["apiVersion"].rpartition("/")[2]
    yield from _unknown(found, f"{version.capitalize()}{found['kind']}", found["kind"])


def _unknown(node: Any, kind: str, path: str) -> Iterator[str]:
    inner = re.fullmatch(r"(list|dict)[\[(](?:str, )?(.+)[\])]", kind)
    if inner:
        if not isinstance(node, list if inner[1] == "list" else dict):
            yield f"{path} is no {inner[1]}"
        else:
            items = enumerate(node) if isinstance(node, list) else node.items()
            for key, value in items:
                yield from _unknown(value, inner[2], f"{path}.{key}")
    elif kind in PLAIN:
        if type(node) not in PLAIN[kind]:
            yield f"{path} is {node!r}, which is no {kind}"
    elif kind != "object":
        fields = _fields(kind)
        if not fields:
            yield f"{path} is a {kind}, whose fields neither client knows"
        elif not isinstance(node, dict):
            yield f"{path} is {node!r}, which is no {kind}"
        else:
            yield from (f"{path}.{key} is unknown" for key in node.keys() - fields)
            yield from (f"{path}.{key} is missing" for key in _required(kind) - node.keys())
            for key in node.keys() & fields:
                yield from _unknown(node[key], fields[key], f"{path}.{key}")


@cache
def _model(kind: str) -> Any:
    """Return a model's class; None where no client has it."""
    if found := getattr(kubernetes.client, kind, None):
        return found
    import kserve.models  # takes seconds

    return getattr(kserve.models, kind, None)


@cache
def _fields(kind: str) -> dict[str, str]:
    """Return the fields of a model and their kinds."""
    model = _model(kind)
    return {name: model.openapi_types[key] for key, name in model.attribute_map.items()} if model else {}


@cache
def _required(kind: str) -> set[str]:
    """The generated models refuse None for what is required."""
    model, required = _model(kind), set()
    empty = model.__new__(model)
    empty.local_vars_configuration = kubernetes.client.Configuration()
    for attribute, name in model.attribute_map.items():
        try:
            setattr(empty, attribute, None)
        except ValueError:
            required.add(name)
    return required


POLICIES: tuple[Policy, ...] = (
    pods_meet_the_restricted_standard,
    pods_write_only_to_volumes_and_hold_no_token,
    images_are_pinned,
    resources_are_bounded,
    quantities_are_written_as_such,
    probes_stand_where_they_belong,
    labels_are_standard,
    no_credential_is_written_out,
    secrets_have_a_command_in_the_readme,
    kserve_container_stands_first,
    telemetry_is_off,
    rights_name_what_they_allow,
    fields_are_known,
)
