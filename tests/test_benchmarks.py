"""The GPU part of benchmarks/training.py, small and on a CPU: all of it but CUDA, Lightning and airbench94 itself."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
CLASSES = 10
RUN = """
import runpy, sys
sys.path.insert(0, "benchmarks")
sys.argv[0] = "benchmarks/training.py"
runpy.run_path(sys.argv[0], run_name="__main__")
sys.exit(str({"mlflow", "kfp"} & set(sys.modules)) if {"mlflow", "kfp"} & set(sys.modules) else 0)
"""
STAND_IN = """
import torch

assert __name__ != "__main__"

def main(run):
    data = torch.load("cifar10/train.pt", map_location=torch.device("cpu"))
    seen = torch.load("cifar10/test.pt", map_location=torch.device("cpu"))["images"]
    assert data["images"].dtype == torch.uint8 and data["images"].shape[1:] == seen.shape[1:] == (32, 32, 3)
    assert data["labels"].dtype == torch.int64 and data["labels"].unique().tolist() == list(range(10))
    assert len(data["images"]) == len(data["labels"]) and len(data["classes"]) == 10
    accuracy = {"warmup": 0.1, 0: 0.92, 1: 0.94}[run]
    print(f"|  {run}  |      0  |  2.0  |  0.30  |  0.3000  |          |  1.0000  |")
    print(f"|          |      1  |  1.0  |  0.90  |  {accuracy:.4f}  |          |  2.0000  |")
    print(f"|          |   eval  |  1.0  |  0.90  |  {accuracy:.4f}  |  0.9900  |  3.0000  |")
    print("-" * 80)
"""


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    """Return a folder as of CIFAR-10, of noise."""
    random = np.random.default_rng(0)
    for split, each in (("train", 12), ("test", 2)):
        for label in range(CLASSES):
            folder = tmp_path / "cifar10" / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(each):
                Image.fromarray(random.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")
    return tmp_path / "cifar10"


def test_on_a_gpu_training_is_measured_without_mlflow_and_kfp(cifar: Path, tmp_path: Path) -> None:
    script = tmp_path / "airbench94.py"
    script.write_text(STAND_IN)
    figures = measured("--quick", "--data", str(cifar), "--airbench", str(script))
    assert figures["airbench_accuracy"] == 0.93, "the mean of two seeds, neither warmed up nor augmented"
    assert figures["airbench94, s"] == 2, "without the augmentation's"
    assert figures["airbench_time_ratio"] == pytest.approx(figures["steelyard, s"] / 2, abs=0.01)
    assert figures["airbench accuracy reached"] == "no", "noise can't be told apart"
    assert figures["resident_batch_gpu_ratio"] > 0
    assert figures["hardware"].startswith("cpu, ")


def test_without_a_gpu_nothing_is_measured() -> None:
    figures = measured()
    assert "resnet18_gpu_ratio" in figures
    assert set(figures.values()) == {"not run"}


def measured(*words: str) -> dict[str, Any]:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", RUN, "--gpu", "--json", *words]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    figures: dict[str, Any] = json.loads(ended.stdout)
    return figures
