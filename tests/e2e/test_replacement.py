"""`steelyard deploy` against a real KServe."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from e2e_platform import BUCKET, SERVING, Platform, kubectl, minio, remove_objects, wait_for
from e2e_runs import CLIENT, Runs
from mlflow import MlflowClient

from components.cluster.api import ClusterRefused, Object
from components.cluster.inference_service import InferenceService, apply, delete, why_not_ready
from steelyard.bundle import ModelBundle, checksums
from steelyard.smoke_test import SmokeTest
from steelyard.store import ObjectStore
from steelyard.tracking.tracking import Tracking


def deploy(platform: Platform, uri: str, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pipelines", "deploy", CLIENT, "--image-prefix", platform.images.prefix]
    command += ["--image-tag", platform.images.tag, "--timeout", "120", *words]
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def in_place(platform: Platform) -> tuple[int, str, set[str]]:
    """Return the generation, the model's address and the pods of the first client's service."""
    found = json.loads(kubectl("-n", SERVING, "get", "inferenceservice", CLIENT, "-o=json"))
    variables = found["spec"]["predictor"]["containers"][0]["env"]
    (uri,) = (variable["value"] for variable in variables if variable["name"] == "STORAGE_URI")
    return found["metadata"]["generation"], uri, {pod["metadata"]["uid"] for pod in platform.predictor_pods(CLIENT)}


def test_deploying_the_same_again_changes_nothing(platform: Platform, runs: Runs) -> None:
    assert runs.finished_main
    before = in_place(platform)
    with platform.tracking() as uri:
        done = deploy(platform, uri)
    assert done.returncode == 0, done.stderr
    assert "is in place already" in done.stderr
    assert "16 held-out images are answered as offline, bit for bit" in done.stderr
    assert done.stdout.strip() == f"http://{CLIENT}-predictor.{SERVING}.svc.cluster.local"
    assert in_place(platform) == before


def test_a_model_that_fails_its_smoke_test_leaves_the_previous_one_serving(
    platform: Platform, runs: Runs, mlflow: MlflowClient, tmp_path: Path
) -> None:
    assert runs.finished_main
    before, champion = in_place(platform), mlflow.get_model_version_by_alias(CLIENT, "champion").version
    with platform.tracking() as uri, altered(uri, tmp_path / "model") as version:
        done = deploy(platform, uri, "--version", str(version))
        found = mlflow.get_model_version(CLIENT, str(version))
    assert done.returncode == 1
    assert "error: 1 of 16 held-out images are answered otherwise than offline" in done.stderr
    assert found.tags["deployment"].startswith("failed: 1 of 16 held-out images")
    assert mlflow.get_model_version_by_alias(CLIENT, "champion").version == champion
    assert in_place(platform) == before
    wait_for(lambda: not platform.predictor_pods(f"{CLIENT}-trial"), 60, "the end of the trial")


@contextmanager
def altered(tracking_uri: str, folder: Path) -> Iterator[int]:
    """Register a copy of the first client's model that expects another answer, and yield its version."""
    tracking = Tracking(tracking_uri)
    fetch(tracking.registered(CLIENT).storage_uri, folder)
    smoke_test = SmokeTest.read(folder)
    probabilities_NC = smoke_test.answers.copy()
    probabilities_NC[0, 0] = np.nextafter(probabilities_NC[0, 0], np.float32(1))
    SmokeTest(images_NHWC=smoke_test.images_NHWC, answers=probabilities_NC).write(folder)
    ModelBundle(folder).index.model_copy(update={"files": dict(checksums(folder))}).write(folder / "bundle.json")
    with uploaded(folder, "steelyard-e2e/altered") as address:
        yield tracking.register(CLIENT, ModelBundle(folder), address)


def fetch(address: str, folder: Path) -> None:
    store = ObjectStore.from_environment(os.environ)
    assert store is not None
    for name, _ in store.walk(address):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(store.read(f"{address}/{name}"))


