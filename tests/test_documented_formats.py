"""docs/artifacts.md names every field of every index, as the models have them; its example is decided over."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import BaseModel

from pipelines.command_line import main
from steelyard.artifact import SCHEMA_VERSION, Index, Record
from steelyard.bundle import BundleIndex, FailureIndex
from steelyard.data.dataset import DatasetIndex, DatasetRef
from steelyard.drift.profile import ReferenceArrays, ReferenceIndex
from steelyard.errors import ArtifactError
from steelyard.evaluation.answers import MaskCounts, SplitOutputs
from steelyard.evaluation.mistakes import Mistakes
from steelyard.evaluation.scorecard import Scorecard, ScorecardIndex
from steelyard.evaluation.times import Times
from steelyard.metrics import known_names, metric
from steelyard.profile import ProfileIndex
from steelyard.selection.selection import Selection
from steelyard.training.checkpoint import CheckpointIndex

DOCUMENT = (Path(__file__).parents[1] / "docs" / "artifacts.md").read_text(encoding="utf-8")
INDEXES = (
    *(DatasetIndex, BundleIndex, CheckpointIndex, ProfileIndex, FailureIndex),
    *(ScorecardIndex, Selection, ReferenceIndex),
)


def records(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield a model and every model that its fields hold, at any depth."""
    yield model
    for field in model.model_fields.values():
        for inner in annotated(field.annotation):
            yield from records(inner)


def annotated(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from annotated(argument)


MODELS = {model.__name__: model for index in INDEXES for model in records(index)}


def sections(document: str = DOCUMENT) -> dict[str, str]:
    """Return the text below each heading that names a type."""
    parts = re.split(r"^#{2,3} ", document, flags=re.MULTILINE)[1:]
    named = [(re.match(r"`(\w+)`", part), part) for part in parts]
    return {name[1]: part for name, part in named if name}


def rows(text: str) -> dict[str, list[str]]:
    """Return the cells of each row of the first table, by the name in its first cell."""
    table = re.search(r"(^\|.*\n)+", text, flags=re.MULTILINE)
    assert table, f"there is no table in: {text[:60]}"
    cells = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table[0].splitlines()[2:]]
    return {first.strip("`"): rest for first, *rest in cells}


def differences(name: str, model: type[BaseModel], document: str = DOCUMENT) -> list[str]:
    """Say where the table of a model and the model differ."""
    if name not in sections(document):
        return [f"{name} is not documented"]
    documented = rows(sections(document)[name])
    told = {field: cells[1].split(",")[0] for field, cells in documented.items()}
    # The reader refuses an index without its version, although the model has a default to write.
    wanted = {
        field: "yes" if info.is_required() or field == "schema_version" else "no"
        for field, info in model.model_fields.items()
    }
    return [
        f"{name}.{field}: required is {told.get(field)} in the document, {wanted.get(field)} in the model"
        for field in sorted(told.keys() | wanted.keys())
        if told.get(field) != wanted.get(field)
    ]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_field_of_every_index_is_documented(name: str) -> None:
    assert differences(name, MODELS[name]) == []


def test_every_index_is_looked_at_and_nothing_else_is_documented() -> None:
    assert {index.__name__ for index in Index.__subclasses__()} <= MODELS.keys()
    assert sections().keys() == {*MODELS, "ReferenceArrays"}


def test_a_field_that_is_new_renamed_or_no_longer_optional_is_noticed() -> None:
    class Wider(DatasetRef):
        licence: str

    assert differences("DatasetRef", Wider) == [
        "DatasetRef.licence: required is None in the document, yes in the model"
    ]
    renamed = DOCUMENT.replace("| `hardware_class` | string | yes", "| `processor` | string | yes", 1)
    assert len(differences("Hardware", MODELS["Hardware"], renamed)) == 2
    optional = DOCUMENT.replace("| `unit` | string | yes", "| `unit` | string | no, empty", 1)
    assert len(differences("Measurement", MODELS["Measurement"], optional)) == 1

    class Unknown(Record):
        pass

    assert differences("Unknown", Unknown) == ["Unknown is not documented"]


def test_nullable_fields_say_so() -> None:
    for name, model in MODELS.items():
        for field, cells in rows(sections()[name]).items():
            nullable = type(None) in get_args(model.model_fields[field].annotation)
            assert ("or null" in cells[0]) == nullable, f"{name}.{field}"


