"""Where images come from: digits, class folders, manifests, Places365; and from a store what comes from a disk.

CIFAR and segmentation have files of their own.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from steelyard.data.dataset import SPLITS, Dataset
from steelyard.data.files import files_at
from steelyard.data.item import Item
from steelyard.data.sources.choose import open_source
from steelyard.data.sources.folders import ClassFolders
from steelyard.errors import SourceError, UnreadableImage
from steelyard.params import Data
from steelyard.store import ObjectStore
from tests.s3_server import uploaded
from tests.steelyard.data.pictures import (
    REAL,
    class_folders,
    digests,
    labelled,
    needs_real_data,
    noise,
    prepared,
    reasons,
    rows,
    save,
    splits,
)


def listed(source: Path, **changes: object) -> dict[str, Item]:
    """Return what a source lists, by path."""
    data = Data.model_validate({"source": str(source), "image_size": 8, **changes})
    return {item.path: item for item in open_source(data).items()}


def labels(source: Path) -> dict[str, tuple[str, str]]:
    """Return the label and the split that a source gives, by path."""
    return {path: (item.label, item.split) for path, item in listed(source).items()}


def test_digits_are_those_of_scikit_learn(dataset: Dataset) -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    assert labelled(dataset) == {
        image.tobytes(): str(label) for image, label in zip(pixels, bunch.target.tolist(), strict=True)
    }


def test_a_folder_is_a_class_and_what_is_in_folders_below_belongs_to_it(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "1.png", noise(1))
    save(tmp_path / "cat" / "at night" / "far away" / "1.png", noise(2))
    save(tmp_path / "dog" / "1.png", noise(3))
    (tmp_path / "README.md").write_text("belongs to no class")
    (tmp_path / ".cache" / "x").mkdir(parents=True)
    (tmp_path / ".cache" / "x" / "1.png").write_bytes(b"")
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"")
    assert labels(tmp_path) == {
        "cat/1.png": ("cat", ""),
        "cat/at night/far away/1.png": ("cat", ""),
        "dog/1.png": ("dog", ""),
    }


@pytest.mark.parametrize(
    "names", [("train", "validation", "test"), ("Train", "val", "TEST"), ("training", "valid"), ("train",)]
)
def test_folders_named_as_splits_are_splits(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        save(tmp_path / name / "cat" / "1.png", noise(1))
    given = [split for _, split in (labels(tmp_path)[f"{name}/cat/1.png"] for name in names)]
    assert given == ["train", "validation", "test"][: len(names)]
    assert {label for label, _ in labels(tmp_path).values()} == {"cat"}


@pytest.mark.parametrize("names", [("train", "bus"), ("test",), ("val", "test")])
def test_folders_of_which_not_all_are_named_as_splits_are_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        save(tmp_path / name / "red" / "1.png", noise(1))
    assert labels(tmp_path) == {f"{name}/red/1.png": (name, "") for name in names}


def test_folders_without_files_beside_splits_do_not_matter(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        save(tmp_path / name / "cat" / "1.png", noise(1))
    (tmp_path / "__MACOSX" / "cat").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "cat" / "._1.png").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    assert labels(tmp_path) == {
        f"{name}/cat/1.png": ("cat", split)
        for name, split in (("train", "train"), ("val", "validation"), ("test", "test"))
    }


def test_folders_with_files_beside_splits_are_refused_and_named(tmp_path: Path, store: ObjectStore) -> None:
    for name in ("train/cat", "test/cat", "old", "bus/red"):
        save(tmp_path / name / "1.png", noise(1))
    said = r"^data\.source: .* has folders for splits, test, train, and beside them bus, old; move either elsewhere$"
    with pytest.raises(SourceError, match=said):
        listed(tmp_path)
    with pytest.raises(SourceError, match=said):
        list(ClassFolders(files_at(uploaded(tmp_path, store), store)).items())


@pytest.mark.parametrize("split", ["", "train/"])
def test_images_beside_the_class_folders_are_listed_as_of_no_class(tmp_path: Path, split: str) -> None:
    for name in ("train", "val") if split else ("",):
        class_folders(tmp_path / name, 2)
    names = ("1.png", "2.JPG", "README.md", "labels.csv")
    for name in names:
        (tmp_path / f"{split}{name}").write_bytes(b"")
    problems = {path: item.problem for path, item in listed(tmp_path).items() if item.problem}
    assert problems == dict.fromkeys((f"{split}1.png", f"{split}2.JPG"), "lies in no class folder")


def test_images_of_given_splits_stay_there(tmp_path: Path) -> None:
    for first, name in enumerate(("train", "val", "test")):
        class_folders(tmp_path / "source" / name, 4, first=4 * first)
    dataset = prepared(tmp_path / "source", tmp_path / "out")
    assert dataset.index.classes == ("cat", "dog")
    assert dataset.index.counts == {split: {"cat": 4, "dog": 4} for split in SPLITS}
    wanted = {"train": "train", "val": "validation", "test": "test"}
    assert all(split == wanted[path.partition("/")[0]] for path, split in splits(dataset).items())


@pytest.mark.parametrize("where", ["train/cat/1.png", "train/1.png", "train", "val/cat"])
def test_below_folders_of_splits_a_link_to_nothing_is_listed_with_its_problem(tmp_path: Path, where: str) -> None:
    class_folders(tmp_path / "train", 2, first=5)
    class_folders(tmp_path / "val", 2, first=9)
    link = tmp_path / where if where != "train" else tmp_path / "train" / "up"
    link.parent.mkdir(exist_ok=True)
    if link.is_dir():
        for file in link.iterdir():
            file.unlink()
        link.rmdir()
    link.symlink_to(".." if where == "train" else "nothing")
    broken = [item.path for item in listed(tmp_path).values() if item.problem]
    assert broken == [link.relative_to(tmp_path).as_posix()]


@pytest.mark.parametrize(
    ("file", "said"), [("", "is empty"), ("1.png", "has 1 image in no folder"), ("cat/Thumbs.db", "is empty")]
)
def test_a_folder_without_classes_is_refused(tmp_path: Path, file: str, said: str) -> None:
    if file:
        save(tmp_path / "1.png", noise(1))
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / "1.png").rename(tmp_path / file)
    with pytest.raises(SourceError, match=rf"^data\.source: .* {said}: it needs one folder per class"):
        listed(tmp_path)


def csv_file(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    file = folder / "images.csv"
    file.write_bytes(text.encode(encoding))
    return file


def json_file(folder: Path, *lines: object) -> Path:
    file = folder / "images.jsonl"
    file.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return file


def test_a_manifest_says_label_split_and_group(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c, d.png"):
        save(tmp_path / name, noise(1))
    by_csv = csv_file(
        tmp_path,
        'group,path,note,label,split\n7,a.png,x,cat,train\n8,b.png,,"dog, large",Val\n,"c, d.png",,"the ""cat""",\n',
    )
    by_json = json_file(
        tmp_path,
        {"path": "a.png", "label": "cat", "split": "train", "group": 7, "note": "x"},
        {"path": "b.png", "label": "dog, large", "split": "Val", "group": "8"},
        "",
        {"path": "c, d.png", "label": 'the "cat"', "split": None},
    )
    for file in (by_csv, by_json):
        said = {item.path: (item.label, item.split, item.group, item.problem) for item in listed(file).values()}
        assert said == {
            "a.png": ("cat", "train", "7", ""),
            "b.png": ("dog, large", "validation", "8", ""),
            "c, d.png": ('the "cat"', "", "", ""),
        }


