"""`steelyard contract check`, as a user calls it."""

from pathlib import Path

import pytest

from pipelines.command_line import main
from steelyard.data.dataset import Dataset
from tests.conftest import SMALL_CONTRACT, SMALL_PARAMS


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "evaluation_metrics.yaml").write_text(SMALL_CONTRACT)
    (tmp_path / "params.yaml").write_text(SMALL_PARAMS)
    return tmp_path / "evaluation_metrics.yaml"


def edit(file: Path, wrong: str, right: str) -> None:
    assert wrong in file.read_text()
    file.write_text(file.read_text().replace(wrong, right))


def test_a_contract_alone_is_explained(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contract", "check", str(file)]) == 0
    told = capsys.readouterr().out
    assert "What acme needs" in told
    assert "fewer than 6 validation images can't show that" in told
    assert "images are enough" not in told


def test_over_params_the_images_are_estimated(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contract", "check", str(file), "--params", str(file.parent / "params.yaml")]) == 0
    assert "There will be about 450 validation images: enough." in capsys.readouterr().out
    edit(file, ">= 0.6", ">= 0.995")
    assert main(["contract", "check", str(file), "--params", str(file.parent / "params.yaml")]) == 0
    assert "too few for a limit.\n  accuracy must be >= 0.995, which 450 images can't show" in capsys.readouterr().out


def test_over_a_dataset_the_images_are_counted(
    file: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["contract", "check", str(file), "--dataset", str(dataset.folder)]
    images = dataset.index.images["validation"]
    assert main(words) == 0
    assert f"The {images} validation images are enough for every limit." in capsys.readouterr().out
    edit(file, ">= 0.6", ">= 0.995")
    assert main(words) == 2
    captured = capsys.readouterr()
    assert "What acme needs" in captured.out
    assert "On the test split this can't be confirmed: accuracy must be >= 0.995" in captured.out
    assert captured.err.count("\n") == 1
    assert f"metrics.accuracy.must: must be >= 0.995, which {images} images can't show" in captured.err


def refused(file: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that is said of a contract."""
    assert main(["contract", "check", str(file), *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {file}: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("option", [None, "--params"])
@pytest.mark.parametrize(
    ("wrong", "right", "complaint"),
    [
        ("accuracy", "acuracy", "metrics.acuracy: unknown metric; did you mean 'accuracy'?"),
        ("weight: 3", "weight: -3", "metrics.accuracy.weight: "),
        ("client: acme", "client: [", "line 4, column 11"),
    ],
)
def test_a_wrong_contract_is_one_line_and_exit_code_2(
    option: str | None, wrong: str, right: str, complaint: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(file, wrong, right)
    assert complaint in refused(
        file, [option, str(file.parent / "params.yaml")] if option == "--params" else [], capsys
    )


@pytest.mark.parametrize("option", ["--params", "--dataset"])
@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("recall[eleven]", "metrics.recall[eleven]: there is no class 'eleven'"),
        ("mean_iou", "metrics.mean_iou: is a metric of segmentation, and the task is"),
        ("top_10_accuracy", "metrics.top_10_accuracy: is always 1, as there are 10 classes"),
    ],
)
def test_a_contract_that_does_not_fit_the_images_is_refused_where_they_are_known(
    option: str, name: str, complaint: str, file: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(file, "accuracy", name)
    place = {"--params": file.parent / "params.yaml", "--dataset": dataset.folder}
    assert complaint in refused(file, [option, str(place[option])], capsys)
    assert main(["contract", "check", str(file)]) == 0, "without the images nobody can know"


@pytest.mark.parametrize("option", ["--params", "--dataset"])
def test_what_is_not_there_is_named(option: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contract", "check", str(file), option, str(file.parent / "nowhere")]) == 2
    captured = capsys.readouterr()
    assert "nowhere" in captured.err
    assert captured.err.count("\n") == 1


def test_the_nested_help_teaches_by_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["contract", "check", "--help"])
    assert ended.value.code == 0
    assert "steelyard contract check examples/digits/evaluation_metrics.yaml" in capsys.readouterr().out
