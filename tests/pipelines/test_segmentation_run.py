"""What `steelyard run` does with a segmentation before its tasks start and after they have ended."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.command_line import main
from pipelines.pod import free_port, serving_pod
from pipelines.project import Project
from pipelines.rehearsal import rehearse
from steelyard.bundle import ModelBundle
from steelyard.data.prepare import prepare
from steelyard.errors import InvalidFile
from steelyard.evaluation.evaluate import evaluate
from steelyard.packing import pack
from steelyard.selection.publish import choose
from tests.serving.serving_kit import SHAPE, noise, write_mask_bundle

PARAMS = """
task: segmentation
data:
  source: .
  image_size: 8
  grayscale: true
  masks: {classes: {cat: 0, dog: 1, eel: 2}, ignore: 9}
  split: {train: 0.4, validation: 0.3, test: 0.3, seed: 0}
candidates: {unet: {unet: {depth: 1, width: 4}}}
"""
CONTRACT = (
    "{client: acme, metrics: {mean_iou: {weight: 1, worst: 0, ideal: 1}, 'iou[eel]': {weight: 1, worst: 0, ideal: 1}}}"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Noise, of which a third each are dark cats, dogs and bright eels."""
    for number, image_HWC in enumerate(noise(60)):
        mask_HW = (image_HWC[:, :, 0].astype(int) * 3 // 256).astype(np.uint8)
        mask_HW[0] = 9
        for kind, pixels in (("images", image_HWC[:, :, 0]), ("masks", mask_HW)):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / kind / f"{number}.png")
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "evaluation_metrics.yaml").write_text(CONTRACT)
    return tmp_path


def test_its_classes_are_those_of_the_table(folder: Path) -> None:
    Project.read(folder).check_images()
    contract = folder / "evaluation_metrics.yaml"
    contract.write_text(contract.read_text().replace("eel", "elk"))
    with pytest.raises(InvalidFile, match=r"iou\[elk\]"):
        Project.read(folder).check_images()


def test_a_contract_is_held_against_its_classes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("images", "masks"):  # so that a split is given, whose images have no labels to count
        (folder / "val" / kind).mkdir(parents=True)
        for number in range(10):
            (folder / kind / f"{number}.png").rename(folder / "val" / kind / f"{number}.png")
    contract = folder / "evaluation_metrics.yaml"
    words = ["contract", "check", str(contract), "--params", str(folder / "params.yaml")]
    assert main(words) == 0
    contract.write_text(contract.read_text().replace("eel", "elk"))
    assert main(words) == 2
    assert "metrics.iou[elk]: there is no class 'elk'" in capsys.readouterr().err


def test_the_winner_answers_over_http_as_offline(folder: Path, tmp_path: Path) -> None:
    project = Project.read(folder)
    dataset = prepare(project.params.at(project.source).data, "segmentation", tmp_path / "dataset", workers=1)
    assert dataset.index.image_shape == SHAPE
    bundle = ModelBundle(write_mask_bundle(tmp_path / "tiny"))
    scorecard = evaluate(bundle, dataset)
    packed = pack(bundle, dataset, choose([scorecard], project.contract), tmp_path / "packed", scorecard)
    said: list[str] = []
    ports = (free_port(), free_port(), free_port())
    with serving_pod(packed.folder, "acme", *ports, tmp_path / "log") as pod:
        seen = rehearse(pod, packed, dataset, said.append)
    truth_NHW = np.concatenate([masks_NHW for _, masks_NHW in dataset.batches("test", 64)])
    right_NHW = packed.segment(dataset.head("test")).masks_NHW == truth_NHW
    assert seen.images == dataset.index.images["test"]
    assert seen.http_accuracy == seen.offline_accuracy == pytest.approx(right_NHW[truth_NHW != 255].mean())
    assert 0.5 < seen.http_accuracy < 1
    assert seen.clean_alarms == 0