def test_columns_of_a_manifest_that_are_not_used_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "a.png", noise(1))
    with caplog.at_level(logging.INFO):
        listed(csv_file(tmp_path, "path,label,patient,age\na.png,cat,7,50\n"))
    assert "images.csv: columns that are not used: patient, age" in caplog.text


@pytest.mark.parametrize(("encoding", "end"), [("utf-8", "\n"), ("utf-8-sig", "\n"), ("utf-8", "\r\n")])
def test_a_manifest_may_come_from_a_spreadsheet(tmp_path: Path, encoding: str, end: str) -> None:
    save(tmp_path / "été.png", noise(1))
    file = csv_file(tmp_path, f"path, label , group {end}été.png, fougère , 7 {end}{end}", encoding)
    assert labels(file) == {"été.png": ("fougère", "")}
    assert listed(file)["été.png"].group == "7"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "lacks the column 'path'; it has: none"),
        ("label,file\ncat,a.png\n", "lacks the column 'path'; it has: label, file"),
        ("path;label\na.png;cat\n", "lacks the column 'path'; it has: path;label"),
        ("path,class\na.png,cat\n", "lacks the column 'label'; it has: path, class"),
        ("path,label\n", "lists no images"),
        (f"path,label\na.png,cat\n{'x' * 200_000},cat\n", "line 3: field larger than field limit"),
        ('path,label\na.png,cat\nb.png,"cat\nc.png,dog\n', "line 4: unexpected end of data"),
        ('path,label\na.png,"cat\nb.png,"dog\nc.png,dog\n', "line 3: ',' expected after '\"'"),
    ],
)
def test_a_csv_manifest_that_says_too_little_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(SourceError, match=rf"^data\.source: images\.csv: {complaint}"):
        listed(csv_file(tmp_path, text))