@contextmanager
def uploaded(folder: Path, prefix: str) -> Iterator[str]:
    """Put a folder into the object store for a while, and yield its address."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        minio().fput_object(BUCKET, f"{prefix}/{path.relative_to(folder).as_posix()}", str(path))
    try:
        yield f"s3://{BUCKET}/{prefix}"
    finally:
        remove_objects(prefix)


@dataclass(frozen=True, slots=True, kw_only=True)
class Altered(InferenceService):
    """An InferenceService with something wrong in it."""

    alter: Callable[[Object], None]

    def manifest(self) -> Object:
        manifest = InferenceService.manifest(self)
        self.alter(manifest["spec"]["predictor"])
        return manifest


def starved(predictor: Object) -> None:
    """By one large allocation: a program that is merely too large may thrash for minutes before it is killed."""
    predictor["containers"][0]["command"] = ["python", "-c", "b'x' * 2**29"]
    predictor["containers"][0]["resources"] = {
        bound: {"cpu": "50m", "memory": "128Mi"} for bound in ("requests", "limits")
    }


def with_many_gpus(predictor: Object) -> None:
    predictor["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = "64"


def with_fewer_than_none(predictor: Object) -> None:
    predictor |= {"minReplicas": 5, "maxReplicas": 3}


def nothing(predictor: Object) -> None: ...


CHANGED = "steelyard-e2e/changed"
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "e2e-image": ({"image_tag": "no-such-tag"}, ":no-such-tag can't be pulled: "),
    "e2e-memory": ({"alter": starved}, "container kserve-container ran out of memory: its limit is 128Mi"),
    "e2e-address": ({"storage_uri": "s3://mlpipeline/nothing-here"}, "the model can't be fetched: "),
    "e2e-changed": ({"storage_uri": f"s3://{BUCKET}/{CHANGED}"}, "differs from the checksum in bundle.json"),
    "e2e-gpu": (
        {"alter": with_many_gpus},
        "no node takes its pod: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu",
    ),
}


def test_each_reason_for_not_being_ready_is_one_sentence(platform: Platform, runs: Runs, tmp_path: Path) -> None:
    """All at once: none of them ever becomes ready."""
    assert runs.finished_main
    good = in_place(platform)[1]
    fetch(good, tmp_path / "model")
    with (tmp_path / "model/1/model.onnx").open("ab") as model:
        model.write(b"!")
    services = [_broken(platform, name, **{"storage_uri": good} | changes) for name, (changes, _) in BROKEN.items()]
    try:
        with uploaded(tmp_path / "model", CHANGED):
            for service in services:
                apply(service, platform.api)
            for service in services:
                _wait_for_the_reason(platform, service, BROKEN[service.name][1])
    finally:
        for service in services:
            delete(service, platform.api)


def _wait_for_the_reason(platform: Platform, service: InferenceService, sentence: str) -> None:
    reasons: set[str] = set()

    def told() -> bool:
        reasons.add(why_not_ready(service, platform.api))
        return any(sentence in reason for reason in reasons)

    try:
        wait_for(told, 120, f"{sentence!r} from {service.name}")
    except AssertionError as error:
        raise AssertionError(f"{error}; it said {reasons}") from None
    assert not any("\n" in reason for reason in reasons)


def test_a_webhook_s_refusal_is_told_in_its_words(platform: Platform, runs: Runs) -> None:
    assert runs.finished_main
    service = _broken(platform, "e2e-refused", storage_uri="s3://mlpipeline/any", alter=with_fewer_than_none)
    with pytest.raises(ClusterRefused, match=r"denied the request: .*cannot be greater than MaxReplicas"):
        apply(service, platform.api)


def _broken(platform: Platform, name: str, **changes: Any) -> Altered:
    images = {"image_prefix": platform.images.prefix, "image_tag": platform.images.tag}
    return Altered(**{"name": name, "namespace": SERVING, "alter": nothing} | images | changes)
