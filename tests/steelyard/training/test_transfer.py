"""What weights of some classes are worth for others, on real images."""

from pathlib import Path
from statistics import fmean

from steelyard.bundle import sha256
from steelyard.data.dataset import Dataset
from steelyard.data.prepare import prepare
from steelyard.params import Candidate, Params
from steelyard.training.pretrained import Weights
from steelyard.training.train import train
from safetensors.torch import save_file
from tests.steelyard.data.pictures import REAL, needs_real_data

LAYERS = [
    *({"conv": 16}, {"pool": 2}, {"conv": 32}, {"pool": 2}, {"conv": 64}, {"pool": 2}),
    *({"flatten": True}, {"dense": 64}),
]
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FEW = 60  # images of a new class, of which half are learnt


def prepared(folder: Path, classes: tuple[str, ...], images: int) -> Dataset:
    folder.mkdir()
    files = [file for name in classes for file in sorted(pictures(name).iterdir())[:images]]
    lines = ["path,label", *(f"{file},{file.parent.name}" for file in files)]
    (folder / "list.csv").write_text("\n".join(lines))
    data = f"data: {{source: {folder}/list.csv, image_size: 32, split: {{train: 0.5, validation: 0.4, test: 0.1}}}}"
    params = Params.from_yaml(f"task: classification\n{data}")
    return prepare(params.data, params.task, folder / "dataset")


def pictures(name: str) -> Path:
    return next(Path(REAL).rglob(f"cifar10/train/{name}"))


def candidate_of(epochs: int, seed: int = 0) -> Candidate:
    recipe = {"epochs": epochs, "batch_size": 50, "learning_rate": 0.001, "seed": seed}
    return Candidate.model_validate({"name": "x", "layers": LAYERS, "training": recipe})


def accuracy(seed: int, dataset: Dataset, weights: Weights | None) -> float:
    trained = train(candidate_of(epochs=4, seed=seed), dataset, lambda epoch: None, weights=weights)
    return trained.history[trained.best_epoch - 1].validation_accuracy
