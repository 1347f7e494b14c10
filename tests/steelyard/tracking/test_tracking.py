"""Against a real MLflow database."""

import base64
import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import urllib3
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from PIL import Image

from steelyard.bundle import Epoch, ModelBundle
from steelyard.contract import Contract
from steelyard.data.dataset import Dataset
from steelyard.errors import InputError, TrainingDiverged
from steelyard.evaluation.evaluate import evaluate
from steelyard.evaluation.measurement import Measurement
from steelyard.evaluation.scorecard import Scorecard
from steelyard.params import Candidate
from steelyard.report.outcome import write_outcome
from steelyard.selection.publish import choose
from steelyard.selection.select import select
from steelyard.smoke_test import SmokeTest, SmokeTestFailed
from steelyard.tracking.packaging import save_pyfunc
from steelyard.tracking.tracking import Tracking, sqlite_uri
from steelyard.training.live import Live
from tests.mlflow_server import serving

KEY = "0123456789abcdef"
CONTRACT = Contract.from_yaml("client: acme\nmetrics: {accuracy: {weight: 1, worst: 0, ideal: 1}}")
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


def test_points_from_inside_an_epoch_have_curves_of_their_own(tracking_uri: str, candidate: Candidate) -> None:
    point = Live(
        step=7,
        loss=0.5,
        accuracy=0.8,
        learning_rate=0.01,
        images_per_s=900.0,
        gpu_memory_mib=None,
        gpu_utilisation=None,
    )
    with Tracking(tracking_uri).training(KEY, candidate) as run:
        run.observe(point)
        run.observe(replace(point, step=9, loss=0.25, gpu_memory_mib=100.0, gpu_utilisation=90.0))
    client = MlflowClient(tracking_uri=tracking_uri)
    (found,) = client.search_runs(["1"])
    curve = client.get_metric_history(found.info.run_id, "live/loss")
    assert [(one.step, one.value) for one in curve] == [(7, 0.5), (9, 0.25)]
    assert found.data.metrics["live/gpu_utilisation"] == 90.0
    assert len(client.get_metric_history(found.info.run_id, "live/gpu_memory_mib")) == 1


@pytest.fixture
def trained(tracking_uri: str, bundle: ModelBundle, candidate: Candidate, tmp_path: Path) -> ModelBundle:
    keyed = _keyed(bundle, tmp_path / "trained", KEY)
    with Tracking(tracking_uri).training(KEY, candidate) as run:
        for epoch in EPOCHS:
            run.observe(epoch)
        run.keep(keyed)
    return keyed


@pytest.fixture
def scorecard(trained: ModelBundle, dataset: Dataset) -> Scorecard:
    return evaluate(trained, dataset)


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
    tracking_uri: str, trained: ModelBundle, scorecard: Scorecard, tmp_path: Path
) -> None:
    tracking = Tracking(tracking_uri)
    tracking.memory().keep(scorecard)
    selection = choose([scorecard], CONTRACT)
    write_outcome(selection, [scorecard], tmp_path / "selection")
    tracking.record_selection(selection, tmp_path / "selection")
    client = MlflowClient(tracking_uri=tracking_uri)
    chosen, run = client.search_runs([client.get_experiment_by_name("steelyard").experiment_id])
    files = {item.path for item in client.list_artifacts(chosen.info.run_id)}
    assert files == {"selection.json", "report.html", "summary.md"}
    assert chosen.data.tags["winner"] == trained.index.candidate
    assert chosen.data.metrics["test/accuracy"] == selection.test["accuracy"].value
    assert run.data.params["learning_rate"] == "0.01"
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "validation_loss")] == [
        (1, 2),
        (2, 1),
    ]
    assert run.data.metrics["validation/accuracy"] == scorecard.index.validation["accuracy"].value
    assert run.data.metrics["validation/recall/3"] == scorecard.index.validation["recall[3]"].value
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


def test_a_damaged_memory_is_not_trusted_and_gives_way_to_a_new_one(
    tracking_uri: str, trained: ModelBundle, bundle: ModelBundle, candidate: Candidate, tmp_path: Path
) -> None:
    (stored,) = (tmp_path / "mlartifacts").rglob("model.onnx")
    stored.write_bytes(b"damaged")
    assert Tracking(tracking_uri).recall(KEY, "x", tmp_path / "recalled") is None
    assert not (tmp_path / "recalled").exists()
    whole = _keyed(bundle, tmp_path / "anew", KEY)
    with Tracking(tracking_uri).training(KEY, candidate) as run:  # of another process, which has not seen the damage
        run.keep(whole)
    assert not run.overtaken
    assert Tracking(tracking_uri).recall(KEY, "x", tmp_path / "recalled") is not None


