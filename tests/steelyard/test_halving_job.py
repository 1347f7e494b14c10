"""Halving around real trainings: what is recorded, who ends, and what a retry and a later run make of it."""

import json
import logging
import shutil
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from steelyard import halving
from steelyard.bundle import read_failure, write_failure
from steelyard.contract import Contract
from steelyard.data.dataset import Dataset
from steelyard.errors import Stopped
from steelyard.evaluation.evaluate import failed_scorecard
from steelyard.params import Candidate, Params
from steelyard.selection.select import select
from steelyard.tracking.tracking import Tracking
from steelyard.training.job import Places, run_job
from steelyard.training.run_key import run_key

CONTRACT = Contract.from_yaml(
    "client: acme\n"
    "metrics: {accuracy: {weight: 3, worst: 0.5, ideal: 1}, latency_p95_ms: {weight: 1, worst: 50, ideal: 0.05}}"
)
OTHER = CONTRACT.model_copy(update={"client": "other"})


@pytest.fixture
def good(candidate: Candidate) -> Candidate:
    recipe = candidate.training.model_copy(update={"epochs": 4})
    return candidate.model_copy(update={"training": recipe, "halving": True})


@pytest.fixture
def poor(good: Candidate) -> Candidate:
    recipe = good.training.model_copy(update={"learning_rate": 1e-7})
    return good.model_copy(update={"name": "poor", "training": recipe})


def places(tmp_path: Path, name: str = "bundle") -> Places:
    return Places(bundle=tmp_path / name, checkpoints=str(tmp_path / "checkpoints"), store=None)


def test_who_is_not_among_the_best_is_stopped_stays_so_and_serves_a_later_run_from_its_checkpoint(
    tracking_uri: str,
    good: Candidate,
    poor: Candidate,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "steelyard")
    estimated: list[str] = []
    estimates = halving.estimates
    monkeypatch.setattr(halving, "estimates", lambda one, *rest: estimated.append(one.name) or estimates(one, *rest))
    assert run_job(good, dataset, places(tmp_path), Tracking(tracking_uri), CONTRACT).index.remembered is False
    for _ in range(2):
        with pytest.raises(
            Stopped, match=r"after epoch 1 of 4, its early utility of .* was not among the best 1 of 2"
        ) as stop:
            run_job(poor, dataset, places(tmp_path), Tracking(tracking_uri), CONTRACT)
        assert stop.value.rung == 1
    assert estimated == ["one-layer", "poor"], "once for each, however many rungs and tries"
    assert Tracking(tracking_uri).recall(run_key(poor, dataset), "poor", tmp_path / "x") is None
    client = MlflowClient(tracking_uri=tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("steelyard").experiment_id])
    assert sorted(run.info.status for run in runs) == ["FINISHED", "KILLED", "KILLED"]
    assert sum("epoch" in line and line.startswith("poor: epoch") for line in caplog.messages) == 1, "learnt once"
    assert {run.data.tags["stopped"] for run in runs if run.info.run_name == "poor"} == {str(stop.value)}
    later = run_job(poor, dataset, places(tmp_path), Tracking(tracking_uri), OTHER)
    assert later.index.resumed_from_step > 0


def test_halving_changes_no_bit_of_a_training_and_no_run_key(
    tracking_uri: str, good: Candidate, dataset: Dataset, tmp_path: Path
) -> None:
    dropout = Candidate.model_validate(
        {**good.model_dump(), "layers": [{"flatten": True}, {"dropout": 0.3}, {"dense": 16}]}
    )
    judged = run_job(dropout, dataset, places(tmp_path), Tracking(tracking_uri), CONTRACT)
    plain = run_job(dropout.model_copy(update={"halving": False}), dataset, places(tmp_path, "plain"), tracking=None)
    assert judged.index.run_key == plain.index.run_key
    assert judged.index.files["weights.safetensors"] == plain.index.files["weights.safetensors"]


def test_a_candidate_whose_memory_can_t_be_measured_goes_on(
    tracking_uri: str,
    good: Candidate,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    small = Contract.from_yaml("client: acme\nmetrics: {peak_memory_mib: {weight: 1, worst: 9999, ideal: 1}}")
    assert len(run_job(good, dataset, places(tmp_path), Tracking(tracking_uri), small).index.history) == 4
    assert (
        "one-layer: goes on from rung 1 without a comparison: one-layer: its memory can't be measured: exit code 1"
        in caplog.text
    )


def test_a_stopped_candidate_has_rung_and_reason_and_is_never_selected(
    dataset: Dataset, poor: Candidate, tmp_path: Path
) -> None:
    stopped = Stopped.at(2, "after epoch 2 of 4, its utility was low")
    write_failure(tmp_path / "stopped", "poor", "halving", stopped, dataset.ref)
    failure = read_failure(tmp_path / "stopped")
    assert failure is not None
    card = failed_scorecard(failure, dataset)
    assert card.index.stopped is not None
    assert card.index.stopped.model_dump() == {"rung": 2, "reason": "after epoch 2 of 4, its utility was low"}
    selection = select([card], CONTRACT)
    assert selection.winner is None
    assert selection.rejected[0].reason == "halving: after epoch 2 of 4, its utility was low"


def test_halving_is_for_all_candidates() -> None:
    text = json.dumps(
        {
            "task": "classification",
            "data": {"source": "digits", "image_size": 8},
            "halving": True,
            "candidates": {"a": {"arch": "resnet18"}, "b": {"arch": "resnet34"}},
        }
    )
    assert [candidate.halving for candidate in Params.from_yaml(text).candidates.values()] == [True, True]
