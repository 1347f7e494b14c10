"""What both parts of `training.py` share: pictures, contenders and their turns."""

import logging
import os
import shutil
import statistics
import warnings
from collections.abc import Callable
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

from steelyard.data.dataset import Dataset
from steelyard.data.prepare import prepare
from steelyard.models.build import build
from steelyard.models.normalised import Normalised
from steelyard.params import Candidate, Data, Split
from steelyard.training.batches import Batches
from steelyard.training.learner import Learner
from steelyard.training.loss import Loss
from steelyard.training.train import Trained, train

try:
    import lightning
except ImportError:
    lightning = None

SIDE, BATCH = 32, 64
SMALL_CNN = [{"conv": 16}, {"pool": 2}, {"conv": 32}, {"pool": 2}, {"flatten": True}, {"dense": 64}]
SEEDS = 5
CPU = torch.device("cpu")

Figures = dict[str, float | str | None]
NOT_RUN = "not run"
Clock = Callable[[], float]
Contenders = dict[str, Callable[[], object]]


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


def prepared(photos: Path, folder: Path, workers: int = 1, split: Split | None = None) -> Dataset:
    data = Data(source=str(photos), image_size=SIDE, split=split or Split())
    return prepare(data, "classification", folder, workers=workers)


def trained_from(photos: Path, one: Candidate, folder: Path, workers: int = 1) -> None:
    """Decode and train, as if for the first time."""
    shutil.rmtree(folder, ignore_errors=True)
    train(one, prepared(photos, folder, workers), lambda epoch: None)


def speeds(one: Candidate, dataset: Dataset, device: torch.device, clock: Clock) -> tuple[float, float]:
    """Return images per second of the loop over the dataset, and of the same step on one batch that is always there."""
    batches = Batches(dataset, "train", BATCH, device)
    model = Normalised(build(one, dataset.index.image_shape, 10), np.full(3, 0.5), np.full(3, 0.25))
    learner = Learner(model, one.training, Loss(one.training, dataset.index.classes, device), 1000, device)
    learner.begin(1)
    one_batch = next(batches.shuffled(0, 1))
    ways: Contenders = {
        "loop": lambda: [learner.learn(batch, 0) for batch in batches.shuffled(0, 1)],
        "one batch": lambda: [learner.learn(one_batch, 0) for _ in range(len(batches))],
    }
    loop, bare = (statistics.median(times) for times in in_turns(ways, 11, clock).values())
    return batches.images / loop, batches.images / bare


def accuracy_on_test(trained: Trained, dataset: Dataset, device: torch.device) -> float:
    model = trained.model.to(device)
    with torch.inference_mode():
        hits = [
            (model(torch.from_numpy(images_NHWC).to(device))[0].argmax(1).cpu().numpy() == labels_N)
            for images_NHWC, labels_N in dataset.batches("test", 256)
        ]
    return float(np.concatenate(hits).mean())


def processor_seconds() -> float:
    """Return the seconds that processors spent on this process and on those that it waited for."""
    return sum(os.times()[:4])


def in_turns(contenders: Contenders, rounds: int, clock: Clock) -> dict[str, list[float]]:
    """Return the seconds of each contender in each round."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            started = clock()
            work()
            found[name].append(clock() - started)
    return found


def apart(contenders: Contenders) -> Contenders:
    """Return the same, each in a process of its own: a training sets how its process keeps memory."""

    def forked(work: Callable[[], object]) -> None:
        process = get_context("fork").Process(target=work)
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"a contender ended with {process.exitcode}")

    return {name: partial(forked, work) for name, work in contenders.items()}


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


def fit_lightning(
    peer: Peer, photos: Path, epochs: int, workers: int = 0, accelerator: str = "cpu", **settings: Any
) -> None:
    """Fit with ImageFolder and DataLoader; the settings are the Trainer's."""
    seen = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))])
    train_set, validation_set = (ImageFolder(str(photos / split), seen) for split in ("train", "validation"))
    loading: dict[str, Any] = {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "pin_memory": torch.cuda.is_available(),
    }
    trainer = lightning.Trainer(
        accelerator=accelerator,
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(peer, DataLoader(train_set, BATCH, shuffle=True, **loading), DataLoader(validation_set, 256, **loading))