def test_a_manifest_in_another_encoding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"^data\.source: images\.csv: is not UTF-8 text$"):
        listed(csv_file(tmp_path, "path,label\nété.png,cat\n", "latin-1"))


@pytest.mark.parametrize(
    "line", ['{"path": "b.png", "label"', "[1, 2]", "b.png cat", '{"path": "\\ud800", "label": 1}']
)
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(SourceError, match=r"^data\.source: images\.jsonl: line 2 is no JSON object"):
        listed(json_file(tmp_path, {"path": "a.png", "label": "cat"}, line))


def test_an_empty_json_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"^data\.source: images\.jsonl: lists no images$"):
        listed(json_file(tmp_path, "", ""))


def test_columns_are_known_in_any_case_and_what_has_none_is_not_cut_off(tmp_path: Path) -> None:
    lines = [f"{number}.png,{('cat', 'dog')[number % 2]},test,7" for number in range(3)]
    by_csv = csv_file(tmp_path, "\n".join(["Path,Label,Split,Group", *lines, "3.png,New York, NY,test,7"]))
    for number in range(4):
        save(tmp_path / f"{number}.png", noise(number))
    found = listed(by_csv)
    assert {(item.split, item.group) for path, item in found.items() if path != "3.png"} == {("test", "7")}
    assert found["3.png"].problem == "its line has more fields than there are columns"
    by_json = json_file(tmp_path, {"Path": "0.png", "LABEL": "cat", "Split": "test", "Group": 7})
    assert listed(by_json)["0.png"][3:6] == ("cat", "7", "test")


def test_lines_without_a_path_are_counted_one_by_one(tmp_path: Path) -> None:
    good = [{"path": f"{number}.png", "label": "cat" if number % 2 else "dog"} for number in range(12)]
    for number, one in enumerate(good):
        save(tmp_path / str(one["path"]), noise(number))
    file = json_file(tmp_path, *good, *[{"label": "cat"}] * 4)
    with pytest.raises(SourceError, match=r"4 of 16 files can't be used.*, or allow more: #13 has no path; "):
        prepared(file, tmp_path / "out", max_quarantined=0.2)
    assert len(reasons(prepared(file, tmp_path / "out", max_quarantined=0.3))) == 4