def test_the_arrays_of_the_reference_are_documented() -> None:
    documented = rows(sections()["ReferenceArrays"])
    wanted = {field.name: str(field.type) for field in dataclasses.fields(ReferenceArrays)}
    assert documented.keys() == wanted.keys()
    for name, cells in documented.items():
        assert cells[0] in wanted[name], f"{name} is {wanted[name]}, not {cells[0]}"


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A Scorecard with every file; its test split is that of another task, so that both kinds of answers are there."""
    answers = SplitOutputs(probabilities_NC=np.full((4, 2), 0.5, np.float32), labels_N=np.zeros(4, np.int64))
    masks = MaskCounts(counts_NCC=np.ones((4, 2, 2), np.int64))
    wrong = np.zeros(1, np.int64)
    Scorecard(
        index=ScorecardIndex.model_validate({**example(), "classes": ["a", "b"]}),
        answers={"validation": answers, "test": masks},
        mistakes=Mistakes(np.zeros((1, 2, 2, 3), np.uint8), wrong, wrong, np.ones(1, np.float32)),
        times=Times(np.ones((3, 5)), np.ones(3)),
    ).write(tmp_path / "card")
    return tmp_path / "card"


def test_the_arrays_of_a_scorecard_are_documented(card: Path) -> None:
    told = rows(DOCUMENT[DOCUMENT.index("`validation.npz` and `test.npz`, what was answered") :])
    said = {name.partition("`")[0]: cells[0] for name, cells in told.items()}
    assert said == dtypes(card / "validation.npz") | dtypes(card / "test.npz")
    for name in ("times", "mistakes"):
        told = rows(DOCUMENT[DOCUMENT.index(f"\n`{name}.npz`") :])
        assert {array: cells[0] for array, cells in told.items()} == dtypes(card / f"{name}.npz")


def test_every_file_of_a_scorecard_is_documented(card: Path) -> None:
    (line,) = [line for line in DOCUMENT.splitlines() if line.startswith("| [Scorecard]")]
    told = set(re.findall(r"`([^`]+)`", line.split("|")[2]))
    assert told == {file.name for file in card.iterdir()}


def dtypes(file: Path) -> dict[str, str]:
    with np.load(file) as arrays:
        return {name: str(arrays[name].dtype) for name in arrays}


def test_every_metric_is_documented() -> None:
    documented = rows(DOCUMENT[DOCUMENT.index("### Metrics") :])
    assert list(documented) == known_names()
    for name, (unit, better, place, task) in documented.items():
        read = metric(name.replace("top_K", "top_5"))
        assert unit == read.unit
        assert better == ("higher" if read.higher_is_better else "lower")
        assert place == ("`validation`, `test`" if read.quality else "`model`")
        assert task == (read.task or "either")


def test_the_version_rule_holds_as_documented(tmp_path: Path) -> None:
    assert f"this is `{SCHEMA_VERSION}`" in DOCUMENT
    newer = write(tmp_path / "newer", {**example(), "schema_version": "1.9", "colour": "blue"})
    assert Scorecard.read(newer).candidate == "vendor-model"
    with pytest.raises(ArtifactError, match=r"schema_version 2\.0 is not known here"):
        Scorecard.read(write(tmp_path / "other", {**example(), "schema_version": "2.0"}))


def test_the_example_is_minimal(tmp_path: Path) -> None:
    for field in example().keys() - {"validation", "model"}:
        less = {name: value for name, value in example().items() if name != field}
        with pytest.raises(ArtifactError):
            Scorecard.read(write(tmp_path / field, less))


def test_the_command_decides_over_scorecards_written_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contract = tmp_path / "evaluation_metrics.yaml"
    contract.write_text(fenced("yaml"), encoding="utf-8")
    theirs = write(tmp_path / "vendor-model", example())
    slower = {"latency_p95_ms": {"value": 30.0, "bound": 31.0, "unit": "ms"}}
    ours = write(tmp_path / "our-model", {**example(), "candidate": "our-model", "model": slower})
    words = ["--contract", str(contract), "--output", str(tmp_path / "choice"), "--json", str(theirs), str(ours)]
    assert main(["select", *words]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["winner"] == "vendor-model"
    assert [rejected["candidate"] for rejected in printed["rejected"]] == ["our-model"]
    assert Selection.read(tmp_path / "choice" / "selection.json").winner == "vendor-model"
    assert (tmp_path / "choice" / "report.html").is_file()
    assert Scorecard.read(tmp_path / "choice" / "scorecards" / "our-model").candidate == "our-model"


def example() -> dict[str, Any]:
    return dict(json.loads(fenced("json")))


def fenced(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    assert found, f"there is no {language} block"
    return found[1]


def write(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "scorecard.json").write_text(json.dumps(content), encoding="utf-8")
    return folder
