"""Candidate + Dataset -> Trained: plain supervised training, watched through a callback."""

import copy
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steelyard.bundle import Epoch
from steelyard.data.dataset import Dataset
from steelyard.errors import DoesNotFit, OutOfDeviceMemory, TrainingDiverged
from steelyard.memory import own_peak_mib
from steelyard.models.build import Network, build
from steelyard.params import Candidate, Training
from steelyard.progress import Progress

log = logging.getLogger(__name__)

EVALUATION_BATCH = 256

Batch = tuple[NDArray[np.uint8], NDArray[Any]]


class Normalised(nn.Module):
    """A network that takes images as they are stored: uint8 NHWC, normalised inside by the train split's figures."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, mean_C: NDArray[np.float64], std_C: NDArray[np.float64]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean_C, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std_C, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images_NHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, classes) and embedding (N, features)."""
        images_NCHW = images_NHWC.permute(0, 3, 1, 2).float() / 255
        logits_NC, embedding_ND = self.network((images_NCHW - self.mean) / self.std)
        return logits_NC, embedding_ND


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The weights of the epoch with the lowest validation loss, and how they came about."""

    model: Normalised
    history: tuple[Epoch, ...]
    best_epoch: int
    seconds: float
    device: str
    images_per_s: float
    peak_mib: float


def train(candidate: Candidate, dataset: Dataset, observe: Callable[[Epoch], None]) -> Trained:
    """Train one candidate with AdamW and a one-cycle learning rate (Smith & Topin 2019).

    Args:
        candidate: architecture, recipe and seed; equal seeds on one machine's CPU give equal weights.
        dataset: its train split is learnt, its validation split decides which epoch is kept.
        observe: called with each epoch's figures, as they come.

    Raises:
        DoesNotFit: the network can't be built, or can't be trained on these images.
        TrainingDiverged: the loss became NaN or infinite.
        OutOfDeviceMemory: the network or its batch does not fit the device.
    """
    started = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    history: list[Epoch] = []
    for epoch, model in _attempt(candidate, dataset, device):  # noqa: B007 - the last one is what was trained
        observe(epoch)
        log.info(
            "%s: epoch %d of %d, loss %.3f, validation accuracy %.3f, %.1f s",
            *(candidate.name, epoch.epoch, candidate.training.epochs),
            *(epoch.train_loss, epoch.validation_accuracy, epoch.seconds),
        )
        history.append(epoch)
    return Trained(
        model=model.eval().cpu(),
        history=tuple(history),
        best_epoch=min(history, key=lambda e: e.validation_loss).epoch,
        seconds=time.monotonic() - started,
        device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        images_per_s=statistics.harmonic_mean([epoch.images_per_s for epoch in history]),
        peak_mib=torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else own_peak_mib(),
    )


def _attempt(candidate: Candidate, dataset: Dataset, device: torch.device) -> Iterator[tuple[Epoch, Normalised]]:
    """Build and train a network, and yield it after each epoch; at the end it has the weights of the best.

    It is a generator so that its `try` holds what the network does, and nothing of what the caller does in between.
    """
    recipe, lowest = candidate.training, math.inf
    mean_C, std_C = _mean_and_std(dataset)
    try:
        torch.manual_seed(recipe.seed)
        network = build(candidate, dataset.index.image_shape, len(dataset.index.classes))
        model = Normalised(network, mean_C, std_C).to(device)
        for epoch in _epochs(model, dataset, recipe, device):
            if epoch.validation_loss < lowest:
                weights, lowest = copy.deepcopy(model.state_dict()), epoch.validation_loss
            yield epoch, model
        model.load_state_dict(weights)
    except torch.OutOfMemoryError as error:
        problem = f"the network, at batch_size {recipe.batch_size}, does not fit {device}: {_first_line(error)}"
        raise OutOfDeviceMemory(problem) from None
    except torch.AcceleratorError:  # a RuntimeError too, but the device's fault rather than the network's
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        problem = f"the network can't be trained at batch_size {recipe.batch_size}: {_first_line(error)}"
        raise DoesNotFit(problem) from error


def _epochs(model: Normalised, dataset: Dataset, recipe: Training, device: torch.device) -> Iterator[Epoch]:
    """Train the model epoch by epoch and yield the figures of each."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * math.ceil(dataset.index.images["train"] / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=max(steps, 2))
    shuffle = np.random.default_rng(recipe.seed)
    train = _Sum()
    images = recipe.epochs * dataset.index.images["train"]
    progress = Progress("training", images, "images", facts=lambda: f"loss {train.mean_loss:.3f}")
    for number in range(1, recipe.epochs + 1):
        started = time.monotonic()
        learning_rate = float(schedule.get_last_lr()[0])
        model.train()
        train = _Sum()
        for images_NHWC, labels_N in _no_single(dataset.batches("train", recipe.batch_size, shuffle)):
            loss = train.add(model, images_NHWC, labels_N, device)
            if not math.isfinite(loss.item()):
                raise TrainingDiverged(f"the loss became {loss.item()} in epoch {number}; try a lower learning_rate")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            progress.advance(len(labels_N))
        learnt = time.monotonic()
        validation = _evaluate(model, dataset, device)
        if not math.isfinite(validation.mean_loss):
            raise TrainingDiverged(f"the validation loss became {validation.mean_loss} in epoch {number}")
        yield Epoch(
            epoch=number,
            train_loss=train.mean_loss,
            train_accuracy=train.accuracy,
            validation_loss=validation.mean_loss,
            validation_accuracy=validation.accuracy,
            learning_rate=learning_rate,
            seconds=time.monotonic() - started,
            images_per_s=dataset.index.images["train"] / (learnt - started),
        )
    progress.close()


