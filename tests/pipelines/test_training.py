"""`steelyard train` as its users call it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.command_line import main
from steelyard.bundle import WEIGHTS_FILE, ModelBundle
from steelyard.data.dataset import Dataset
from tests.conftest import SMALL_CONTRACT, SMALL_PARAMS


@pytest.fixture
def params_file(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(SMALL_PARAMS)
    return tmp_path / "params.yaml"


@pytest.fixture
def words(params_file: Path, dataset: Dataset, tmp_path: Path) -> list[str]:
    common = [params_file, "--data", dataset.folder, "--output", tmp_path / "out", "--candidate", "one-layer"]
    return ["train", *map(str, common)]


@pytest.fixture(autouse=True)
def no_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


def test_json_is_one_object_and_a_second_call_finds_the_bundle(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "pipelines", *words, "--json"]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    answer = json.loads(first.stdout)
    bundle = ModelBundle(tmp_path / "out" / "bundle")
    assert (answer["run_key"], answer["weights_sha256"]) == (bundle.index.run_key, bundle.index.files[WEIGHTS_FILE])
    assert answer["images_per_s"] > 0
    assert answer["peak_mib"] > 20
    assert (answer["device"], answer["precision"]) == (bundle.index.device, bundle.index.precision)
    assert 0 <= answer["onnx_max_diff"] <= 1e-4
    assert (answer["remembered"], answer["resumed_from_step"]) == (False, 0)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("bundle", "checkpoints", "profile", "training.html", ".lock")
    }
    assert not list((tmp_path / "out" / "checkpoints").iterdir())
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("one-layer: remembered, epoch ")


def test_with_tracking_the_training_is_remembered_elsewhere(
    words: list[str],
    tmp_path: Path,
    tracking_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    answers = []
    for output in ("first", "again"):
        assert main([*words, "--json", "--output", str(tmp_path / output)]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert [answer["remembered"] for answer in answers] == [False, True]
    assert len({answer["weights_sha256"] for answer in answers}) == 1


def test_what_a_killed_export_left_is_cleared_away(words: list[str], tmp_path: Path) -> None:
    left = tmp_path / "out" / ".bundle.partial-77"
    left.mkdir(parents=True)
    (left / "weights.safetensors").touch()
    assert main(words) == 0
    assert not left.exists()


def test_a_contract_of_another_task_is_refused_before_training(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contract = tmp_path / "contract.yaml"
    for metric, complaint in (("mean_iou", "segmentation"), ("recall[nobody]", "nobody")):
        contract.write_text(f"client: acme\nmetrics: {{'{metric}': {{weight: 1, worst: 0, ideal: 1}}}}")
        assert main([*words, "--contract", str(contract)]) == 2
        assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "changed", "sentence"),
    [
        ("one-layr", ("", ""), "candidates: there is no 'one-layr'; did you mean 'one-layer'?"),
        ("one-layer", ("image_size: 8", "image_size: 9"), "is for classification of 8x8x1, but"),
    ],
)
def test_wrong_input_is_one_sentence(
    words: list[str],
    params_file: Path,
    name: str,
    changed: tuple[str, str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    params_file.write_text(SMALL_PARAMS.replace(*changed))
    assert main([*words, "--candidate", name]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_a_candidate_s_own_failure_is_its_sentence(
    words: list[str], params_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params_file.write_text(SMALL_PARAMS.replace("learning_rate: 0.01", "learning_rate: 1.0e+30"))
    assert main(words) == 1
    assert "error: the loss became" in capsys.readouterr().err


def test_halving_by_a_contract_stops_the_poorer_one_and_says_at_which_rung(
    words: list[str],
    params_file: Path,
    tmp_path: Path,
    tracking_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    poor = "  poor: {layers: [{flatten: true}, {dense: 32}], training: {learning_rate: 1.0e-7}}\n"
    params_file.write_text("halving: true\n" + SMALL_PARAMS.replace("epochs: 2", "epochs: 3") + poor)
    (tmp_path / "contract.yaml").write_text(SMALL_CONTRACT)
    answers = []
    for name in ("one-layer", "poor"):
        place = ["--candidate", name, "--output", str(tmp_path / name)]
        assert main([*words, "--json", "--contract", str(tmp_path / "contract.yaml"), *place]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0]["stopped"] is None
    assert (answers[1]["stopped"]["rung"], answers[1]["bundle"]) == (2, None)
    assert "not among the best 1 of 2" in answers[1]["stopped"]["reason"]
    assert answers[1].keys() == answers[0].keys()
    assert len(answers[1]["run_key"]) == 64
    assert list((tmp_path / "poor" / "checkpoints").rglob("*.json")), "which a later run goes on from"