@pytest.mark.parametrize("path", ["./{}.png", "x/../{}.png"])
def test_a_path_may_lead_through_other_folders(tmp_path: Path, store: ObjectStore, path: str) -> None:
    (tmp_path / "source" / "x").mkdir(parents=True)
    lines = [{"path": path.format(number), "label": "cat" if number % 2 else "dog"} for number in range(12)]
    for number in range(12):
        save(tmp_path / "source" / f"{number}.png", noise(number))
    file = json_file(tmp_path / "source", *lines)
    remote = prepared(f"{uploaded(tmp_path / 'source', store)}/{file.name}", tmp_path / "remote", store)
    assert digests(remote) == digests(prepared(file, tmp_path / "local"))
    outside = json_file(tmp_path / "source", *lines, {"path": "../12.png", "label": "cat"})
    address = f"{uploaded(tmp_path / 'source', store)}/{outside.name}"
    assert "lies outside" in reasons(prepared(address, tmp_path / "remote", store, max_quarantined=0.1))["../12.png"]


def test_a_tiff_of_many_pages_is_no_single_image(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source")
    first, *others = [Image.fromarray(noise(100 + page)) for page in range(3)]
    save(source / "cat" / "stack.tif", first, save_all=True, append_images=others)
    save(source / "cat" / "single.tif", first)
    dataset = prepared(source, tmp_path / "out", max_quarantined=0.1)
    assert reasons(dataset) == {"cat/stack.tif": "has 3 pages, where a file is one image"}
    assert len(labelled(dataset)) == 25


@pytest.mark.parametrize("name", ["images.csv", "images.jsonl"])
def test_a_manifest_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match=rf"^data\.source: .*{name}: No such file"):
        listed(tmp_path / name)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            {"path": "a.png", "label": "cat", "split": "trian"},
            "its split 'trian' is none of train, validation and test",
        ),
        ({"path": "a.png", "label": ""}, "has no label"),
        ({"path": "a.png", "label": " "}, "has no label"),
        ({"path": "a.png"}, "has no label"),
        ({"path": "", "label": "cat"}, "has no path"),
        ({"label": "cat"}, "has no path"),
        ({"path": "b.png", "label": "cat"}, "can't be opened: No such file or directory"),
        ({"path": "a\0.png", "label": "cat"}, "can't be opened: "),
        ({"path": "x" * 5000, "label": "cat"}, "can't be opened: File name too long"),
        ({"path": ".", "label": "cat"}, "is not a regular file"),
        ({"path": ["a.png"], "label": "cat"}, "can't be opened: No such file or directory"),
    ],
)
def test_a_line_that_can_t_be_used_is_quarantined_with_its_reason(
    tmp_path: Path, line: dict[str, Any], problem: str
) -> None:
    save(tmp_path / "a.png", noise(1))
    good = [{"path": f"{number}.png", "label": "cat" if number % 2 else "dog"} for number in range(12)]
    for number, one in enumerate(good):
        save(tmp_path / str(one["path"]), noise(number + 2))
    dataset = prepared(json_file(tmp_path, *good, line), tmp_path / "out", max_quarantined=0.2)
    assert len(labelled(dataset)) == len(good)
    assert [problem in reason for reason in reasons(dataset).values()] == [True]


def test_one_path_with_two_labels_is_a_conflict_that_is_counted(tmp_path: Path) -> None:
    lines = [{"path": f"{number}.png", "label": "cat" if number % 2 else "dog"} for number in range(12)]
    for number, line in enumerate(lines):
        save(tmp_path / str(line["path"]), noise(number))
    index = prepared(json_file(tmp_path, *lines, {"path": "0.png", "label": "cat"}), tmp_path / "out").index
    assert (index.conflicting_labels, index.duplicates, sum(index.images.values())) == (1, 1, 13)


