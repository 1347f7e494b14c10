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

ALTERED = "steelyard-e2e/altered"


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
    with platform.tracking() as uri, altered(uri, tmp_path) as version:
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
    store = ObjectStore.from_environment(os.environ)
    assert store is not None
    tracking = Tracking(tracking_uri)
    store.download(tracking.registered(CLIENT).storage_uri, folder / "model")
    smoke_test = SmokeTest.read(folder / "model")
    probabilities_NC = smoke_test.probabilities_NC.copy()
    probabilities_NC[0, 0] = np.nextafter(probabilities_NC[0, 0], np.float32(1))
    SmokeTest(images_NHWC=smoke_test.images_NHWC, probabilities_NC=probabilities_NC).write(folder / "model")
    bundle = ModelBundle(folder / "model")
    bundle.index.model_copy(update={"files": dict(checksums(folder / "model"))}).write(folder / "model/bundle.json")
    for path in (path for path in bundle.folder.rglob("*") if path.is_file()):
        minio().fput_object(BUCKET, f"{ALTERED}/{path.relative_to(bundle.folder).as_posix()}", str(path))
    try:
        yield tracking.register(CLIENT, ModelBundle(bundle.folder), f"s3://{BUCKET}/{ALTERED}")
    finally:
        remove_objects(ALTERED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Altered(InferenceService):
    """An InferenceService with something wrong in it."""

    alter: Callable[[Object], None]

    def manifest(self) -> Object:
        manifest = InferenceService.manifest(self)
        self.alter(manifest["spec"]["predictor"])
        return manifest


def starved(predictor: Object) -> None:
    predictor["containers"][0]["resources"]["limits"]["memory"] = "48Mi"
    predictor["containers"][0]["resources"]["requests"]["memory"] = "48Mi"


def with_many_gpus(predictor: Object) -> None:
    predictor["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = "64"


def with_fewer_than_none(predictor: Object) -> None:
    predictor |= {"minReplicas": 5, "maxReplicas": 3}


def nothing(predictor: Object) -> None: ...


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "e2e-image": ({"image_tag": "no-such-tag"}, "predictor:no-such-tag can't be pulled: "),
    "e2e-memory": ({"alter": starved}, "container kserve-container ran out of memory: its limit is 48Mi"),
    "e2e-address": ({"storage_uri": "s3://mlpipeline/nothing-here"}, "the model can't be fetched: "),
    "e2e-gpu": (
        {"alter": with_many_gpus},
        "no node takes its pod: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu",
    ),
}


def test_each_reason_for_not_being_ready_is_one_sentence(platform: Platform, runs: Runs) -> None:
    """All at once: none of them ever becomes ready."""
    assert runs.finished_main
    good = in_place(platform)[1]
    services = {
        name: _broken(platform, name, **{"storage_uri": good} | changes) for name, (changes, _) in BROKEN.items()
    }
    try:
        for service in services.values():
            apply(service, platform.api)
        for name, (_, sentence) in BROKEN.items():
            reasons: set[str] = set()

            def seen(service: InferenceService = services[name], sentence: str = sentence) -> bool:
                reasons.add(why_not_ready(service, platform.api))  # noqa: B023
                return any(sentence in reason for reason in reasons)  # noqa: B023

            wait_for(seen, 120, f"{sentence!r} among {reasons}")
            assert not any("\n" in reason for reason in reasons)
    finally:
        for service in services.values():
            delete(service, platform.api)


def test_a_webhook_s_refusal_is_told_in_its_words(platform: Platform, runs: Runs) -> None:
    assert runs.finished_main
    service = _broken(platform, "e2e-refused", storage_uri="s3://mlpipeline/any", alter=with_fewer_than_none)
    with pytest.raises(ClusterRefused, match="denied the request: .*cannot be greater than MaxReplicas"):
        apply(service, platform.api)


def _broken(platform: Platform, name: str, **changes: Any) -> Altered:
    images = {"image_prefix": platform.images.prefix, "image_tag": platform.images.tag}
    return Altered(**{"name": name, "namespace": SERVING, "alter": nothing} | images | changes)
