"""Each component as a plain function, in the order of the graph, on real artifacts."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from kfp import dsl
from safetensors.numpy import load_file

from components.deploy_model import deploy_model
from components.evaluate_candidate import evaluate_candidate
from components.measure_latency import measure_latency
from components.prepare_data import prepare_data
from components.recall_models import recall_models
from components.register_model import register_model
from components.runtime import task
from components.select_model import select_model
from components.train_candidate import train_candidate
from steelyard.bundle import WEIGHTS_FILE, ModelBundle, read_failure
from steelyard.data.dataset import Dataset
from steelyard.drift.profile import ReferenceProfile
from steelyard.evaluation.scorecard import Scorecard
from steelyard.params import Candidate, Params
from steelyard.selection.select import read_scorecards
from steelyard.tracking.tracking import Tracking
from tests.conftest import SMALL_CONTRACT, SMALL_PARAMS


@pytest.fixture(autouse=True)
def platform(tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)


def _at(path: Path) -> SimpleNamespace:
    return SimpleNamespace(path=str(path), uri=str(path), metadata={})


def _evaluate(bundle: Path, dataset: Dataset, target: Path) -> dsl.ClassificationMetrics:
    metrics, classification = dsl.Metrics(uri=str(target)), dsl.ClassificationMetrics(uri=str(target))
    evaluate_candidate.python_func(_at(bundle), _at(dataset.folder), _at(target), metrics, classification)
    return classification


def _train(spec: dict[str, object], dataset: Dataset, target: Path, processes: int = 1) -> str:
    """Train a candidate and return its page."""
    page = target.with_suffix(".html")
    train_candidate.python_func(
        candidate=spec,
        dataset=_at(dataset.folder),
        contract=SMALL_CONTRACT,
        bundle=_at(target),
        training=_at(page),
        processes=processes,
    )
    return page.read_text()


def test_prepare_data_returns_the_candidates_without_nulls(tmp_path: Path) -> None:
    candidates = prepare_data.python_func(
        params=SMALL_PARAMS,
        contract=SMALL_CONTRACT,
        data="",
        dataset=_at(tmp_path / "dataset"),
        card=_at(tmp_path / "card.html"),
    )
    assert "<html" in (tmp_path / "card.html").read_text()
    assert [candidate["name"] for candidate in candidates] == ["one-layer", "small-cnn"]
    assert "null" not in json.dumps(candidates)
    assert len(Dataset(tmp_path / "dataset").index.classes) == 10


def test_wrong_input_ends_a_task_with_one_line_and_leaves_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STEELYARD_ERROR_FILE", str(tmp_path / "error.txt"))
    with pytest.raises(SystemExit) as ended:
        prepare_data.python_func(
            params=SMALL_PARAMS,
            contract=SMALL_CONTRACT,
            data="/nowhere",
            dataset=_at(tmp_path / "dataset"),
            card=_at(tmp_path / "card"),
        )
    assert ended.value.code == 2
    assert "error: data.source: '/nowhere'" in capsys.readouterr().err
    assert (tmp_path / "error.txt").read_text().startswith("wrong input: data.source: '/nowhere'")


def test_an_unexpected_error_keeps_its_traceback_and_leaves_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEELYARD_ERROR_FILE", str(tmp_path / "error.txt"))
    with pytest.raises(ZeroDivisionError), task():
        raise ZeroDivisionError("1\n/ 0")
    assert (tmp_path / "error.txt").read_text() == "unexpected ZeroDivisionError: 1 / 0"


def test_checkpoints_lie_in_the_bucket_of_the_artifacts_or_in_the_folder_that_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    artifact = "minio://pipelines/v2/artifacts/run/bundle"
    for name in ("AWS_ENDPOINT_URL", "STEELYARD_CHECKPOINTS"):
        monkeypatch.delenv(name, raising=False)
    with task() as runtime:
        assert (runtime.checkpoints(artifact), runtime.checkpoints("/a/folder")) == ("", "")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:9000")
    with task() as runtime:
        assert runtime.checkpoints(artifact) == "s3://pipelines/checkpoints"
    monkeypatch.setenv("STEELYARD_CHECKPOINTS", "/kept")
    with task() as runtime:
        assert runtime.checkpoints(artifact) == "/kept"


def test_a_candidate_is_trained_once_and_then_remembered(
    candidate: Candidate, dataset: Dataset, tmp_path: Path
) -> None:
    spec = candidate.model_dump(mode="json", exclude_none=True)
    new, old = (_train(spec, dataset, tmp_path / folder) for folder in ("first", "second"))
    first, second = ModelBundle(tmp_path / "first").index, ModelBundle(tmp_path / "second").index
    assert (first.remembered, second.remembered) == (False, True)
    assert first.files == second.files
    assert new.count("<table") == 2
    assert "aten::addmm" in new
    assert (old.count("<table"), "remembered from an earlier run" in old) == (0, True)


def test_a_candidate_s_own_failure_is_written_down_and_the_task_succeeds(
    candidate: Candidate, dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = candidate.model_dump(mode="json", exclude_none=True)
    spec["training"]["learning_rate"] = 1e30
    page = _train(spec, dataset, tmp_path / "bundle")
    failure = read_failure(tmp_path / "bundle")
    assert failure is not None
    assert "the loss became" in failure.reason
    assert "one-layer: failed: the loss became" in capsys.readouterr().err
    assert failure.reason in page
    _evaluate(tmp_path / "bundle", dataset, tmp_path / "card")
    assert "the loss became" in str(Scorecard.read(tmp_path / "card").index.failure)


def test_with_two_gpus_two_processes_train_and_the_first_keeps_what_comes_of_it(
    candidate: Candidate, dataset: Dataset, bundle: ModelBundle, tmp_path: Path, tracking_uri: str
) -> None:
    spec = candidate.model_dump(mode="json", exclude_none=True)
    page = _train(spec, dataset, tmp_path / "bundle", processes=2)
    assert page.count("<table") == 2
    alone, together = (load_file(one / WEIGHTS_FILE) for one in (bundle.folder, tmp_path / "bundle"))
    for name, value in alone.items():
        np.testing.assert_allclose(together[name], value, atol=1e-4)
    kept = Tracking(tracking_uri).recall(bundle.index.run_key, "one-layer", tmp_path / "kept")
    assert kept is not None
    assert kept.index.files == ModelBundle(tmp_path / "bundle").index.files


def test_what_one_of_two_processes_says_of_a_candidate_is_written_down(
    candidate: Candidate, dataset: Dataset, tmp_path: Path
) -> None:
    spec = candidate.model_dump(mode="json", exclude_none=True)
    spec["training"]["learning_rate"] = 1e30
    _train(spec, dataset, tmp_path / "bundle", processes=2)
    failure = read_failure(tmp_path / "bundle")
    assert failure is not None
    assert failure.reason == "the loss became nan in epoch 1; try a lower learning_rate"


@pytest.fixture
def trained(candidate: Candidate, dataset: Dataset, tmp_path: Path) -> Path:
    """What train_candidate left, in the folder and in memory."""
    spec = candidate.model_dump(mode="json", exclude_none=True)
    _train(spec, dataset, tmp_path / "trained")
    return tmp_path / "trained"


def _select(measured: Path, contract: str, folder: Path) -> str:
    winner: str = select_model.python_func(
        measured=_at(measured),
        contract=contract,
        selection=_at(folder / "selection"),
        winner=_at(folder / "winner"),
        report=_at(folder / "report.html"),
        summary=_at(folder / "summary.md"),
        metrics=dsl.Metrics(uri=str(folder / "metrics")),
        classification=dsl.ClassificationMetrics(uri=str(folder / "classification")),
    )
    return winner


def test_from_bundles_to_a_registered_model(trained: Path, dataset: Dataset, tmp_path: Path) -> None:
    classification = _evaluate(trained, dataset, tmp_path / "card")
    assert len(classification.metadata["confusionMatrix"]["rows"]) == 10
    assert classification.metadata["confidenceMetrics"]
    measure_latency.python_func(
        bundles=[_at(trained)], scorecards=[_at(tmp_path / "card")], measured=_at(tmp_path / "measured")
    )
    assert _select(tmp_path / "measured", SMALL_CONTRACT, tmp_path) == "one-layer"
    assert "one-layer" in (tmp_path / "report.html").read_text()
    assert "| one-layer |" in (tmp_path / "summary.md").read_text()
    version = register_model.python_func(
        winner=_at(tmp_path / "winner"),
        dataset=_at(dataset.folder),
        selection=_at(tmp_path / "selection"),
        model=_at(tmp_path / "model"),
    )
    assert version == 1
    packed = ModelBundle(tmp_path / "model")
    packed.verify()
    assert {"reference.json", "reference.npz", "smoke.npz", "MODEL_CARD.md"} <= set(packed.index.files)
    assert ReferenceProfile.read(packed.folder).index.model_sha256 == packed.index.files["1/model.onnx"]


def test_a_model_of_an_earlier_run_competes_with_the_times_it_had(
    trained: Path, params: Params, dataset: Dataset, tmp_path: Path
) -> None:
    _evaluate(trained, dataset, tmp_path / "card")
    measure_latency.python_func(
        bundles=[_at(trained)], scorecards=[_at(tmp_path / "card")], measured=_at(tmp_path / "earlier")
    )
    spec = params.candidates["small-cnn"].model_copy(update={"name": "one-layer"}).model_dump(mode="json")
    _train(spec, dataset, tmp_path / "other")
    _evaluate(tmp_path / "other", dataset, tmp_path / "other-card")
    measure_latency.python_func(
        bundles=[_at(tmp_path / "other")], scorecards=[_at(tmp_path / "other-card")], measured=_at(tmp_path / "now")
    )
    cards = {card.candidate: card for card in read_scorecards([tmp_path / "now"])}
    (remembered,) = [card for name, card in cards.items() if name.startswith("one-layer-")]
    before = Scorecard.read(tmp_path / "earlier" / "one-layer")
    assert remembered.index.run_key == before.index.run_key
    assert remembered.times is not None
    assert before.times is not None
    assert remembered.times.latency_ms_RS.tolist() == before.times.latency_ms_RS.tolist()
    assert cards["one-layer"].times is not None


def test_another_client_is_answered_from_memory_with_a_bundle_to_serve(
    trained: Path, dataset: Dataset, tmp_path: Path
) -> None:
    _evaluate(trained, dataset, tmp_path / "card")
    measure_latency.python_func(
        bundles=[_at(trained)], scorecards=[_at(tmp_path / "card")], measured=_at(tmp_path / "earlier")
    )
    dataset_uri = recall_models.python_func(field="", measured=_at(tmp_path / "recalled"))
    assert dataset_uri == str(dataset.folder)
    contract = "client: other\nmetrics: {latency_p99_ms: {weight: 1, worst: 100, ideal: 0.001}}"
    assert _select(tmp_path / "recalled", contract, tmp_path) == "one-layer"
    assert ModelBundle(tmp_path / "winner").index.files == ModelBundle(trained).index.files


def test_a_remembered_model_whose_files_are_gone_is_left_out(
    trained: Path, params: Params, dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _evaluate(trained, dataset, tmp_path / "card")
    with task() as runtime:
        runtime.tracking.memory().keep(Scorecard.read(tmp_path / "card"))  # never timed
    for bundle in (tmp_path / "mlartifacts").rglob("bundle.json"):
        bundle.unlink()
    spec = params.candidates["small-cnn"].model_dump(mode="json")
    _train(spec, dataset, tmp_path / "other")
    _evaluate(tmp_path / "other", dataset, tmp_path / "other-card")
    measure_latency.python_func(
        bundles=[_at(tmp_path / "other")], scorecards=[_at(tmp_path / "other-card")], measured=_at(tmp_path / "now")
    )
    assert [card.candidate for card in read_scorecards([tmp_path / "now"])] == ["small-cnn"]
    assert "left out: one-layer" in capsys.readouterr().err


def test_a_memory_without_models_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        recall_models.python_func(field="", measured=_at(tmp_path / "recalled"))
    assert ended.value.code == 2
    assert "no model is remembered" in capsys.readouterr().err


def test_nobody_eligible_hands_on_an_empty_winner(bundle: ModelBundle, dataset: Dataset, tmp_path: Path) -> None:
    _evaluate(bundle.folder, dataset, tmp_path / "measured" / "one-layer")
    contract = "client: acme\nmetrics: {accuracy: {weight: 1, worst: 0, ideal: 1, must: '>= 0.9999'}}"
    assert _select(tmp_path / "measured", contract, tmp_path) == "none"
    assert list((tmp_path / "winner").iterdir()) == []


def test_every_component_imports_only_kfp_and_the_standard_library_at_module_level() -> None:
    components = (
        prepare_data,
        train_candidate,
        evaluate_candidate,
        measure_latency,
        recall_models,
        select_model,
        register_model,
        deploy_model,
    )
    for component in components:
        source = Path(component.python_func.__code__.co_filename).read_text()
        modules = {
            line.split()[1].partition(".")[0] for line in source.splitlines() if line.startswith(("import ", "from "))
        }
        assert modules <= {"typing", "kfp", "components"}, component.name
        assert len(source.splitlines()) <= 60, component.name


def test_a_stopped_candidate_passes_through_the_pipeline_with_rung_and_reason(
    params: Params, dataset: Dataset, tmp_path: Path
) -> None:
    def train(name: str, learning_rate: float) -> None:
        recipe = params.training.model_copy(update={"epochs": 3, "learning_rate": learning_rate})
        one = params.candidates["one-layer"].model_copy(update={"name": name, "training": recipe, "halving": True})
        spec = one.model_dump(mode="json", exclude_none=True)
        _train(spec, dataset, tmp_path / name)

    train("good", 0.01)
    train("poor", 1e-7)
    _evaluate(tmp_path / "poor", dataset, tmp_path / "poor-card")
    card = Scorecard.read(tmp_path / "poor-card").index
    assert card.stopped is not None
    assert card.failure == f"halving: {card.stopped.reason}"
    _evaluate(tmp_path / "good", dataset, tmp_path / "good-card")
    measure_latency.python_func(
        bundles=[_at(tmp_path / "good"), _at(tmp_path / "poor")],
        scorecards=[_at(tmp_path / "good-card"), _at(tmp_path / "poor-card")],
        measured=_at(tmp_path / "measured"),
    )
    good = Scorecard.read(tmp_path / "measured" / "good").index
    assert good.hardware is not None, "its times are measured, whatever was estimated"
    assert _select(tmp_path / "measured", SMALL_CONTRACT, tmp_path) == "good"
    assert "not among the best 1 of 2" in (tmp_path / "report.html").read_text()
