"""The profile of a training: made after it, of a copy, and readable."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from steelyard.bundle import WEIGHTS_FILE, ModelBundle
from steelyard.data.dataset import Dataset
from steelyard.params import Candidate
from steelyard.profile import ProfileIndex
from steelyard.report.training import write_training_page
from steelyard.tracking.tracking import Tracking
from steelyard.training.job import Places, run_job
from steelyard.training.profile import STEPS, write_profile
from steelyard.training.train import train


@pytest.fixture
def profiled(candidate: Candidate, dataset: Dataset, tracking_uri: str, tmp_path: Path) -> ModelBundle:
    places = Places(bundle=tmp_path / "bundle", checkpoints="", store=None, profile=tmp_path / "profile")
    return run_job(candidate, dataset, places, Tracking(tracking_uri))


def test_a_profile_changes_no_bit_and_goes_to_mlflow_with_its_traces(
    profiled: ModelBundle, bundle: ModelBundle, tracking_uri: str, tmp_path: Path
) -> None:
    assert profiled.index.files[WEIGHTS_FILE] == bundle.index.files[WEIGHTS_FILE]
    found = ProfileIndex.read(tmp_path / "profile" / "profile.json")
    for phase, steps in ((found.training, "aten::addmm"), (found.inference, "aten::addmm")):
        (linear,) = [one for one in phase.operations if one.name == steps]
        assert linear.calls == 2 * STEPS  # two dense layers
        assert 0 < linear.cpu_ms <= phase.cpu_ms
    assert {one.name for one in found.inference.operations}.isdisjoint({"Optimizer.step#AdamW.step"})
    assert "Optimizer.step#AdamW.step" in {one.name for one in found.training.operations}
    with gzip.open(tmp_path / "profile" / "training.trace.json.gz") as file:
        assert any(event["name"] == "aten::addmm" for event in json.load(file)["traceEvents"])
    client = MlflowClient(tracking_uri=tracking_uri)
    (run,) = client.search_runs(["1"])
    assert {file.path for file in client.list_artifacts(run.info.run_id, "profile")} == {
        *("profile/profile.json", "profile/training.trace.json.gz", "profile/inference.trace.json.gz")
    }
    assert run.info.status == "FINISHED"


def test_the_page_shows_three_curves_and_no_profile_of_another_training(profiled: ModelBundle, tmp_path: Path) -> None:
    index, page = profiled.index, tmp_path / "page.html"
    write_training_page(index, tmp_path / "profile", page)
    text = page.read_text()
    assert [
        text.count(f"<figcaption>{what}</figcaption>") for what in ("loss", "accuracy", "learning rate (1e-3)")
    ] == [1] * 3
    assert text.count("<table") == 2
    assert "://" not in text
    write_training_page(index.model_copy(update={"run_key": "another"}), tmp_path / "profile", page)
    assert page.read_text().count("<table") == 0


def test_a_slow_training_is_profiled_with_smaller_batches(
    candidate: Candidate, dataset: Dataset, tmp_path: Path
) -> None:
    trained = train(candidate, dataset, lambda epoch: None)
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    for speed, images in ((1e6, 64), (100.0, 30), (0.1, 2)):
        slow = replace(trained, images_per_s=speed)
        write_profile(slow, candidate, dataset, "key", tmp_path / "profile")
        assert ProfileIndex.read(tmp_path / "profile" / "profile.json").batch_size == images
    assert all(torch.equal(value, before[name]) for name, value in trained.model.state_dict().items())
