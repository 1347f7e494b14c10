"""CIFAR's pickles: whoever wrote them, they are read alike, and nothing in them is run."""

import os
import pickle
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from steelyard.data.sources.cifar import LAYOUTS
from steelyard.errors import SourceError
from steelyard.store import ObjectStore
from tests.s3_server import uploaded
from tests.steelyard.data.pictures import digests, labelled, prepared

CLASSES = {"cifar10": 10, "cifar100": 100}
OTHER_KEYS = {"cifar10": {"batch_label": "a part"}, "cifar100": {"coarse_labels": [0]}}

Dump = Callable[[dict[str, Any]], bytes]


class _Python2(pickle._Pickler):  # type: ignore[name-defined]
    """Writes bytes as Python 2 writes its strings."""

    def _string(self, text: bytes) -> None:
        self.write(pickle.BINSTRING + len(text).to_bytes(4, "little") + text)
        self.memoize(text)

    dispatch: ClassVar = {**pickle._Pickler.dispatch, bytes: _string}  # type: ignore[attr-defined]


def python2(content: dict[str, Any]) -> bytes:
    def string(value: Any) -> Any:
        if isinstance(value, list):
            return [string(one) for one in value]
        return value.encode() if isinstance(value, str) else value

    stream = BytesIO()
    _Python2(stream, 2).dump({string(key): string(value) for key, value in content.items()})
    return stream.getvalue().replace(b"numpy._core", b"numpy.core")


def python3(content: dict[str, Any]) -> bytes:
    return pickle.dumps(content)


DUMPS: dict[str, Dump] = {
    "Python 2": python2,
    "Python 3": python3,
    "Python 3 for Python 2": lambda content: pickle.dumps(content, 2),
    "Python 3, highest protocol": lambda content: pickle.dumps(content, pickle.HIGHEST_PROTOCOL),
}


