"""Against a real MLflow database."""

import base64
import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import urllib3
from mlflow import MlflowClient
from PIL import Image

from steelyard.bundle import Epoch, ModelBundle
from steelyard.contract import Contract
from steelyard.data.dataset import Dataset
from steelyard.errors import TrainingDiverged
from steelyard.evaluation.evaluate import evaluate
from steelyard.params import Candidate
from steelyard.selection.outcome import write_outcome
from steelyard.selection.select import select
from steelyard.tracking.tracking import Tracking

KEY = "0123456789abcdef"
EPOCHS = [
    Epoch(
        epoch=number,
        train_loss=1 / number,
        validation_loss=2 / number,
        train_accuracy=0.9,
        validation_accuracy=0.8,
        learning_rate=0.001,
        seconds=1.0,
    )
    for number in (1, 2)
]


def _keyed(bundle: ModelBundle, folder: Path, run_key: str) -> ModelBundle:
    copy = bundle.copy_to(folder)
    copy.index.model_copy(update={"run_key": run_key}).write(folder / "bundle.json")
    return ModelBundle(folder)


@pytest.fixture
def trained(tracking_uri: str, bundle: ModelBundle, candidate: Candidate, tmp_path: Path) -> ModelBundle:
    keyed = _keyed(bundle, tmp_path / "trained", KEY)
    with Tracking(tracking_uri).training(KEY, candidate) as run:
        for epoch in EPOCHS:
            run.observe(epoch)
        run.keep(keyed)
    return keyed


def test_a_training_is_remembered_by_its_key_under_the_name_it_has_now(
    tracking_uri: str, trained: ModelBundle, tmp_path: Path
) -> None:
    recalled = Tracking(tracking_uri).recall(KEY, "renamed", tmp_path / "recalled")
    assert recalled is not None
    recalled.verify()
    assert (recalled.index.candidate, recalled.index.remembered) == ("renamed", True)
    assert recalled.index.files == trained.index.files
    assert Tracking(tracking_uri).recall("another key", "renamed", tmp_path / "nothing") is None


def test_parameters_curves_and_measurements_are_tracked(
    tracking_uri: str, trained: ModelBundle, dataset: Dataset, tmp_path: Path
) -> None:
    scorecard = evaluate(trained, dataset)
    contract = Contract.from_yaml("client: acme\nmetrics: {accuracy: {weight: 1, worst: 0, ideal: 1}}")
    selection = select([scorecard], contract)
    write_outcome(selection, [scorecard], tmp_path / "selection")
    Tracking(tracking_uri).record_selection(selection, [scorecard], tmp_path / "selection")
    client = MlflowClient(tracking_uri=tracking_uri)
    chosen, run = client.search_runs([client.get_experiment_by_name("steelyard").experiment_id])
    assert {item.path for item in client.list_artifacts(chosen.info.run_id)} == {"selection.json", "report.html"}
    assert chosen.data.tags["winner"] == trained.index.candidate
    assert run.data.params["learning_rate"] == "0.01"
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "validation_loss")] == [
        (1, 2),
        (2, 1),
    ]
    assert run.data.metrics["validation/accuracy"] == scorecard.index.validation["accuracy"].value
    assert run.data.metrics["test/recall/3"] == scorecard.index.test["recall[3]"].value
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"bundle", "scorecard"}


def test_a_failed_training_is_tracked_as_failed_and_not_remembered(
    tracking_uri: str, candidate: Candidate, tmp_path: Path
) -> None:
    tracking = Tracking(tracking_uri)
    with pytest.raises(TrainingDiverged), tracking.training(KEY, candidate):
        raise TrainingDiverged("the loss became nan")
    assert tracking.recall(KEY, "x", tmp_path / "recalled") is None
    client = MlflowClient(tracking_uri=tracking_uri)
    (run,) = client.search_runs([client.get_experiment_by_name("steelyard").experiment_id])
    assert (run.info.status, run.data.tags["failure"]) == ("FAILED", "the loss became nan")


def test_a_damaged_memory_is_not_trusted(tracking_uri: str, trained: ModelBundle, tmp_path: Path) -> None:
    (stored,) = (tmp_path / "mlartifacts").rglob("model.onnx")
    stored.write_bytes(b"damaged")
    assert Tracking(tracking_uri).recall(KEY, "x", tmp_path / "recalled") is None


def test_registering_the_same_training_again_makes_no_second_version(tracking_uri: str, trained: ModelBundle) -> None:
    tracking = Tracking(tracking_uri)
    assert (tracking.register("acme", trained), tracking.register("acme", trained)) == (1, 1)
    tracking.promote("acme", 1)
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    aliases = {alias: client.get_model_version_by_alias("acme", alias).version for alias in ("challenger", "champion")}
    assert aliases == {"challenger": 1, "champion": 1}


@pytest.fixture
def model_server(tracking_uri: str, trained: ModelBundle, tmp_path: Path) -> Iterator[str]:
    Tracking(tracking_uri).register("acme", trained)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/acme/1", "--env-manager", "local"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # mlflow looks for uvicorn there
    environ = os.environ | {"MLFLOW_TRACKING_URI": tracking_uri, "PYTHONPATH": "", "PATH": path}
    with (tmp_path / "serve.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "-p", str(port)], env=environ, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/ping", server)
            yield f"http://127.0.0.1:{port}/invocations"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, 15)
            server.wait(20)


def _wait_for(url: str, server: "subprocess.Popen[bytes]") -> None:
    for _ in range(300):
        try:
            if urllib3.request("GET", url, retries=False).status == 200:
                return
        except urllib3.exceptions.HTTPError:
            pass
        assert server.poll() is None, "mlflow models serve ended"
        time.sleep(0.3)
    pytest.fail("mlflow models serve did not become ready")


def test_mlflow_serves_the_registered_model_from_raw_image_bytes(
    model_server: str, trained: ModelBundle, dataset: Dataset
) -> None:
    images_NHWC = np.array(dataset.images_NHWC("test")[:3])
    encoded = []
    for image_HWC in images_NHWC:
        buffer = io.BytesIO()
        Image.fromarray(image_HWC[..., 0]).save(buffer, "PNG")
        encoded.append([base64.b64encode(buffer.getvalue()).decode()])
    body = json.dumps({"dataframe_split": {"columns": ["image"], "data": encoded}})
    answer = urllib3.request("POST", model_server, body=body, headers={"Content-Type": "application/json"})
    assert answer.status == 200, answer.data
    expected_N = trained.predict(images_NHWC).probabilities_NC.argmax(1)
    assert [row["label"] for row in answer.json()["predictions"]] == [dataset.index.classes[i] for i in expected_N]
