"""What a run's pods say, read from pods as a Kubeflow Pipelines 2.14 backend makes them."""

from typing import Any

import pytest

from components.cluster.tasks import list_tasks
from tests.fake_cluster import Cluster

RUN_PODS = "/api/v1/namespaces/kubeflow/pods?eff8449e"
LOOP = "train-and-select-tchkg.root.for-loop-1.iteration-iterations(1:1).iteration-item"


def pod(node: str, phase: str, second: int, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"train-and-select-tchkg-{second}",
            "creationTimestamp": f"2026-11-21T14:29:{second:02}Z",
            "annotations": {"workflows.argoproj.io/node-name": node},
        },
        "spec": {"containers": [{"name": "main", "resources": {"limits": {"memory": "2Gi"}}}]},
        "status": {"phase": phase, **status},
    }


def ended(**terminated: Any) -> list[dict[str, Any]]:
    return [
        {"name": "wait", "image": "argoexec", "state": {"terminated": {"exitCode": 0, "message": "done"}}},
        {"name": "main", "image": "steelyard/base-python:0.1.0", "state": {"terminated": terminated}},
    ]


def said(cluster: Cluster, api: Any, *pods: dict[str, Any]) -> list[str]:
    cluster.objects[RUN_PODS] = list(pods)
    return [f"{task.name}: {task.said}" for task in list_tasks(api, "kubeflow", "eff8449e")]


def test_tasks_stand_in_order_and_each_candidate_has_its_number(cluster: Cluster, api: Any) -> None:
    assert said(
        cluster,
        api,
        pod(f"{LOOP}.train-candidate.executor(0)", "Running", 20),
        pod("train-and-select-tchkg.root.prepare-data.executor(0)", "Succeeded", 10),
        pod("train-and-select-tchkg.root.prepare-data-driver", "Succeeded", 5),
    ) == ["prepare-data: done", "train-candidate 2: runs"]


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (
            {
                "phase": "Failed",
                "containerStatuses": ended(exitCode=1, reason="Error", message="s3://b: empty\n"),
            },
            "failed: s3://b: empty",
        ),
        (
            {"phase": "Failed", "containerStatuses": ended(exitCode=137, reason="OOMKilled")},
            "failed: container main ran out of memory: its limit is 2Gi",
        ),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "low on resource: ephemeral-storage"},
            "failed: its pod was ended (Evicted): low on resource: ephemeral-storage",
        ),
        (
            {
                "phase": "Pending",
                "conditions": [{"type": "PodScheduled", "status": "False", "message": "Insufficient nvidia.com/gpu"}],
            },
            "waits: no node takes its pod: Insufficient nvidia.com/gpu",
        ),
        ({"phase": "Pending"}, "waits"),
        (
            {"phase": "Succeeded", "containerStatuses": ended(exitCode=0, message="tiny-cnn is the choice")},
            "done: tiny-cnn is the choice",
        ),
    ],
)
def test_a_task_says_why_it_failed_or_waits(cluster: Cluster, api: Any, status: dict[str, Any], sentence: str) -> None:
    task = pod("train-and-select-tchkg.root.prepare-data.executor(2)", second=1, **status)
    assert said(cluster, api, task) == [f"prepare-data: {sentence}"]


def test_a_failed_driver_of_kfp_is_told_as_such(cluster: Cluster, api: Any) -> None:
    driver = pod("train-and-select-tchkg.root.measure-latency-driver", "Failed", 1)
    assert said(cluster, api, driver) == ["measure-latency (KFP's driver): failed"]