def write_cifar(root: Path, name: str, dump: Dump = python3, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """Write two images of each class into each file, and return for each split its images' classes, by pixels."""
    layout, classes = LAYOUTS[name], CLASSES[name]
    folder = root / layout.folder
    folder.mkdir(parents=True, exist_ok=True)
    file, key = layout.names
    (folder / file).write_bytes(dump({key: [f"class-{number}" for number in range(classes)]}))
    written: dict[str, Any] = {"train": {}, "test": {}}
    generator = np.random.default_rng(0)
    for split, parts in layout.files.items():
        for part in parts:
            data = generator.integers(0, 256, (2 * classes, 3 * 32 * 32), np.uint8)
            labels = [int(label) for label in generator.permutation(np.repeat(np.arange(classes), 2))]
            if part not in leave_out:
                (folder / part).write_bytes(dump({layout.labels: labels, "data": data, **OTHER_KEYS[name]}))
                images = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
                pairs = zip(images, labels, strict=True)
                written[split] |= {image_HWC.tobytes(): f"class-{label}" for image_HWC, label in pairs}
    return written


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("dump", DUMPS.values(), ids=DUMPS)
def test_images_labels_and_names_are_those_of_the_files_whoever_wrote_them(
    tmp_path: Path, name: str, dump: Dump
) -> None:
    written = write_cifar(tmp_path / "root", name, dump)
    dataset = prepared(name, tmp_path / "out", root=str(tmp_path / "root"), image_size=32)
    assert labelled(dataset, "test") == written["test"]
    assert labelled(dataset, "train") | labelled(dataset, "validation") == written["train"]
    assert dataset.index.images["validation"] > 0


@pytest.mark.parametrize("leave_out", [("data_batch_1", "data_batch_3"), ("data_batch_5", "test_batch")])
def test_a_part_of_the_files_is_enough(tmp_path: Path, leave_out: tuple[str, ...]) -> None:
    written = write_cifar(tmp_path / "root", "cifar10", leave_out=leave_out)
    dataset = prepared("cifar10", tmp_path / "out", root=str(tmp_path / "root"), image_size=32)
    assert labelled(dataset) == written["train"] | written["test"]
    assert dataset.index.images["test"] > 0  # carved out of the training images where no file gives it


def test_the_folder_itself_may_be_the_root(tmp_path: Path) -> None:
    written = write_cifar(tmp_path, "cifar100")
    dataset = prepared("cifar100", tmp_path / "out", root=str(tmp_path / "cifar-100-python"), image_size=32)
    assert labelled(dataset, "test") == written["test"]


def test_other_files_of_the_same_names_are_left_alone(tmp_path: Path) -> None:
    write_cifar(tmp_path / "root", "cifar100")
    for folder in ("aside", "cifar-100-python/aside", "z"):
        (tmp_path / "root" / folder).mkdir()
        for name in ("train", "test", "meta"):
            (tmp_path / "root" / folder / name).write_text("something else")
    assert len(labelled(prepared("cifar100", tmp_path / "out", root=str(tmp_path / "root"), image_size=32))) == 400


def test_they_are_read_from_a_store_as_from_a_disk(tmp_path: Path, store: ObjectStore) -> None:
    write_cifar(tmp_path / "root", "cifar10", python2)
    local = prepared("cifar10", tmp_path / "local", root=str(tmp_path / "root"))
    address = uploaded(tmp_path / "root", store)
    assert digests(prepared("cifar10", tmp_path / "remote", store, root=address)) == digests(local)


class _Call:
    """Pickled, the call of a function when it is read."""

    def __init__(self, function: Callable[..., object], *values: object) -> None:
        self._call = function, values

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._call


@pytest.mark.parametrize("file", ["batches.meta", "data_batch_1", "test_batch"])
@pytest.mark.parametrize("function", [os.system, eval])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(
    tmp_path: Path, file: str, function: Callable[..., object]
) -> None:
    write_cifar(tmp_path / "root", "cifar10")
    trace = tmp_path / "trace"
    code = f"touch '{trace}'" if function is os.system else f"open({str(trace)!r}, 'w')"
    evil = pickle.dumps({"data": _Call(function, code), "labels": [], "label_names": []})
    (tmp_path / "root" / "cifar-10-batches-py" / file).write_bytes(evil)
    with pytest.raises(SourceError, match=rf"^data\.root: [^\n]*{file}[^\n]* is not admitted$"):
        prepared("cifar10", tmp_path / "out", root=str(tmp_path / "root"))
    assert not trace.exists()
    pickle.loads(evil)
    assert trace.exists()  # the pickle is what it should be


IMAGES = np.zeros((2, 3072), np.uint8)
DAMAGED = {
    "nothing": b"",
    "a text": b"something else",
    "a pickle cut short": pickle.dumps({"labels": [0, 1], "data": IMAGES})[:-200],
    "a list": pickle.dumps([0, 1]),
    "no images": pickle.dumps({"labels": [0, 1]}),
    "no labels": pickle.dumps({"data": IMAGES}),
    "numbers of another kind": pickle.dumps({"labels": [0, 1], "data": IMAGES.astype(np.float32)}),
    "images of another size": pickle.dumps({"labels": [0, 1], "data": IMAGES[:, :3000]}),
    "images without rows": pickle.dumps({"labels": [0, 1], "data": IMAGES[0]}),
    "fewer images than labels": pickle.dumps({"labels": [0, 1, 0], "data": IMAGES}),
    "more images than labels": pickle.dumps({"labels": [0], "data": IMAGES}),
    "a class without a name": pickle.dumps({"labels": [0, 10], "data": IMAGES}),
    "a class below the first": pickle.dumps({"labels": [0, -1], "data": IMAGES}),
    "labels that are words": pickle.dumps({"labels": ["cat", "dog"], "data": IMAGES}),
    "labels that are no list": pickle.dumps({"labels": 1, "data": IMAGES}),
    "more images than memory": pickle.dumps({"labels": [0], "data": _Call(np.ndarray, (2**44, 3072), np.dtype("u1"))}),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_file_that_holds_something_else_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    write_cifar(tmp_path / "root", "cifar10")
    (tmp_path / "root" / "cifar-10-batches-py" / "data_batch_2").write_bytes(content)
    with pytest.raises(SourceError, match=r"^data\.root: [^\n]*data_batch_2[^\n]*$"):
        prepared("cifar10", tmp_path / "out", root=str(tmp_path / "root"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("names", [b"", pickle.dumps([]), pickle.dumps({}), pickle.dumps({"label_names": 1})])
def test_names_that_are_none_are_refused_in_one_line(tmp_path: Path, names: bytes) -> None:
    write_cifar(tmp_path / "root", "cifar10")
    (tmp_path / "root" / "cifar-10-batches-py" / "batches.meta").write_bytes(names)
    with pytest.raises(SourceError, match=r"^data\.root: [^\n]*batches\.meta[^\n]*$"):
        prepared("cifar10", tmp_path / "out", root=str(tmp_path / "root"))


@pytest.mark.parametrize("leave_out", [("batches.meta",), LAYOUTS["cifar10"].files["train"]])
def test_what_is_missing_is_named(tmp_path: Path, leave_out: tuple[str, ...]) -> None:
    write_cifar(tmp_path / "root", "cifar10", leave_out=leave_out)
    for name in leave_out:
        (tmp_path / "root" / "cifar-10-batches-py" / name).unlink(missing_ok=True)
    with pytest.raises(SourceError, match=r"^data\.root: .* holds no cifar-10-batches-py with batches\.meta"):
        prepared("cifar10", tmp_path / "out", root=str(tmp_path / "root"))