def test_a_manifest_names_files_elsewhere(tmp_path: Path) -> None:
    class_folders(tmp_path / "images", 4)
    folder = tmp_path / "lists"
    folder.mkdir()
    lines = [f"../images/{name}/{number}.png,{name}\n" for name in ("cat", "dog") for number in range(3)]
    whole = [f"{tmp_path}/images/{name}/3.png,{name}\n" for name in ("cat", "dog")]
    dataset = prepared(csv_file(folder, "".join(["path,label\n", *lines, *whole])), tmp_path / "out")
    assert (len(labelled(dataset)), dataset.index.quarantined) == (8, ())


PLACES = ("/a/airfield", "/a/apartment_building/outdoor", "/z/zen_garden")


def places365(root: Path, folders: tuple[str, str] = ("data_256_standard", "val_256")) -> Path:
    """Write a small Places365 as torchvision unpacks it: 12 images for training, 3 for validation."""
    root.mkdir(parents=True, exist_ok=True)
    train = [(f"{place}/{number:08d}.jpg", label) for label, place in enumerate(PLACES) for number in range(1, 5)]
    validation = [(f"Places365_val_{label + 1:08d}.jpg", label) for label in range(len(PLACES))]
    for number, (folder, (path, _)) in enumerate(
        [(folders[0], one) for one in train] + [(folders[1], one) for one in validation]
    ):
        save(root / folder / path.lstrip("/"), noise(number, 16, 16))
    for name, lines in (
        ("categories_places365.txt", [(place, number) for number, place in enumerate(PLACES)]),
        ("places365_train_standard.txt", train),
        ("places365_val.txt", validation),
    ):
        (root / name).write_text("".join(f"{path} {number}\n" for path, number in lines))
    return root


@pytest.mark.parametrize("folders", [("data_256_standard", "val_256"), ("data_large_standard", "val_large")])
def test_places365_is_read_as_torchvision_unpacks_it(tmp_path: Path, folders: tuple[str, str]) -> None:
    dataset = prepared("places365", tmp_path / "out", root=str(places365(tmp_path / "root", folders)))
    assert dataset.index.classes == ("airfield", "apartment_building/outdoor", "zen_garden")
    assert dataset.index.counts["validation"] == dict.fromkeys(dataset.index.classes, 1)
    assert dataset.index.images == {"train": 9, "validation": 3, "test": 3}
    for row in rows(dataset):
        assert row.path.split("/")[0] in folders
        assert row.split == "validation" or f"/{row.label}/" in row.path


@pytest.mark.parametrize("folders", [("data_256_standard", "val_256"), ("data_large_standard", "val_large")])
@pytest.mark.parametrize("missing", ["a/airfield/00000001.jpg", "z/zen_garden/00000003.jpg"])
def test_an_image_that_places365_lists_and_does_not_hold_is_quarantined(
    tmp_path: Path, folders: tuple[str, str], missing: str
) -> None:
    root = places365(tmp_path / "root", folders)
    (root / folders[0] / missing).unlink()
    dataset = prepared("places365", tmp_path / "out", root=str(root), max_quarantined=0.1)
    assert [path.partition("/")[2] for path in reasons(dataset)] == [missing]
    assert set(reasons(dataset).values()) == {"can't be opened: No such file or directory"}
    assert len(labelled(dataset)) == 14


def test_a_category_of_places365_without_a_name_is_quarantined(tmp_path: Path) -> None:
    root = places365(tmp_path / "root")
    with (root / "places365_val.txt").open("a") as file:
        file.write("Places365_val_00000001.jpg 365\n")
    dataset = prepared("places365", tmp_path / "out", root=str(root), max_quarantined=0.1)
    assert reasons(dataset) == {"val_256/Places365_val_00000001.jpg": "its category 365 has no name"}


@pytest.mark.parametrize("missing", ["categories_places365.txt", "places365_train_standard.txt", "places365_val.txt"])
def test_a_list_that_places365_lacks_is_named(tmp_path: Path, missing: str) -> None:
    (places365(tmp_path / "root") / missing).unlink()
    with pytest.raises(SourceError, match=rf"^data\.root: .* holds no {missing}, as torchvision has it$"):
        prepared("places365", tmp_path / "out", root=str(tmp_path / "root"))


