"""What many tests share: a small Dataset of real digits, candidates trained on it, and a tracking database."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.update({"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "ORT_DISABLE_TELEMETRY": "1"})

from steelyard.bundle import ModelBundle
from steelyard.data.dataset import Dataset
from steelyard.data.prepare import prepare
from steelyard.params import Candidate, Params
from steelyard.store import ObjectStore
from tests.s3_server import serving

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")

SMALL_PARAMS = """
task: classification
data: {source: digits, image_size: 8, grayscale: true, split: {train: 0.5, validation: 0.25, test: 0.25, seed: 42}}
training: {epochs: 2, batch_size: 64, learning_rate: 0.01, precision: float32, seed: 0}
candidates:
  one-layer: {layers: [{flatten: true}, {dense: 32}]}
  small-cnn: {layers: [{conv: 8}, {pool: 2}, {flatten: true}]}
"""

SMALL_CONTRACT = """
client: acme
metrics:
  accuracy: {weight: 3, worst: 0.5, ideal: 1.0, must: ">= 0.6"}
  latency_p95_ms: {weight: 1, worst: 50, ideal: 0.05}
"""


@pytest.fixture(scope="session")
def params() -> Params:
    return Params.from_yaml(SMALL_PARAMS)


@pytest.fixture(scope="session")
def candidate(params: Params) -> Candidate:
    return params.candidates["one-layer"]


@pytest.fixture(scope="session")
def dataset(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare(params.data, params.task, tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A real S3 server with one empty bucket, `bucket`."""
    with serving(tmp_path_factory.mktemp("s3")) as found:
        yield found


@pytest.fixture(scope="session")
def bundle(candidate: Candidate, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    from steelyard.training.export import export
    from steelyard.training.run_key import run_key
    from steelyard.training.train import train

    trained = train(candidate, dataset, lambda epoch: None)
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    return export(trained, candidate, dataset, run_key(candidate, dataset), folder)


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracking database whose tables exist: making them takes seconds, copying them none."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def tracking_uri(migrated_database: Path, tmp_path: Path) -> str:
    shutil.copyfile(migrated_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"
