"""Training on one thread of a CPU: how fast beside Lightning, how near to the bare step, and how accurate?

    python benchmarks/training.py [--data FOLDER] [--images 2000] [--only-halving] [--quick] [--json]

FOLDER holds `train/CLASS/*.jpg` and `test/CLASS/*.jpg` of CIFAR-10 (default: below STEELYARD_TEST_DATA). Contenders
take turns, three rounds of a small CNN and two of ResNet-18; ratios are medians over the rounds. steelyard's time has
its decoding in it, Lightning's ImageFolder decodes with PIL in each epoch, as its users have it. Seconds are those
that the processor spent, so that others on the machine count for little. Needs `pip install lightning`; without it,
only what needs no peer is measured. A GPU is not looked for.
"""

import argparse
import json
import logging
import os
import shutil
import statistics
import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks

import numpy as np
import torch
from halving import halving
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

from steelyard.data.dataset import Dataset
from steelyard.data.prepare import prepare
from steelyard.models.build import build
from steelyard.models.normalised import Normalised
from steelyard.params import Candidate, Data
from steelyard.training.batches import Batches
from steelyard.training.learner import Learner
from steelyard.training.loss import Loss
from steelyard.training.train import train

try:
    import lightning
except ImportError:
    lightning = None

SIDE, BATCH = 32, 64
SMALL_CNN = [{"conv": 16}, {"pool": 2}, {"conv": 32}, {"pool": 2}, {"flatten": True}, {"dense": 64}]
SEEDS, STEPS = 5, 30

