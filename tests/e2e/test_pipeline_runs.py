"""The compiled pipeline on a real Kubeflow Pipelines backend."""

import io
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from e2e_platform import (
    BUCKET,
    KFP,
    SERVING,
    Platform,
    exists,
    forwarded,
    kubectl,
    minio,
    remove_objects,
    run_python,
    wait_for,
)
from e2e_runs import CLIENT, DEMANDING_CONTRACT, SECOND_CLIENT, Runs, patient_params
from metadata import Output, outputs
from mlflow import MlflowClient
from PIL import Image

from components.cluster.api import request
from components.cluster.tasks import Task, list_tasks
from steelyard.store import ObjectStore

GPU = "nvidia.com/gpu"


def trainings(mlflow: MlflowClient) -> list[Any]:
    experiment = mlflow.get_experiment_by_name("steelyard").experiment_id
    return list(mlflow.search_runs([experiment], "tags.stage = 'training'"))


def tasks(platform: Platform, run_id: str, name: str) -> list[Task]:
    return [task for task in list_tasks(platform.api, KFP, run_id) if task.name.startswith(name)]


def running(platform: Platform, run_id: str, name: str) -> Task:
    """Wait until a task's program runs and return it."""

    def look() -> list[Task]:
        return [task for task in tasks(platform, run_id, name) if task.phase == "Running"]

    found: list[Task] = wait_for(look, 300, f"{name} to run")
    return found[0]