class _Sum:
    """Loss and hits over batches."""

    def __init__(self) -> None:
        self._loss, self._correct, self._seen = 0.0, 0, 0

    def add(
        self, model: nn.Module, images_NHWC: NDArray[np.uint8], labels_N: NDArray[np.int64], device: torch.device
    ) -> Tensor:
        """Send a batch through the model, count it, and return its mean loss."""
        labels = torch.from_numpy(labels_N).to(device)
        logits_NC, _ = model(torch.from_numpy(images_NHWC).to(device))
        loss = nn.functional.cross_entropy(logits_NC, labels)
        self._loss += loss.item() * len(labels_N)
        self._correct += int((logits_NC.argmax(1) == labels).sum())
        self._seen += len(labels_N)
        return loss

    @property
    def mean_loss(self) -> float:
        return self._loss / self._seen

    @property
    def accuracy(self) -> float:
        return self._correct / self._seen


def _evaluate(model: Normalised, dataset: Dataset, device: torch.device) -> _Sum:
    model.eval()
    validation = _Sum()
    with torch.inference_mode():
        for images_NHWC, labels_N in dataset.batches("validation", EVALUATION_BATCH):
            validation.add(model, images_NHWC, labels_N, device)
    return validation


def _no_single(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Join a last batch of one image, which batch norm can't take, to the one before."""
    before: Batch | None = None
    for images_NHWC, labels_N in batches:
        if before is not None and len(labels_N) == 1 < len(before[1]):
            before = (np.concatenate([before[0], images_NHWC]), np.concatenate([before[1], labels_N]))
            continue
        if before is not None:
            yield before
        before = images_NHWC, labels_N
    if before is not None:
        yield before


def _mean_and_std(dataset: Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation per channel of the train split, in [0, 1]."""
    sums, squares, pixels = 0.0, 0.0, 0
    for images_NHWC, _ in dataset.batches("train", EVALUATION_BATCH):
        chunk = images_NHWC.reshape(-1, images_NHWC.shape[-1]).astype(np.float64) / 255
        sums, squares, pixels = sums + chunk.sum(0), squares + (chunk**2).sum(0), pixels + len(chunk)
    mean_C = np.asarray(sums / pixels)
    return mean_C, np.sqrt(np.maximum(squares / pixels - mean_C**2, 1e-6))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
