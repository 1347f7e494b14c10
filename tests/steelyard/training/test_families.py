"""The smallest network of each of torchvision's families learns two steps and answers from ONNX as it did."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steelyard.data.dataset import Dataset
from steelyard.data.prepare import prepare
from steelyard.models.torchvision import known_architectures
from steelyard.params import Candidate, Params
from steelyard.training.export import LARGEST_DIFFERENCE, export
from steelyard.training.train import train

SMALLEST = {
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "efficientnet_v2_s": 32,
    "googlenet": 32,
    "inception_v3": 75,
    "maxvit_t": 224,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "regnet_x_400mf": 32,
    "regnet_y_400mf": 32,
    "resnet18": 32,
    "resnext50_32x4d": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 32,
    "swin_t": 32,
    "swin_v2_t": 32,
    "vgg11": 32,
    "vit_b_16": 32,
    "wide_resnet50_2": 32,
}
# Exporting all of them takes minutes: these stand for the others, which STEELYARD_TEST_FAMILIES=all adds.
QUICK = {"mnasnet0_5", "shufflenet_v2_x0_5", "squeezenet1_1", "googlenet"}
CHOSEN = [arch for arch in SMALLEST if arch in QUICK or os.environ.get("STEELYARD_TEST_FAMILIES") == "all"]


def few_images(folder: Path, side: int) -> Dataset:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(20):
            Image.fromarray(rng.integers(0, 255, (side, side, 3), np.uint8)).save(
                folder / "photos" / name / f"{number}.png"
            )
    data = f"data: {{source: {folder}/photos, image_size: {side}, split: {{train: 0.4, validation: 0.3, test: 0.3}}}}"
    params = Params.from_yaml(f"task: classification\n{data}")
    return prepare(params.data, params.task, folder / "dataset")


def test_no_family_is_forgotten() -> None:
    families = ("alexnet", "convnext", "densenet", "efficientnet_b", "efficientnet_v2", "googlenet", "inception")
    families += ("maxvit", "mnasnet", "mobilenet_v2", "mobilenet_v3", "regnet_x", "regnet_y", "resnet", "resnext")
    families += ("shufflenet", "squeezenet", "swin_v2", "swin_", "vgg", "vit", "wide_resnet")
    assert not [arch for arch in known_architectures() if not arch.startswith(families)]
    assert all(any(arch.startswith(family) for arch in SMALLEST) for family in families)


@pytest.mark.parametrize("arch", CHOSEN)
def test_two_steps_and_the_same_answers_from_onnx(arch: str, tmp_path: Path) -> None:
    dataset = few_images(tmp_path, SMALLEST[arch])
    recipe = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-4}
    candidate = Candidate.model_validate({"name": "x", "arch": arch, "training": recipe})
    bundle = export(train(candidate, dataset, lambda epoch: None), candidate, dataset, "key", tmp_path / "bundle")
    assert bundle.index.onnx_max_diff is not None
    assert bundle.index.onnx_max_diff <= LARGEST_DIFFERENCE
