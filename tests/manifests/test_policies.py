"""Every manifest fulfils every policy, and every policy refuses a manifest that breaks it."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from policies import (
    POLICIES,
    Object,
    Policy,
    containers,
    fields_are_known,
    images_are_pinned,
    kserve_container_stands_first,
    labels_are_standard,
    no_credential_is_written_out,
    pod_specs,
    pods_meet_the_restricted_standard,
    pods_write_only_to_volumes_and_hold_no_token,
    probes_stand_where_they_belong,
    quantities_are_written_as_such,
    resources_are_bounded,
    rights_name_what_they_allow,
    secrets_have_a_command_in_the_readme,
    telemetry_is_off,
)

from components.cluster.inference_service import InferenceService

RENDERED = Path(__file__).parents[2] / "manifests/rendered"
SERVICE = InferenceService(
    name="acme",
    namespace="steelyard",
    storage_uri="s3://models/acme/42",
    image_prefix="steelyard",
    image_tag="0.1.0",
).manifest()


def objects(overlay: str) -> list[Object]:
    return list(yaml.safe_load_all((RENDERED / f"{overlay}.yaml").read_text(encoding="utf-8")))


def everything() -> Iterator[tuple[str, Object]]:
    yield "template", SERVICE
    for file in sorted(RENDERED.glob("*.yaml")):
        yield from ((file.stem, found) for found in objects(file.stem))


EVERYTHING = [
    pytest.param(found, id=f"{where}-{found['kind']}-{found['metadata']['name']}") for where, found in everything()
]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
@pytest.mark.parametrize("found", EVERYTHING)
def test_manifests_fulfil_the_policies(found: Object, policy: Policy) -> None:
    assert list(policy(found)) == []


@pytest.mark.parametrize("overlay", ["local", "production"])
def test_an_overlay_holds_pods_and_denies_all_traffic_that_it_does_not_name(overlay: str) -> None:
    found = objects(overlay)
    assert [pod for one in found for pod in pod_specs(one)]
    (deny,) = [one for one in found if one["metadata"]["name"] == "default-deny"]
    assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize("overlay", ["local", "production"])
def test_pipelines_may_only_handle_inference_services_and_look(overlay: str) -> None:
    (role,) = [one for one in objects(overlay) if one["kind"] == "Role"]
    look = {"get", "list", "watch"}
    assert {name: set(rule["verbs"]) for rule in role["rules"] for name in rule["resources"]} == {
        "inferenceservices": look | {"create", "patch", "delete"},
        "deployments": look,
        "pods": look,
        "events": look,
    }


@pytest.mark.parametrize("overlay", ["local", "production"])
def test_restricted_pod_security_is_enforced(overlay: str) -> None:
    (namespace,) = [one for one in objects(overlay) if one["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_pipeline_s_steps_reach_what_they_ask() -> None:
    kubeflow = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kubeflow"}}}
    named = {one["metadata"]["name"]: one["spec"] for one in objects("production") if one["kind"] == "NetworkPolicy"}
    assert all(kubeflow in named[name]["ingress"][0]["from"] for name in ("serving", "mlflow"))


def main(found: Object) -> Object:
    return next(container for _, container in containers(found))


def as_root(found: Object) -> None:
    main(found)["securityContext"]["runAsUser"] = 0


def allowing_root(found: Object) -> None:
    del next(pod_specs(found))["securityContext"]["runAsNonRoot"]


def with_capabilities(found: Object) -> None:
    main(found)["securityContext"]["capabilities"] = {}


def with_escalation(found: Object) -> None:
    del main(found)["securityContext"]["allowPrivilegeEscalation"]


def without_seccomp(found: Object) -> None:
    del next(pod_specs(found))["securityContext"]["seccompProfile"]


def on_the_host_network(found: Object) -> None:
    next(pod_specs(found))["hostNetwork"] = True


def with_a_folder_of_the_host(found: Object) -> None:
    next(pod_specs(found))["volumes"].append({"name": "host", "hostPath": {"path": "/"}})


def with_a_root_init_container(found: Object) -> None:
    next(pod_specs(found))["initContainers"] = [{"name": "init", "image": "busybox:1"}]


def with_a_writable_root(found: Object) -> None:
    main(found)["securityContext"]["readOnlyRootFilesystem"] = False


def with_a_token(found: Object) -> None:
    del next(pod_specs(found))["automountServiceAccountToken"]


def with_an_unknown_volume(found: Object) -> None:
    main(found)["volumeMounts"][0]["name"] = "dirft"


def tagged_latest(found: Object) -> None:
    main(found)["image"] = "steelyard/predictor:latest"


def untagged_at_a_port(found: Object) -> None:
    main(found)["image"] = "registry.example.com:5000/steelyard/predictor"


def without_a_memory_limit(found: Object) -> None:
    del main(found)["resources"]["limits"]["memory"]


def without_a_cpu_request(found: Object) -> None:
    del main(found)["resources"]["requests"]["cpu"]


def without_readiness(found: Object) -> None:
    del main(found)["readinessProbe"]


def with_a_bare_tcp_probe(found: Object) -> None:
    main(found)["livenessProbe"] = {"tcpSocket": {"port": 8080}}


def without_a_label(found: Object) -> None:
    del found["metadata"]["labels"]["app.kubernetes.io/part-of"]


def with_a_key_written_out(found: Object) -> None:
    main(found)["env"].append({"name": "AWS_SECRET_ACCESS_KEY", "value": "minio123"})


def with_a_password_in_an_address(found: Object) -> None:
    main(found)["env"][0]["value"] = "postgresql://mlflow:mlflow@db:5432/mlflow"


def with_a_token_argument(found: Object) -> None:
    main(found)["args"] = ["--api-token=abc"]


def with_an_unknown_secret(found: Object) -> None:
    secret = {"name": "s3-credential", "key": "AWS_ACCESS_KEY_ID"}
    main(found)["env"].append({"name": "AWS_ACCESS_KEY_ID", "valueFrom": {"secretKeyRef": secret}})


def with_telemetry(found: Object) -> None:
    main(found)["env"] = [v for v in main(found)["env"] if v["name"] != "DO_NOT_TRACK"]


def with_a_misspelt_field(found: Object) -> None:
    main(found)["readynessProbe"] = main(found).pop("readinessProbe")


def with_a_number_for_a_text(found: Object) -> None:
    main(found)["env"][0]["value"] = 1


def with_a_port_without_its_number(found: Object) -> None:
    del main(found)["ports"][0]["containerPort"]


def with_a_misspelt_quantity(found: Object) -> None:
    main(found)["resources"]["limits"]["memory"] = "2Gigs"


def with_a_misspelt_pod_field(found: Object) -> None:
    next(pod_specs(found))["serviceAcountName"] = "serving"


def with_a_misspelt_part(found: Object) -> None:
    found["spec"]["tranformer"] = {}


def with_a_misspelt_predictor_field(found: Object) -> None:
    found["spec"]["predictor"]["minReplica"] = found["spec"]["predictor"].pop("minReplicas")


def with_the_sidecar_first(found: Object) -> None:
    found["spec"]["predictor"]["containers"].reverse()


def with_a_probe_on_the_sidecar(found: Object) -> None:
    first, second = found["spec"]["predictor"]["containers"]
    second["readinessProbe"] = first["readinessProbe"]


def allowing_everything(found: Object) -> None:
    found["rules"][0]["verbs"] = ["*"]


def reading_secrets(found: Object) -> None:
    found["rules"][2]["resources"].append("secrets")


POD_MUTATIONS: list[tuple[Policy, Callable[[Object], None]]] = [
    (pods_meet_the_restricted_standard, as_root),
    (pods_meet_the_restricted_standard, allowing_root),
    (pods_meet_the_restricted_standard, with_capabilities),
    (pods_meet_the_restricted_standard, with_escalation),
    (pods_meet_the_restricted_standard, without_seccomp),
    (pods_meet_the_restricted_standard, on_the_host_network),
    (pods_meet_the_restricted_standard, with_a_folder_of_the_host),
    (pods_meet_the_restricted_standard, with_a_root_init_container),
    (pods_write_only_to_volumes_and_hold_no_token, with_a_writable_root),
    (pods_write_only_to_volumes_and_hold_no_token, with_a_token),
    (pods_write_only_to_volumes_and_hold_no_token, with_an_unknown_volume),
    (images_are_pinned, tagged_latest),
    (images_are_pinned, untagged_at_a_port),
    (resources_are_bounded, without_a_memory_limit),
    (resources_are_bounded, without_a_cpu_request),
    (probes_stand_where_they_belong, without_readiness),
    (probes_stand_where_they_belong, with_a_bare_tcp_probe),
    (labels_are_standard, without_a_label),
    (no_credential_is_written_out, with_a_key_written_out),
    (no_credential_is_written_out, with_a_password_in_an_address),
    (no_credential_is_written_out, with_a_token_argument),
    (secrets_have_a_command_in_the_readme, with_an_unknown_secret),
    (telemetry_is_off, with_telemetry),
    (fields_are_known, with_a_misspelt_field),
    (fields_are_known, with_a_misspelt_pod_field),
    (fields_are_known, with_a_number_for_a_text),
    (fields_are_known, with_a_port_without_its_number),
    (quantities_are_written_as_such, with_a_misspelt_quantity),
]


def refused(policy: Policy, mutate: Callable[[Object], None], found: Object) -> bool:
    broken = copy.deepcopy(found)
    mutate(broken)
    return bool(list(policy(broken))) and not list(policy(found))


def names(value: object) -> str | None:
    return getattr(value, "__name__", None)


@pytest.mark.parametrize("kind", ["InferenceService", "Deployment"])
@pytest.mark.parametrize(("policy", "mutate"), POD_MUTATIONS, ids=names)
def test_a_policy_refuses_a_pod_that_breaks_it(kind: str, policy: Policy, mutate: Callable[[Object], None]) -> None:
    deployment = next(found for found in objects("local") if found["kind"] == "Deployment")
    assert refused(policy, mutate, SERVICE if kind == "InferenceService" else deployment)


@pytest.mark.parametrize(
    ("policy", "mutate"),
    [
        (kserve_container_stands_first, with_the_sidecar_first),
        (probes_stand_where_they_belong, with_a_probe_on_the_sidecar),
        (fields_are_known, with_a_misspelt_part),
        (fields_are_known, with_a_misspelt_predictor_field),
    ],
    ids=names,
)
def test_a_policy_refuses_an_inference_service_that_breaks_it(policy: Policy, mutate: Callable[[Object], None]) -> None:
    assert refused(policy, mutate, SERVICE)


def test_a_deployment_without_a_selector_is_refused() -> None:
    deployment = next(found for found in objects("local") if found["kind"] == "Deployment")
    assert refused(fields_are_known, lambda found: found["spec"].pop("selector"), deployment)


@pytest.mark.parametrize("mutate", [allowing_everything, reading_secrets], ids=names)
def test_rights_that_reach_too_far_are_refused(mutate: Callable[[Object], None]) -> None:
    assert refused(
        rights_name_what_they_allow, mutate, next(found for found in objects("local") if found["kind"] == "Role")
    )
