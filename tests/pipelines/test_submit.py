"""Following a run. KFP's client is played; the tasks are given as their pods would show them."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from components.cluster.api import ClusterRefused
from components.cluster.tasks import Task
from pipelines import submit as module
from pipelines.submit import follow
from steelyard.errors import SteelyardError


class Kfp:
    """A run that goes through some states."""

    def __init__(self, *states: str) -> None:
        self.states = list(states)

    def get_run(self, run_id: str) -> SimpleNamespace:
        return SimpleNamespace(state=self.states.pop(0))


def attempt(name: str, phase: str, reason: str = "", pod: str = "pod-0") -> Task:
    return Task(name=name, pod=pod, phase=phase, reason=reason)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[list[Task]]:
    """What each look at the cluster shows; the last one stays."""
    shown: list[list[Task]] = []
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(module, "connect", object)
    monkeypatch.setattr(module, "list_tasks", lambda *_: shown.pop(0) if len(shown) > 1 else shown[0])
    return shown


def test_each_change_is_told_once(looks: list[list[Task]]) -> None:
    told: list[str] = []
    waiting = attempt("train-candidate 1", "Pending", "no node takes its pod: Insufficient nvidia.com/gpu")
    running, done = attempt("train-candidate 1", "Running"), attempt("train-candidate 1", "Succeeded")
    looks += [[attempt("train-candidate 1", "Pending")], [waiting], [waiting], [running], [done]]
    follow(Kfp("RUNNING", "RUNNING", "RUNNING", "RUNNING", "SUCCEEDED"), "7", "kubeflow", told.append)
    assert told == [
        "train-candidate 1: waits: no node takes its pod: Insufficient nvidia.com/gpu",
        "train-candidate 1: runs",
        "train-candidate 1: done",
        "run 7: SUCCEEDED",
    ]


def test_a_failed_task_is_explained_by_its_last_attempt_and_a_recovered_one_is_not(looks: list[list[Task]]) -> None:
    told: list[str] = []
    looks.append(
        [
            attempt("train-candidate 1", "Failed", "killed", pod="pod-1"),
            attempt("train-candidate 1", "Succeeded", pod="pod-2"),
            attempt("prepare-data", "Failed", "the store does not answer", pod="pod-3"),
            attempt("prepare-data", "Failed", "wrong input: no objects", pod="pod-4"),
        ]
    )
    with pytest.raises(SteelyardError, match="run 7 ended as FAILED"):
        follow(Kfp("FAILED"), "7", "kubeflow", told.append)
    assert told[-3:] == [
        "run 7: FAILED",
        "prepare-data failed: wrong input: no objects",
        "  kubectl -n kubeflow logs pod-4 -c main",
    ]


def test_without_a_cluster_to_look_at_the_way_to_all_logs_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse() -> None:
        raise ClusterRefused("no cluster is configured", 0, "no kubeconfig")

    monkeypatch.setattr(module, "connect", refuse)
    told: list[str] = []
    with pytest.raises(SteelyardError):
        follow(Kfp("FAILED"), "7", "kubeflow", told.append)
    assert "no cluster is configured: no kubeconfig" in told[0]
    assert told[-1] == "  kubectl -n kubeflow logs -l pipeline/runid=7 -c main --prefix --tail=30"