Figures = dict[str, float | str | None]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10 as pictures in train/ and test/")
    parser.add_argument("--images", type=int, default=2000, help="that the small CNN learns beside Lightning")
    parser.add_argument("--quick", action="store_true", help="a smoke run on few images")
    parser.add_argument("--only-halving", action="store_true", help="what halving saves and costs, and nothing else")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    silence()
    torch.set_num_threads(1)
    cifar = arguments.data or next(Path(os.environ["STEELYARD_TEST_DATA"]).rglob("cifar10"))
    images, epochs = (200, 2) if arguments.quick else (arguments.images, 10)
    with TemporaryDirectory() as scratch:
        few = part_of(cifar, Path(scratch) / "few", {"train": images, "validation": images // 5, "test": images // 10})
        figures: Figures = {}
        if not arguments.only_halving:
            figures |= small_cnn(few, Path(scratch), epochs)
            figures |= resnet18(cifar, Path(scratch), 3 if arguments.quick else STEPS)
            figures |= accuracy(cifar, Path(scratch), images if arguments.quick else None, epochs)
        figures |= halving(prepared(few, Path(scratch) / "halving-dataset"), Path(scratch))
    lines = (f"{name:28} {'not run' if figure is None else figure:>10}" for name, figure in figures.items())
    print(json.dumps(figures, indent=1) if arguments.json else "\n".join(lines))


def small_cnn(photos: Path, scratch: Path, epochs: int) -> Figures:
    """Train the small CNN, decoding included, beside Lightning, and beside a bare step on one batch."""
    small = candidate("small", {"layers": SMALL_CNN}, epochs)

    def ours() -> None:
        shutil.rmtree(scratch / "dataset", ignore_errors=True)
        train(small, prepared(photos, scratch / "dataset"), lambda epoch: None)

    contenders: dict[str, Callable[[], object]] = {"steelyard": ours}
    if lightning:
        contenders["Lightning"] = lambda: fit_lightning(Peer(small), photos, epochs=epochs)
    rounds = in_turns(contenders, 3)
    speed, bare = speeds(small, Dataset(scratch / "dataset"))
    return {
        **{f"small CNN, {name}, s": round(statistics.median(times), 2) for name, times in rounds.items()},
        "small_cnn_ratio": ratio(rounds, "Lightning", "steelyard"),
        "small CNN, images/s": round(speed),
        "the same, one batch": round(bare),
        "resident_batch_ratio": round(speed / bare, 2),
    }


def resnet18(photos: Path, scratch: Path, steps: int) -> Figures:
    """Let ResNet-18 learn a number of steps, beside Lightning in float32 and in its fastest tuning."""
    one = candidate("resnet18", {"arch": "resnet18"}, 1)
    few = part_of(photos, scratch / "steps", {"train": steps * BATCH, "validation": 20, "test": 20})
    dataset = prepared(few, scratch / "steps-dataset")
    contenders: dict[str, Callable[[], object]] = {"steelyard": lambda: train(one, dataset, lambda epoch: None)}
    if lightning:
        contenders["Lightning"] = lambda: fit_lightning(Peer(one), few, epochs=1)
        contenders["tuned"] = lambda: fit_lightning(Peer(one, tuned=True), few, epochs=1)
    rounds = in_turns(contenders, 2)
    faster = min((name for name in rounds if name != "steelyard"), key=lambda name: sum(rounds[name]), default="")
    return {
        **{f"ResNet-18, {name}, s": round(statistics.median(times), 2) for name, times in rounds.items()},
        "resnet18_ratio": ratio(rounds, faster, "steelyard"),
    }


def accuracy(cifar: Path, scratch: Path, images: int | None, epochs: int) -> Figures:
    """Return test accuracy of the small CNN, mean and standard deviation over seeds."""
    found = []
    dataset = prepared(cifar if images is None else scratch / "few", scratch / "all")
    for seed in range(SEEDS):
        trained = train(candidate("small", {"layers": SMALL_CNN}, epochs, seed), dataset, lambda epoch: None)
        with torch.inference_mode():
            hits = [
                (trained.model(torch.from_numpy(images_NHWC))[0].argmax(1).numpy() == labels_N)
                for images_NHWC, labels_N in dataset.batches("test", 256)
            ]
        found.append(float(np.concatenate(hits).mean()))
    return {
        "accuracy_mean": round(statistics.fmean(found), 4),
        "accuracy_spread": round(statistics.stdev(found), 4),
    }


def candidate(name: str, architecture: dict[str, object], epochs: int, seed: int = 0) -> Candidate:
    recipe = {"epochs": epochs, "batch_size": BATCH, "learning_rate": 0.003, "seed": seed}
    return Candidate.model_validate({"name": name, "training": recipe, **architecture})


def part_of(photos: Path, folder: Path, images: dict[str, int]) -> Path:
    """Link the first images of each class; validation is taken from train."""
    for split, number in images.items():
        for place in sorted(path for path in (photos / ("test" if split == "test" else "train")).iterdir()):
            (folder / split / place.name).mkdir(parents=True, exist_ok=True)
            each = -(-number // 10)
            first = 0 if split != "validation" else -(-images["train"] // 10)
            for file in islice(sorted(place.iterdir()), first, first + each):
                (folder / split / place.name / file.name).symlink_to(file.resolve())
    return folder


def prepared(photos: Path, folder: Path) -> Dataset:
    return prepare(Data(source=str(photos), image_size=SIDE), "classification", folder, workers=1)


def speeds(one: Candidate, dataset: Dataset) -> tuple[float, float]:
    """Return images per second of the loop over the dataset, and of the same step on one batch that is always there."""
    batches = Batches(dataset, "train", BATCH, torch.device("cpu"))
    model = Normalised(build(one, dataset.index.image_shape, 10), np.full(3, 0.5), np.full(3, 0.25))
    cpu = torch.device("cpu")
    learner = Learner(model, one.training, Loss(one.training, dataset.index.classes, cpu), 1000, cpu)
    learner.begin(1)
    one_batch = next(batches.shuffled(0, 1))
    ways: dict[str, Callable[[], object]] = {
        "loop": lambda: [learner.learn(batch, 0) for batch in batches.shuffled(0, 1)],
        "one batch": lambda: [learner.learn(one_batch, 0) for _ in range(len(batches))],
    }
    loop, bare = (statistics.median(times) for times in in_turns(ways, 5).values())
    return batches.images / loop, batches.images / bare


def in_turns(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the processor's seconds of each contender in each round, its processes included."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            started = sum(os.times()[:4])
            work()
            found[name].append(sum(os.times()[:4]) - started)
    return found


def ratio(rounds: dict[str, list[float]], theirs: str, ours: str) -> float | None:
    if theirs not in rounds:
        return None
    return round(statistics.median(a / b for a, b in zip(rounds[theirs], rounds[ours], strict=True)), 2)


def silence() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


class Peer(lightning.LightningModule if lightning else object):  # type: ignore[misc]
    """The same network as a Lightning user writes it down."""

    def __init__(self, one: Candidate, tuned: bool = False) -> None:
        super().__init__()
        self.one, self.tuned = one, tuned
        network = models.resnet18(num_classes=10) if one.arch else plain_cnn()
        self.network = network.to(memory_format=torch.channels_last) if tuned else network

    def step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images_NCHW, labels_N = batch
        images_NCHW = images_NCHW.to(memory_format=torch.channels_last) if self.tuned else images_NCHW
        return nn.functional.cross_entropy(self.network(images_NCHW), labels_N)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        return self.step(batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        self.log("validation_loss", self.step(batch))

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.AdamW(self.parameters(), self.one.training.learning_rate)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.one.training.learning_rate, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def plain_cnn() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 8 * 8, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def fit_lightning(peer: Peer, photos: Path, epochs: int) -> None:
    seen = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))])
    train_set, validation_set = (ImageFolder(str(photos / split), seen) for split in ("train", "validation"))
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(peer, DataLoader(train_set, BATCH, shuffle=True), DataLoader(validation_set, 256))


if __name__ == "__main__":
    main()
