"""What weights of some classes are worth for others, on real images."""

from pathlib import Path

import pytest
from safetensors.torch import save_file

from steelyard.bundle import sha256
from steelyard.data.dataset import Dataset
from steelyard.data.prepare import prepare
from steelyard.params import Candidate, Params
from steelyard.training.pretrained import Weights
from steelyard.training.train import train
from tests.steelyard.data.pictures import REAL, needs_real_data

LAYERS = [
    *({"conv": 16}, {"pool": 2}, {"conv": 32}, {"pool": 2}, {"conv": 64}, {"pool": 2}),
    *({"flatten": True}, {"dense": 64}),
]
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def prepared(folder: Path, classes: tuple[str, ...], images: int, learnt: float) -> Dataset:
    folder.mkdir()
    split = f"{{train: {learnt}, validation: {0.9 - learnt:.1f}, test: 0.1}}"
    files = [file for name in classes for file in sorted(pictures(name).iterdir())[:images]]
    lines = ["path,label", *(f"{file},{file.parent.name}" for file in files)]
    (folder / "list.csv").write_text("\n".join(lines))
    data = f"data: {{source: {folder}/list.csv, image_size: 32, split: {split}}}"
    params = Params.from_yaml(f"task: classification\n{data}")
    return prepare(params.data, params.task, folder / "dataset")


def pictures(name: str) -> Path:
    return next(Path(REAL).rglob(f"cifar10/train/{name}"))


def candidate_of(epochs: int, seed: int = 0) -> Candidate:
    recipe = {"epochs": epochs, "batch_size": 50, "learning_rate": 0.003, "seed": seed}
    return Candidate.model_validate({"name": "x", "layers": LAYERS, "training": recipe})


def accuracy(seed: int, dataset: Dataset, weights: Weights | None) -> float:
    trained = train(candidate_of(epochs=4, seed=seed), dataset, lambda epoch: None, weights=weights)
    return trained.history[trained.best_epoch - 1].validation_accuracy


@needs_real_data
@pytest.mark.timeout(600)
def test_weights_of_five_classes_beat_random_ones_on_the_other_five_by_every_seed(tmp_path: Path) -> None:
    many, few = prepared(tmp_path / "many", CLASSES[:5], 600, 0.5), prepared(tmp_path / "few", CLASSES[5:], 200, 0.2)
    taught = train(candidate_of(epochs=6), many, lambda epoch: None)
    save_file(taught.model.state_dict(), tmp_path / "weights.safetensors")
    weights = Weights(file=tmp_path / "weights.safetensors", sha256=sha256(tmp_path / "weights.safetensors"))
    for seed in range(5):  # 0 is the one with which the weights were trained
        assert accuracy(seed, few, weights) > accuracy(seed, few, None)
