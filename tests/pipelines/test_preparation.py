"""`steelyard prepare` as its users call it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PARAMS = "task: classification\ndata: {source: photos, image_size: 8, max_quarantined: 0.1}\n"


@pytest.fixture
def params(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            pixels = rng.integers(0, 255, (20, 30, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    (tmp_path / "params.yaml").write_text(PARAMS)
    return tmp_path / "params.yaml"


def prepare(params: Path, output: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pipelines", "prepare", str(params), "--output", str(output), *words]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_json_is_one_object_on_stdout_and_the_card_can_be_opened(params: Path, tmp_path: Path) -> None:
    (tmp_path / "photos/cat/broken.png").write_bytes(b"no image")
    shutil.copy(tmp_path / "photos/cat/1.png", tmp_path / "photos/cat/copy.png")
    shutil.copy(tmp_path / "photos/cat/2.png", tmp_path / "photos/dog/cat.png")
    done = prepare(params, tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["images"] == sum(answer["per_split"].values()) == 22
    assert answer["quarantined"] == [{"path": "cat/broken.png", "reason": "is not an image in a known format"}]
    assert (answer["duplicates"], answer["conflicting_labels"]) == (2, 1)
    assert {len(answer["content_digest"]), len(answer["split_digest"])} == {64}
    assert answer["seconds"] > 0
    assert answer["images_per_s"] > 0
    assert 20 < answer["peak_mib"] < 600
    assert "<html" in Path(answer["card"]).read_text(encoding="utf-8")


def test_people_are_told_in_words(params: Path, tmp_path: Path) -> None:
    done = prepare(params, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("20 images of 2 classes: 12 train, 4 validation, 4 test\n")
    assert f"data card   {tmp_path / 'out' / 'card.html'}" in done.stdout


def test_the_same_folder_takes_what_was_added(params: Path, tmp_path: Path) -> None:
    assert prepare(params, tmp_path / "out").returncode == 0
    shutil.copy(tmp_path / "photos/cat/1.png", tmp_path / "photos/cat/copy.png")
    again = prepare(params, tmp_path / "out", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["images"] == 21


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ("source: nowhere", "no existing folder"),
        ("source: s3://bucket/photos", "set AWS_ENDPOINT_URL"),
        ("sauce: photos", "data.sauce: unknown key"),
    ],
)
def test_wrong_input_is_one_line(params: Path, tmp_path: Path, changed: str, sentence: str) -> None:
    params.write_text(PARAMS.replace("source: photos", changed))
    done = prepare(params, tmp_path / "out", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_somebody_else_s_files_are_left_alone(params: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    done = prepare(params, tmp_path / "out")
    assert done.returncode == 2
    assert "holds other files (thesis.txt)" in done.stderr
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"