def split_folders(folder: Path) -> Path:
    for first, name in enumerate(("train", "test")):
        class_folders(folder / name, 4, first=4 * first)
    return folder


def manifest(folder: Path) -> Path:
    class_folders(folder)
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    return csv_file(folder, "path,label\n" + "".join(f"{path},{path.partition('/')[0]}\n" for path in paths))


@pytest.mark.parametrize("write", [class_folders, split_folders, manifest])
def test_a_source_in_a_store_gives_what_it_gives_on_a_disk(
    tmp_path: Path, store: ObjectStore, write: Callable[[Path], Path]
) -> None:
    source = write(tmp_path / "source")
    folder = "train/cat" if write is split_folders else "cat"
    save(tmp_path / "source" / folder / "broken.png", noise(99)).write_bytes(b"no image")
    remote = uploaded(tmp_path / "source", store) + ("/images.csv" if source.is_file() else "")
    datasets = [
        prepared(str(source), tmp_path / "local", max_quarantined=0.1),
        prepared(remote, tmp_path / "remote", store, max_quarantined=0.1),
    ]
    assert digests(datasets[0]) == digests(datasets[1])
    assert reasons(datasets[0]) == reasons(datasets[1])
    assert [row[:5] for row in rows(datasets[0])] == [row[:5] for row in rows(datasets[1])]


def test_places365_in_a_store_gives_what_it_gives_on_a_disk(tmp_path: Path, store: ObjectStore) -> None:
    root = places365(tmp_path / "root", ("data_large_standard", "val_large"))
    (root / "data_large_standard/a/airfield/00000001.jpg").unlink()
    local, remote = (
        prepared("places365", tmp_path / name, store, root=address, max_quarantined=0.1)
        for name, address in (("local", str(root)), ("remote", uploaded(root, store)))
    )
    assert digests(local) == digests(remote)
    assert list(reasons(local)) == list(reasons(remote))
    assert set(reasons(remote).values()) == {"does not exist"}


def test_a_store_is_read_by_several_processes(tmp_path: Path, store: ObjectStore) -> None:
    source = class_folders(tmp_path / "source", 150)
    address = uploaded(source, store)
    assert digests(prepared(address, tmp_path / "remote", store, workers=2)) == digests(
        prepared(source, tmp_path / "local", workers=1)
    )


def test_an_object_that_is_too_large_is_not_read(tmp_path: Path, store: ObjectStore) -> None:
    (tmp_path / "1.png").write_bytes(bytes(3 * 2**20))
    files = files_at(uploaded(tmp_path, store), store)
    assert len(files.read("1.png", most_mib=3)) == 3 * 2**20
    with pytest.raises(UnreadableImage, match=r"^is larger than 2 MiB$"):
        files.read("1.png", most_mib=2)


@pytest.mark.parametrize("address", ["s3://bucket/nothing", "s3://nowhere/images", "s3://bucket/nothing.csv"])
def test_an_address_without_objects_is_refused(tmp_path: Path, store: ObjectStore, address: str) -> None:
    with pytest.raises(SourceError, match=rf"{address}[^\n]*$"):
        prepared(address, tmp_path / "out", store)


def test_an_address_without_a_store_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="AWS_ENDPOINT_URL"):
        prepared("s3://bucket/images", tmp_path / "out")


@needs_real_data
def test_no_patient_is_in_two_splits(tmp_path: Path) -> None:
    dataset = prepared(Path(REAL, "malaria/cell_images"), tmp_path / "out", image_size=32, group=r"C\d+")
    files = [row for row in rows(dataset) if row.split]
    patients = {(Path(row.path).name.partition("P")[0].partition("N")[0].partition("T")[0], row.split) for row in files}
    assert len(files) == 3000
    assert len(patients) == len({patient for patient, _ in patients}) > 100
    assert dataset.index.images["test"] == pytest.approx(450, abs=45)
