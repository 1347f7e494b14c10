import json
from pathlib import Path

import pytest

from steelyard.artifact import new_folder
from steelyard.bundle import ModelBundle
from steelyard.data.dataset import Dataset, DatasetIndex
from steelyard.errors import ArtifactError, StoreError


def _rewrite(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.fixture
def folder(dataset: Dataset, tmp_path: Path) -> Path:
    (tmp_path / "dataset.json").write_bytes((dataset.folder / "dataset.json").read_bytes())
    return tmp_path


def test_an_unknown_major_version_is_refused(folder: Path) -> None:
    _rewrite(folder / "dataset.json", schema_version="2.0")
    with pytest.raises(ArtifactError, match=r"schema_version 2\.0 is not known"):
        Dataset(folder)


def test_a_newer_minor_version_may_bring_fields_that_are_not_known_here(folder: Path) -> None:
    _rewrite(folder / "dataset.json", schema_version="1.7", colour="blue")
    assert Dataset(folder).index.task == "classification"


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b'{"task": "classification"}'])
def test_what_is_no_index_is_refused(folder: Path, content: bytes) -> None:
    (folder / "dataset.json").write_bytes(content)
    with pytest.raises(ArtifactError, match="is not a JSON object with a schema_version"):
        DatasetIndex.read(folder / "dataset.json")


def test_a_folder_that_could_not_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    with new_folder(target) as partial:
        (partial / "old").touch()
    with pytest.raises(RuntimeError), new_folder(target) as partial:  # noqa: PT012
        (partial / "new").touch()
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]
    assert [path.name for path in target.iterdir()] == ["old"]


def test_a_full_disk_is_one_sentence_and_what_was_there_stays(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    with pytest.raises(StoreError, match="bundle: can't be written: No space left"), new_folder(target) as partial:  # noqa: PT012
        (partial / "weights").symlink_to("/dev/full")
        (partial / "weights").write_bytes(b"0" * 10)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_whose_model_was_changed_is_found_out(bundle: ModelBundle, tmp_path: Path) -> None:
    copy = bundle.copy_to(tmp_path / "copy")
    copy.verify()
    copy.model_path.write_bytes(copy.model_path.read_bytes() + b"x")
    with pytest.raises(ArtifactError, match=r"model\.onnx: is missing or differs"):
        copy.verify()
