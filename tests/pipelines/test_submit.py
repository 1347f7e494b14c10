"""Following a run. KFP's client is played, and so is the API server, over HTTP."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import urllib3

from components.cluster.api import ClusterRefused
from pipelines import submit as module
from pipelines.submit import follow
from steelyard.errors import InputError, SteelyardError
from tests.fake_cluster import Cluster, serving

PODS = "/api/v1/namespaces/kubeflow/pods?7"
NODE = "train-and-select-tchkg.root.{}.executor({})"


class Kfp:
    """A run that goes through some states, while the cluster shows one set of pods after the other."""

    def __init__(self, cluster: Cluster, *seen: tuple[str, list[dict[str, Any]]]) -> None:
        self.cluster, self.seen = cluster, list(seen)

    def get_run(self, run_id: str) -> SimpleNamespace:
        state, self.cluster.objects[PODS] = self.seen.pop(0)
        if state == "away":
            raise urllib3.exceptions.MaxRetryError(None, "/runs/7")  # type: ignore[arg-type]
        return SimpleNamespace(state=state)


def pod(task: str, phase: str, message: str = "", attempt: int = 0, **status: Any) -> dict[str, Any]:
    ended = {"exitCode": 1 if phase == "Failed" else 0, "message": message}
    main = {"name": "main", "image": "i", "state": {"terminated": ended} if phase in ("Failed", "Succeeded") else {}}
    return {
        "metadata": {
            "name": f"{task}-{attempt}",
            "creationTimestamp": f"2026-11-21T14:29:0{attempt}Z",
            "annotations": {"workflows.argoproj.io/node-name": NODE.format(task, attempt)},
        },
        "spec": {"containers": [{"name": "main"}]},
        "status": {"phase": phase, "containerStatuses": [main], **status},
    }


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    cluster = Cluster()
    with serving(cluster) as api:
        monkeypatch.setattr(module, "LOOK_EVERY_S", 0.0)
        monkeypatch.setattr(module, "connect", lambda: api)
        yield cluster


def test_each_change_is_told_once_with_what_came_of_it(cluster: Cluster) -> None:
    told: list[str] = []
    unscheduled = {"type": "PodScheduled", "status": "False", "message": "Insufficient nvidia.com/gpu"}
    waiting = pod("train-candidate", "Pending", conditions=[unscheduled])
    chosen = [pod("select-model", "Succeeded", "tiny-cnn is the choice"), pod("register-model", "Succeeded")]
    seen = [[pod("train-candidate", "Pending")], [waiting], [waiting], [pod("train-candidate", "Running")]]
    kfp = Kfp(cluster, *(("RUNNING", pods) for pods in seen), ("SUCCEEDED", chosen))
    assert follow(kfp, "7", "kubeflow", told.append)
    assert told == [
        "train-candidate: waits: no node takes its pod: Insufficient nvidia.com/gpu",
        "train-candidate: runs",
        "select-model: done: tiny-cnn is the choice",
        "register-model: done",
        "run 7: SUCCEEDED",
    ]


def test_a_run_without_a_winner_is_told_from_one_with(cluster: Cluster) -> None:
    nobody = pod("select-model", "Succeeded", "Nobody is eligible")
    assert not follow(Kfp(cluster, ("SUCCEEDED", [nobody])), "7", "kubeflow", lambda _: None)


def test_a_failed_task_is_explained_by_its_last_attempt_and_a_recovered_one_is_not(cluster: Cluster) -> None:
    told: list[str] = []
    pods = [
        pod("train-candidate", "Failed", "killed"),
        pod("train-candidate", "Succeeded", attempt=1),
        pod("prepare-data", "Failed", "the store does not answer"),
        pod("prepare-data", "Failed", "wrong input: no objects", attempt=1),
    ]
    with pytest.raises(InputError, match="run 7 ended as FAILED"):
        follow(Kfp(cluster, ("FAILED", pods)), "7", "kubeflow", told.append)
    assert told[-3:] == [
        "run 7: FAILED",
        "prepare-data failed: wrong input: no objects",
        "  kubectl -n kubeflow logs prepare-data-1 -c main",
    ]


def test_without_a_cluster_to_look_at_the_way_to_all_logs_is_told(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise ClusterRefused("no cluster is configured", 0, "no kubeconfig")

    monkeypatch.setattr(module, "connect", refuse)
    told: list[str] = []
    with pytest.raises(SteelyardError):
        follow(Kfp(cluster, ("RUNNING", []), ("RUNNING", []), ("FAILED", [])), "7", "kubeflow", told.append)
    assert told == [
        "only KFP's own states can be told: no cluster is configured: no kubeconfig",
        "run 7: FAILED",
        "  kubectl -n kubeflow logs -l pipeline/runid=7 -c main --prefix --tail=30",
    ]


def test_an_api_that_is_away_for_a_moment_ends_nothing(cluster: Cluster) -> None:
    assert follow(Kfp(cluster, ("away", []), ("away", []), ("SUCCEEDED", [])), "7", "kubeflow", lambda _: None)
    with pytest.raises(SteelyardError, match="run 7 goes on, but the KFP API does not answer"):
        follow(Kfp(cluster, *[("away", [])] * 12), "7", "kubeflow", lambda _: None)