def test_a_memory_whose_files_are_gone_is_not_remembered(
    tracking_uri: str, trained: ModelBundle, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "mlartifacts")
    assert Tracking(tracking_uri).recall(KEY, "x", tmp_path / "recalled") is None


def test_files_that_a_server_has_no_more_are_trained_anew_and_then_remembered(
    migrated_database: Path, bundle: ModelBundle, candidate: Candidate, tmp_path: Path
) -> None:
    shutil.copyfile(migrated_database, tmp_path / "mlflow.db")
    keyed = _keyed(bundle, tmp_path / "trained", KEY)
    with serving(tmp_path / "mlflow.db") as server:
        tracking = Tracking(server.uri)
        with tracking.training(KEY, candidate) as run:
            run.keep(keyed)
        shutil.rmtree(tmp_path / "kept")
        with tracking.turn(KEY, "x", tmp_path / "recalled", "") as turn:
            assert turn.bundle is None
            with tracking.training(KEY, candidate) as run:
                run.keep(keyed)
        assert tracking.fetch(KEY, "x", tmp_path / "recalled").index.files == keyed.index.files


class _ServerWithoutFiles(BaseHTTPRequestHandler):
    """A tracking server that knows one training, while its artifact store is down."""

    def do_GET(self) -> None:
        experiment = {"experiment_id": "1", "name": "steelyard", "artifact_location": "mlflow-artifacts:/1"}
        known = "get-by-name" in self.path or self.path == "/health"
        self._answer(200 if known else 503, {"experiment": experiment} if known else {})

    def do_POST(self) -> None:
        self._answer(200, {"runs": [self.run]})

    @property
    def run(self) -> dict[str, object]:
        return {"info": {"run_id": "a" * 32, "experiment_id": "1", "artifact_uri": "mlflow-artifacts:/1/a/artifacts"}}

    def _answer(self, status: int, content: dict[str, object]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_server_that_does_not_answer_is_an_error_and_not_a_lost_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with HTTPServer(("127.0.0.1", 0), _ServerWithoutFiles) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            tracking = Tracking(f"http://127.0.0.1:{server.server_port}")
            with pytest.raises(MlflowException, match="503"):
                tracking.recall(KEY, "x", tmp_path / "recalled")
        finally:
            server.shutdown()


def test_a_moved_folder_starts_a_memory_beside_its_database(
    tracking_uri: str, trained: ModelBundle, candidate: Candidate, tmp_path: Path
) -> None:
    assert Tracking(tracking_uri).register("acme", trained) == 1
    moved = tmp_path / "moved here"
    moved.mkdir()
    for name in ("mlflow.db", "mlartifacts"):
        (tmp_path / name).rename(moved / name)
    uri = sqlite_uri(moved / "mlflow.db")
    assert Tracking(uri).recall(KEY, "x", tmp_path / "recalled") is None
    with Tracking(uri).training(KEY, candidate) as run:
        run.keep(trained)
    assert Tracking(uri).recall(KEY, "x", tmp_path / "recalled") is not None
    assert Tracking(uri).register("acme", trained) == 2, "the files of version 1 are out of reach"
    assert not (tmp_path / "mlartifacts").exists()


@pytest.mark.parametrize("folder", ["100%", "what?", "#1"])
def test_a_folder_that_no_database_uri_can_name_is_refused(tmp_path: Path, folder: str) -> None:
    with pytest.raises(InputError, match="can't keep its database"):
        sqlite_uri(tmp_path / folder / "mlflow.db")


def test_any_class_has_a_metric_name_of_its_own(tracking_uri: str, scorecard: Scorecard, tmp_path: Path) -> None:
    classes = ["[x]", "a,b", "a;b", "a:b", "a:2cb", "/", "..", ".", "猫", "v1.0", "a b", "x" * 240, "x" * 239 + "y"]
    measured = {f"precision[{name}]": Measurement(value=0.5, bound=0.4, unit="fraction") for name in classes}
    selection = select([scorecard], CONTRACT)
    write_outcome(selection, [scorecard], tmp_path / "selection")
    Tracking(tracking_uri).record_selection(selection.model_copy(update={"test": measured}), tmp_path / "selection")
    client = MlflowClient(tracking_uri=tracking_uri)
    run, _ = client.search_runs([client.get_experiment_by_name("steelyard").experiment_id])
    names = {name for name in run.data.metrics if name.startswith("test/")}
    assert len(names) == len(classes)
    assert run.data.metrics["utility/one-layer"] == selection.utility
    assert {"test/precision/a b", "test/precision/v1.0", "test/precision/a:2cb"} <= names


def test_a_registration_or_selection_that_breaks_off_is_tracked_as_failed(
    tracking_uri: str, trained: ModelBundle, scorecard: Scorecard, tmp_path: Path
) -> None:
    tracking, client = Tracking(tracking_uri), MlflowClient(tracking_uri=tracking_uri)
    with pytest.raises(FileNotFoundError):
        tracking.record_selection(select([scorecard], CONTRACT), tmp_path / "nothing")
    shutil.rmtree(trained.folder)
    with pytest.raises((MlflowException, OSError)):
        tracking.register("acme", trained)
    runs = client.search_runs([client.get_experiment_by_name("steelyard").experiment_id])
    statuses = {run.data.tags["stage"]: run.info.status for run in runs}
    assert statuses == {"training": "FINISHED", "selection": "FAILED", "registration": "FAILED"}


def test_a_class_may_be_called_label(trained: ModelBundle, dataset: Dataset, tmp_path: Path) -> None:
    import mlflow.pyfunc

    classes = ("label", *trained.index.classes[1:])
    trained.index.model_copy(update={"classes": classes}).write(trained.folder / "bundle.json")
    save_pyfunc(ModelBundle(trained.folder), tmp_path / "model")
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    columns = ["label", *(f"probability_{name}" for name in classes)]
    assert model.metadata.get_output_schema().input_names() == columns
    buffer = io.BytesIO()
    Image.fromarray(dataset.head("test", 1)[0, ..., 0]).save(buffer, "PNG")
    answers = model.predict({"image": [buffer.getvalue()]})
    assert list(answers.columns) == columns
    assert answers["label"][0] in classes


def test_registering_the_same_training_again_makes_no_second_version(tracking_uri: str, trained: ModelBundle) -> None:
    tracking = Tracking(tracking_uri)
    assert (tracking.register("acme", trained), tracking.register("acme", trained)) == (1, 1)


def test_a_version_has_the_address_that_was_given_last(tracking_uri: str, trained: ModelBundle) -> None:
    tracking = Tracking(tracking_uri)
    assert tracking.register("acme", trained) == 1
    assert tracking.stored_at("acme", trained) == ""
    for address in ("s3://models/first", "s3://models/second", ""):
        tracking.register("acme", trained, address)
    assert tracking.stored_at("acme", trained) == tracking.registered("acme").storage_uri == "s3://models/second"
    assert tracking.registered("acme", 1) == tracking.registered("acme")


def test_a_deployment_is_recorded_and_only_a_good_one_makes_a_champion(
    tracking_uri: str, trained: ModelBundle, tmp_path: Path
) -> None:
    tracking = Tracking(tracking_uri)
    tracking.register("acme", trained, "s3://models/first")
    model = tracking.registered("acme")
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    with pytest.raises(SmokeTestFailed), tracking.deployment(model):
        raise SmokeTestFailed("2 of 16 differ")
    assert client.get_model_version("acme", "1").tags["deployment"] == "failed: 2 of 16 differ"
    assert set(client.get_model_version("acme", "1").aliases) == {"challenger"}
    with tracking.deployment(model):
        pass
    assert client.get_model_version("acme", "1").tags["deployment"] == "serves"
    assert set(client.get_model_version("acme", "1").aliases) == {"challenger", "champion"}
    other = _keyed(trained, tmp_path / "other", "fedcba9876543210")
    tracking.register("acme", other, "s3://models/other")
    with tracking.deployment(tracking.registered("acme")):
        pass
    assert [client.get_model_version("acme", v).tags["deployment"] for v in ("1", "2")] == ["replaced", "serves"]


def test_a_version_that_no_cluster_can_fetch_is_refused(tracking_uri: str, trained: ModelBundle) -> None:
    tracking = Tracking(tracking_uri)
    with pytest.raises(InputError, match="no model 'acme' with a challenger"):
        tracking.registered("acme")
    tracking.register("acme", trained)
    with pytest.raises(InputError, match="no model 'acme' with version 7"):
        tracking.registered("acme", 7)
    with pytest.raises(InputError, match="has no s3:// address"):
        tracking.registered("acme")


def test_the_smoke_test_comes_back_from_the_registry(tracking_uri: str, trained: ModelBundle, dataset: Dataset) -> None:
    written = SmokeTest.of(trained, dataset.head("test"))
    written.write(trained.folder)
    tracking = Tracking(tracking_uri)
    tracking.register("acme", trained, "s3://models/first")
    read = tracking.fetch_smoke_test(tracking.registered("acme"))
    assert np.array_equal(read.answers, written.answers)


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
    images_NHWC = dataset.head("test", 3)
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
