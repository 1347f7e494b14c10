"""Every step of the compiled pipelines, seen as the pod that it becomes, fulfils the policies."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from policies import (
    Object,
    Policy,
    images_are_pinned,
    no_credential_is_written_out,
    resources_are_bounded,
    secrets_have_a_command_in_the_readme,
)

COMPILED = sorted((Path(__file__).parents[2] / "pipelines/compiled").glob("*.yaml"))
POLICIES = (
    images_are_pinned,
    resources_are_bounded,
    no_credential_is_written_out,
    secrets_have_a_command_in_the_readme,
)


def steps(file: Path) -> Iterator[tuple[str, Object, Object]]:
    """Yield the name of each executor, its container, and what the Kubernetes platform adds to it."""
    pipeline, platform = yaml.safe_load_all(file.read_text("utf-8"))
    added = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, executor in pipeline["deploymentSpec"]["executors"].items():
        if "container" in executor:  # an importer has none
            yield name, executor["container"], added.get(name, {})


def pod(name: str, container: Object, added: Object) -> Object:
    resources = {
        bound: {
            key: container["resources"][field]
            for key in ("cpu", "memory")
            if (field := f"resource{key.title()}{bound.title()[:-1]}") in container["resources"]
        }
        for bound in ("requests", "limits")
    }
    secrets = [
        {"name": key["envVar"], "valueFrom": {"secretKeyRef": {"name": one["secretName"], "key": key["secretKey"]}}}
        for one in added.get("secretAsEnv", [])
        for key in one["keyToEnv"]
    ]
    env = [*container.get("env", []), *secrets]
    spec = {"containers": [{**container, "name": name, "resources": resources, "env": env}]}
    return {"kind": "Pod", "metadata": {"name": name, "namespace": "kubeflow"}, "spec": spec}


STEPS = [pytest.param(step, id=f"{file.stem}-{step[0]}") for file in COMPILED for step in steps(file)]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
@pytest.mark.parametrize("step", STEPS)
def test_steps_fulfil_the_policies(step: tuple[str, Object, Object], policy: Policy) -> None:
    assert list(policy(pod(*step))) == []


def tagged_latest(container: Object, _: Object) -> None:
    container["image"] = "steelyard/base-python:latest"


def without_a_memory_limit(container: Object, _: Object) -> None:
    del container["resources"]["resourceMemoryLimit"]


def without_a_cpu_request(container: Object, _: Object) -> None:
    del container["resources"]["resourceCpuRequest"]


def with_a_key_written_out(container: Object, _: Object) -> None:
    container["env"].append({"name": "AWS_SECRET_ACCESS_KEY", "value": "minio123"})


def with_an_unknown_secret(_: Object, added: Object) -> None:
    added["secretAsEnv"][0]["secretName"] = "s3-credential"


def with_an_unknown_key(_: Object, added: Object) -> None:
    added["secretAsEnv"][0]["keyToEnv"][0]["secretKey"] = "accesskey"


@pytest.mark.parametrize(
    ("policy", "mutate"),
    [
        (images_are_pinned, tagged_latest),
        (resources_are_bounded, without_a_memory_limit),
        (resources_are_bounded, without_a_cpu_request),
        (no_credential_is_written_out, with_a_key_written_out),
        (secrets_have_a_command_in_the_readme, with_an_unknown_secret),
        (secrets_have_a_command_in_the_readme, with_an_unknown_key),
    ],
    ids=lambda value: value.__name__,
)
def test_a_policy_refuses_a_step_that_breaks_it(policy: Policy, mutate: Callable[[Object, Object], None]) -> None:
    name, container, added = next(steps(COMPILED[0]))
    assert not list(policy(pod(name, container, added)))
    mutate(container, added)
    assert list(policy(pod(name, container, added)))
