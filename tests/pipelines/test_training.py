"""`steelyard train` as its users call it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from steelyard.bundle import WEIGHTS_FILE, ModelBundle
from steelyard.data.dataset import Dataset
from tests.conftest import SMALL_PARAMS


@pytest.fixture
def params_file(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(SMALL_PARAMS)
    return tmp_path / "params.yaml"


def train(*words: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pipelines", "train", *map(str, words)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_TRACKING"))}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=kept | environment)


def test_json_is_one_object_and_a_second_call_finds_the_bundle(
    params_file: Path, dataset: Dataset, tmp_path: Path
) -> None:
    words = [params_file, "--candidate", "one-layer", "--data", dataset.folder, "--output", tmp_path / "out"]
    first = train(*words, "--json")
    assert first.returncode == 0, first.stderr
    answer = json.loads(first.stdout)
    bundle = ModelBundle(tmp_path / "out" / "bundle")
    assert (answer["run_key"], answer["weights_sha256"]) == (bundle.index.run_key, bundle.index.files[WEIGHTS_FILE])
    assert answer["images_per_s"] > 0
    assert answer["peak_mib"] > 20
    assert answer["device"] == bundle.index.device
    assert 0 <= answer["onnx_max_diff"] <= 1e-4
    assert not answer["remembered"]
    again = train(*words)
    assert again.stdout.startswith("one-layer: remembered, epoch "), again.stderr


def test_with_tracking_the_training_is_remembered_elsewhere(
    params_file: Path, dataset: Dataset, tmp_path: Path, tracking_uri: str
) -> None:
    words = [params_file, "--candidate", "one-layer", "--data", dataset.folder, "--json"]
    first, again = (
        json.loads(train(*words, "--output", tmp_path / output, MLFLOW_TRACKING_URI=tracking_uri).stdout)
        for output in ("first", "again")
    )
    assert (first["remembered"], again["remembered"]) == (False, True)
    assert first["weights_sha256"] == again["weights_sha256"]


@pytest.mark.parametrize(
    ("name", "changed", "sentence"),
    [
        ("one-layr", ("", ""), "candidates: there is no 'one-layr'; did you mean 'one-layer'?"),
        ("one-layer", ("image_size: 8", "image_size: 9"), "is for classification of 8x8x1, but"),
    ],
)
def test_wrong_input_is_one_sentence(
    params_file: Path, dataset: Dataset, tmp_path: Path, name: str, changed: tuple[str, str], sentence: str
) -> None:
    params_file.write_text(SMALL_PARAMS.replace(*changed))
    done = train(params_file, "--candidate", name, "--data", dataset.folder, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_candidate_s_own_failure_is_its_sentence(params_file: Path, dataset: Dataset, tmp_path: Path) -> None:
    params_file.write_text(SMALL_PARAMS.replace("learning_rate: 0.01", "learning_rate: 1.0e+30"))
    done = train(params_file, "--candidate", "one-layer", "--data", dataset.folder, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert "error: the loss became" in done.stderr