def test_the_pods_of_a_run_are_bounded_and_run_as_nobody(platform: Platform, runs: Runs) -> None:
    task = running(platform, runs.main, "train-candidate")
    assert run_python(KFP, task.pod, "main", "import os; print(os.getuid())").strip() == "65532"
    (pod,) = [pod for pod in platform.pods(KFP, f"pipeline/runid={runs.main}") if pod["metadata"]["name"] == task.pod]
    (main,) = [container for container in pod["spec"]["containers"] if container["name"] == "main"]
    assert main["image"] == platform.images.train
    assert all({"cpu", "memory"} <= main["resources"][bound].keys() for bound in ("requests", "limits"))
    assert not main.get("securityContext", {}).get("privileged")
    assert not [volume for volume in pod["spec"]["volumes"] if "hostPath" in volume]
    (shared,) = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "dshm"]
    assert shared["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}
    assert pod["spec"]["serviceAccountName"] == "pipeline-runner"


def test_a_gpu_training_waits_with_its_reason_and_runs_where_a_node_offers_one(platform: Platform, runs: Runs) -> None:
    assert runs.finished_main  # its trainings need the room

    def reason() -> str:
        return next((task.reason for task in tasks(platform, runs.gpu, "train-candidate")), "")

    assert "didn't match Pod's node affinity/selector" in wait_for(reason, 300, "a Pending training")
    with labelled(f"{GPU}.present=true") as node:
        wait_for(lambda: f"Insufficient {GPU}" in reason(), 60, "the lack of a GPU to be told")
        with offering_a_gpu(platform, node):
            assert running(platform, runs.gpu, "train-candidate")
            platform.kfp.terminate_run(runs.gpu)


@contextmanager
def labelled(label: str) -> Iterator[str]:
    node = kubectl("get", "nodes", "-o=jsonpath={.items[0].metadata.name}")
    kubectl("label", "node", node, label)
    try:
        yield node
    finally:
        kubectl("label", "node", node, f"{label.partition('=')[0]}-")


@contextmanager
def offering_a_gpu(platform: Platform, node: str) -> Iterator[None]:
    """Advertise an extended resource, as the documentation of Kubernetes tells administrators to."""
    path = f"/api/v1/nodes/{node}/status"
    at = {"path": f"/status/capacity/{GPU.replace('/', '~1')}"}
    request(platform.api, "PATCH", path, (), [at | {"op": "add", "value": "1"}], "application/json-patch+json")
    try:
        yield
    finally:
        request(platform.api, "PATCH", path, (), [at | {"op": "remove"}], "application/json-patch+json")


def test_the_winner_of_a_run_with_a_broken_candidate_is_registered_and_serves(
    platform: Platform, runs: Runs, mlflow: MlflowClient
) -> None:
    assert runs.finished_main
    version = mlflow.get_model_version_by_alias(CLIENT, "champion")
    assert version.version == mlflow.get_model_version_by_alias(CLIENT, "challenger").version
    assert (version.tags["candidate"], version.tags["deployment"]) == ("tiny-cnn", "serves")
    assert version.tags["storage_uri"].startswith("s3://mlpipeline/")
    assert exists("-n", SERVING, "inferenceservice", CLIENT)
    assert not exists("-n", SERVING, "inferenceservice", f"{CLIENT}-trial")
    failures = [run.data.tags["failure"] for run in trainings(mlflow) if "failure" in run.data.tags]
    assert failures
    assert all("the loss became" in failure for failure in failures)


@pytest.fixture
def shown(platform: Platform, runs: Runs) -> list[Output]:
    """What the Kubeflow UI has to show of the first run."""
    target, port = "service/metadata-grpc-service", 8080
    address = kubectl("-n", KFP, "get", target, "-o=jsonpath={.spec.clusterIP}")
    if exists("-n", KFP, "deployment", "metadata-grpc-deployment"):
        with forwarded(KFP, target, port) as local, grpc.insecure_channel(f"127.0.0.1:{local}") as channel:
            return outputs(channel, runs.finished_main)
    with grpc.insecure_channel(f"{address}:{port}") as channel:  # a backend on the node itself
        return outputs(channel, runs.finished_main)


def test_the_kubeflow_ui_has_metrics_curves_report_and_summary_each_at_its_task(shown: list[Output]) -> None:
    kinds = {(one.task, one.name, one.kind) for one in shown if one.name != "executor-logs"}
    assert {
        ("prepare-data", "card", "system.HTML"),
        ("evaluate-candidate", "metrics", "system.Metrics"),
        ("evaluate-candidate", "classification", "system.ClassificationMetrics"),
        ("select-model", "report", "system.HTML"),
        ("select-model", "summary", "system.Markdown"),
        ("select-model", "metrics", "system.Metrics"),
        ("select-model", "classification", "system.ClassificationMetrics"),
    } <= kinds
    metrics = [one.metadata for one in shown if one.name == "metrics"]
    assert any(0.9 < found.get("accuracy", 0) <= 1 for found in metrics)
    assert any("the loss became" in found.get("failure", "") for found in metrics)
    assert any(0 < found.get("utility[tiny-cnn]", 0) <= 1 for found in metrics)
    drawn = {one.task: one.metadata for one in shown if "confusionMatrix" in one.metadata}
    assert drawn.keys() == {"evaluate-candidate", "select-model"}
    for metadata in drawn.values():
        assert len(metadata["confusionMatrix"]["struct"]["annotationSpecs"]) == 10
        assert metadata["confidenceMetrics"]


def test_report_and_summary_say_who_won_and_why_the_other_failed(shown: list[Output]) -> None:
    store = ObjectStore.from_environment(os.environ)
    assert store is not None
    pages = {
        one.name: store.read_text(one.uri.replace("minio://", "s3://"))
        for one in shown
        if one.name in ("report", "summary")
    }
    for page in pages.values():
        assert "tiny-cnn" in page
        assert "the loss became" in page
    assert pages["summary"].startswith(f"# {CLIENT}: tiny-cnn")
    assert "<script src" not in pages["report"]


def test_a_second_client_is_served_from_memory_without_training(
    platform: Platform, runs: Runs, mlflow: MlflowClient
) -> None:
    def of_this_project() -> list[str]:
        return [run.info.run_id for run in trainings(mlflow) if run.info.run_name == "tiny-cnn"]

    assert runs.finished_main
    before = of_this_project()
    assert runs.finished_second
    assert of_this_project() == before
    for client in (CLIENT, SECOND_CLIENT):
        assert mlflow.get_model_version_by_alias(client, "champion").tags["deployment"] == "serves"
        assert exists("-n", SERVING, "inferenceservice", client)
    assert len(platform.predictor_pods(SECOND_CLIENT)) == 2
    assert not tasks(platform, runs.finished_second, "train-candidate")


def test_a_run_outlives_a_minute_without_object_store_and_mlflow(platform: Platform, runs: Runs) -> None:
    """Nobody is eligible in this run, so that it also shows that nothing is deployed then."""
    assert runs.finished_second
    run = platform.submit("e2e-outage", params=patient_params("patient-cnn", epochs=400), contract=DEMANDING_CONTRACT)
    running(platform, run, "train-candidate")
    time.sleep(10)
    with without_object_store(platform), without_mlflow():
        away = time.time() * 1000
        time.sleep(60)
        back = time.time() * 1000
    assert platform.ended(run) == "SUCCEEDED"
    assert not exists("-n", SERVING, "inferenceservice", "e2e-nobody")
    with platform.tracking() as uri:
        mlflow = MlflowClient(tracking_uri=uri)
        training = next(one for one in trainings(mlflow) if one.info.run_name == "patient-cnn")  # the newest
        epochs = history(uri, "patient-cnn")
        experiment = mlflow.get_experiment_by_name("steelyard").experiment_id
        selection = mlflow.search_runs([experiment], "tags.client = 'e2e-nobody' and tags.stage = 'selection'")[0]
    assert training.info.status == "FINISHED"
    assert training.info.start_time < away < back < training.info.end_time
    assert sorted(epochs) == list(range(1, 401))
    assert selection.data.tags["winner"] == "none"


@contextmanager
def without_object_store(platform: Platform) -> Iterator[None]:
    """Leave the Service in front of the object store without endpoints."""
    name, slices = "minio-service", f"/apis/discovery.k8s.io/v1/namespaces/{KFP}/endpointslices"
    service = json.loads(kubectl("-n", KFP, "get", "service", name, "-o=json"))
    query = [("labelSelector", f"kubernetes.io/service-name={name}")]
    by_hand = [] if "selector" in service["spec"] else request(platform.api, "GET", slices, query)["items"]
    if not by_hand:
        kubectl("-n", KFP, "patch", "service", name, "-p", '{"spec": {"selector": {"steelyard-e2e": "away"}}}')
    for one in by_hand:
        _patch_slice(platform, f"{slices}/{one['metadata']['name']}", [])
    try:
        yield
    finally:
        if not by_hand:
            kubectl("-n", KFP, "patch", "service", name, "-p", '{"spec": {"selector": {"steelyard-e2e": null}}}')
        for one in by_hand:
            _patch_slice(platform, f"{slices}/{one['metadata']['name']}", one["endpoints"])


def _patch_slice(platform: Platform, path: str, endpoints: list[Any]) -> None:
    request(platform.api, "PATCH", path, (), {"endpoints": endpoints}, "application/merge-patch+json")


@contextmanager
def without_mlflow() -> Iterator[None]:
    kubectl("-n", SERVING, "scale", "deployment/mlflow", "--replicas=0")
    try:
        yield
    finally:
        kubectl("-n", SERVING, "scale", "deployment/mlflow", "--replicas=1")
        kubectl("-n", SERVING, "rollout", "status", "deployment/mlflow", "--timeout=120s")


def test_a_killed_training_is_resumed_by_the_retry_and_a_deleted_one_by_the_same_submission(
    platform: Platform, runs: Runs
) -> None:
    """Backend 2.14 repeats a failed pod, and none that was deleted."""
    assert runs.finished_second
    params = patient_params("killed-cnn", epochs=120)

    def submit() -> str:
        return platform.submit("e2e-killed", params=params, contract=DEMANDING_CONTRACT)

    run = submit()
    first = running(platform, run, "train-candidate")
    with platform.tracking() as uri:
        wait_for(lambda: len(history(uri, "killed-cnn")) > 20, 120, "twenty epochs")
    run_python(KFP, first.pod, "main", KILL_THE_TASK)
    wait_for(lambda: any(one.failed for one in tasks(platform, run, "train-candidate")), 60, "the trainer's end")
    second = running(platform, run, "train-candidate")
    wait_for(lambda: GOES_ON in log_of(second.pod), 180, "the retry to resume")
    kubectl("-n", KFP, "delete", "pod", second.pod, "--grace-period=0", "--force")
    assert platform.ended(run) == "FAILED"
    again = submit()
    assert platform.ended(again) == "SUCCEEDED"
    (third,) = tasks(platform, again, "train-candidate")
    assert GOES_ON in log_of(third.pod)
    with platform.tracking() as uri:
        assert sorted(history(uri, "killed-cnn")) == list(range(1, 121))


GOES_ON = "going on from step"
KILL_THE_TASK = """
import os, pathlib, signal
for found in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    program, *words = found.read_bytes().decode().split("\\0")
    if "python" in program and "kfp.dsl.executor_main" in words:
        os.kill(int(found.parent.name), signal.SIGKILL)
"""


def test_a_killed_preparation_is_taken_over_by_the_retry(platform: Platform, runs: Runs) -> None:
    """What was decoded until then is in the object store; the second pod decodes the rest."""
    assert runs.finished_second
    images, number = f"e2e-images-{time.time_ns()}", 300
    slow_images(images, number)
    params = f"""
task: classification
data: {{source: "s3://{BUCKET}/{images}", image_size: 256}}
training: {{epochs: 1, batch_size: 16}}
candidates: {{tiny: {{layers: [{{conv: 4, stride: 8}}, {{global_pool: true}}]}}}}
"""
    run = platform.submit("e2e-killed-preparation", params=params, contract=DEMANDING_CONTRACT)
    first = running(platform, run, "prepare-data")
    before = decoded()
    wait_for(lambda: decoded() - before, 120, "a part of what is decoded")
    run_python(KFP, first.pod, "main", KILL_THE_TASK)
    wait_for(lambda: any(one.failed for one in tasks(platform, run, "prepare-data")), 60, "the end of the first pod")
    second = running(platform, run, "prepare-data")
    found: re.Match[str] = wait_for(lambda: TAKEN_OVER.search(log_of(second.pod)), 120, "the second to take over")
    assert 0 < int(found[1]) < number
    assert platform.ended(run) == "SUCCEEDED"
    for prefix in (images, *{name.rpartition("/")[0] for name in decoded() - before}):
        remove_objects(prefix)


TAKEN_OVER = re.compile(r"(\d+) images were decoded before")


def slow_images(prefix: str, number: int) -> None:
    """Upload images of small files that take a tenth of a second each to decode."""
    rng = np.random.default_rng(time.time_ns())
    for one in range(number):
        stream = io.BytesIO()
        pixels = Image.fromarray(rng.integers(0, 2, (12, 12, 3), np.uint8) * 255)
        pixels.resize((2400, 2400), Image.Resampling.NEAREST).save(stream, "PNG")
        name, size = f"{prefix}/{'ab'[one % 2]}/{one}.png", stream.tell()
        stream.seek(0)
        minio().put_object(BUCKET, name, stream, size)


def decoded() -> set[str]:
    return {str(found.object_name) for found in minio().list_objects(BUCKET, prefix="decoded/", recursive=True)}


def log_of(pod: str) -> str:
    return kubectl("-n", KFP, "logs", pod, "-c", "main")


def history(tracking_uri: str, candidate: str) -> list[int]:
    """The epochs of a candidate's newest training whose loss is recorded, in order of arrival."""
    mlflow = MlflowClient(tracking_uri=tracking_uri)
    newest = next((one for one in trainings(mlflow) if one.info.run_name == candidate), None)
    return [point.step for point in mlflow.get_metric_history(newest.info.run_id, "validation_loss")] if newest else []


def test_submit_tells_why_a_task_failed_and_how_to_see_its_log(platform: Platform, runs: Runs) -> None:
    """The project's images are missing: each of three attempts fails, and so does the run."""
    _, said = runs.submitted.communicate(timeout=600)
    assert runs.submitted.returncode == 2
    *_, failed, command, end = said.strip().splitlines()
    run_id = end.split()[2]
    problem = "data.source: 's3://mlpipeline/nothing' is empty: it needs one folder per class, with images in it"
    assert failed == f"prepare-data failed: wrong input: {problem}"
    assert end == f"error: run {run_id} ended as FAILED"
    assert f"steelyard: error: {problem}" in kubectl(*command.split()[1:])
    assert [task.phase for task in tasks(platform, run_id, "prepare-data")] == ["Failed"] * 3
