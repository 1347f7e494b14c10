"""Candidate + Dataset -> Trained: supervised training that is watched, and goes on where it was cut off."""

import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from steelyard.bundle import Epoch, images_at_once
from steelyard.data.dataset import Dataset
from steelyard.errors import DoesNotFit, OutOfDeviceMemory, TrainingDiverged, first_line
from steelyard.evaluation.answers import Answers
from steelyard.models.build import build
from steelyard.models.normalised import Normalised
from steelyard.params import Candidate
from steelyard.progress import Progress
from steelyard.training.answers import answers
from steelyard.training.batches import Batches, mean_and_std
from steelyard.training.checkpoint import CheckpointIndex, Checkpoints
from steelyard.training.device import arithmetic, best_device, device_name, forget_peak, gpu_load, peak_mib, seed
from steelyard.training.group import ALONE, Group
from steelyard.training.learner import Learner, copy_into
from steelyard.training.live import Live
from steelyard.training.loss import Loss, hits_and_counted
from steelyard.training.overlap import Overlap
from steelyard.training.pretrained import Weights, load_pretrained

log = logging.getLogger(__name__)

EVALUATION_BATCH = 256
SECONDS_BETWEEN_CHECKPOINTS = 60.0  # besides one after each epoch
SECONDS_BETWEEN_POINTS = 10.0

_DIVERGED = "the loss became {{}} in epoch {}; try a lower learning_rate"

Judge = Callable[[Epoch, Callable[[], Answers | None]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The weights of the epoch with the lowest validation loss, and how they came about."""

    model: Normalised
    history: tuple[Epoch, ...]
    best_epoch: int
    seconds: float
    device: str
    precision: str
    micro_batch: int  # 0 where each batch was learnt whole
    images_per_s: float
    peak_mib: float
    resumed_from_step: int


def train(
    candidate: Candidate,
    dataset: Dataset,
    observe: Callable[[Epoch | Live], None],
    checkpoints: Checkpoints | None = None,
    weights: Weights | None = None,
    group: Group = ALONE,
    judge: Judge | None = None,
) -> Trained:
    """Train one candidate with AdamW.

    Args:
        candidate: architecture, recipe and seed; equal seeds on one machine's CPU give equal weights, however often
            the training was cut off.
        dataset: its train split is learnt, its validation split decides which epoch is kept.
        observe: called with each epoch's figures, as they come, first with those from before a cut; and every ten
            seconds with a point from inside an epoch.
        checkpoints: from which it goes on, and where it leaves new ones.
        weights: with which the network begins, instead of random ones.
        group: that this process leads; the others `follow` with the same arguments.
        judge: may end the training after an epoch; asked for each that `observe` gets, and may ask what the network
            answers at its end for the validation split, if that is not over.

    Raises:
        DoesNotFit: the network can't be built, or can't be trained on these images.
        UnusableWeights: the weights are another network's.
        TrainingDiverged: the loss became NaN or infinite.
        OutOfDeviceMemory: the network does not fit the device, not even with one image.
        StoreError: a checkpoint can't be written or read.
    """
    recipe, device = candidate.training, best_device()
    with arithmetic(recipe.deterministic):
        run = _Run(candidate, dataset, device, checkpoints, weights, group)
        for point in run.epochs():
            observe(point)
            if judge and isinstance(point, Epoch):
                judge(point, partial(run.answers, point.epoch))
    return run.trained()


def follow(
    candidate: Candidate, dataset: Dataset, checkpoints: Checkpoints | None, weights: Weights | None, group: Group
) -> None:
    """Learn this process's share of each batch, for the process that leads the group.

    Raises:
        what `train` raises.
    """
    with arithmetic(candidate.training.deterministic):
        _Run(candidate, dataset, best_device(), checkpoints, weights, group).follow()


class _Run:
    """One training as it goes on, from its beginning or from its last checkpoint."""

    def __init__(
        self,
        candidate: Candidate,
        dataset: Dataset,
        device: torch.device,
        checkpoints: Checkpoints | None,
        weights: Weights | None,
        group: Group,
    ) -> None:
        self._name, self._recipe, self._device = candidate.name, candidate.training, device
        self._checkpoints = checkpoints
        forget_peak(device)
        self._train = Batches(dataset, "train", self._recipe.batch_size, device)
        self._masks, self._classes = dataset.index.task == "segmentation", dataset.index.classes
        evaluated = images_at_once(dataset.index.image_shape, EVALUATION_BATCH)
        evaluated = min(evaluated, self._recipe.batch_size) if self._masks else evaluated
        self._validation = Batches(dataset, "validation", evaluated, device)
        mean_std = mean_and_std(dataset)
        seed(self._recipe.seed, device)
        with self._blame():
            model = Normalised(build(candidate, dataset.index.image_shape, len(self._classes)), *mean_std)
            if weights:
                load_pretrained(model, candidate.arch, weights)
            loss, steps = Loss(self._recipe, self._classes, device), self._recipe.epochs * len(self._train)
            self._learner = Learner(model, self._recipe, loss, steps, device, group)
        self._history: list[Epoch] = []
        self._step, self._sums = 0, _Sums(device)
        if found := checkpoints and checkpoints.latest():
            self._resume(*found)
        group.begin_at(self._step)
        self._resumed_from_step = self._step
        self._saved = self._told = time.monotonic()

    def epochs(self) -> Iterator[Epoch | Live]:
        """Yield the figures of each epoch: those from before, then those learnt now, with points in between."""
        yield from tuple(self._history)
        total, done = self._recipe.epochs * self._train.images, len(self._history) * self._train.images
        progress = Progress(self._name, total, "images", done + self._sums.images, self._facts)
        for number in range(len(self._history) + 1, self._recipe.epochs + 1):
            yield from self._epoch(number, progress)
        progress.close()

    def answers(self, number: int) -> Answers | None:
        """Return what was answered for validation at the end of an epoch; None if the weights are others now."""
        if number != len(self._history) or self._sums.batches:
            return None
        self._learner.averaged.eval()
        with torch.inference_mode():
            return answers(self._validation.in_order(), self._learner.answer, self._masks, len(self._classes))

    def follow(self) -> None:
        """Learn as many epochs as the leader, which alone tells and keeps what comes of them."""
        for number in range(len(self._history) + 1, self._recipe.epochs + 1):
            for _ in self._learn(number):
                pass
            self._sums = _Sums(self._device)

    def trained(self) -> Trained:
        """Return what came of it."""
        learner = self._learner
        learner.end()
        copy_into(learner.model, learner.best)
        model = learner.model.eval().cpu().to(memory_format=torch.contiguous_format)
        return Trained(
            model=model,
            history=tuple(self._history),
            best_epoch=min(self._history, key=lambda epoch: epoch.validation_loss).epoch,
            seconds=sum(epoch.seconds for epoch in self._history),
            device=device_name(self._device),
            precision=str(learner.precision).removeprefix("torch."),
            micro_batch=learner.micro_batch if learner.micro_batch < self._recipe.batch_size else 0,
            images_per_s=statistics.harmonic_mean([epoch.images_per_s for epoch in self._history]),
            peak_mib=peak_mib(self._device),
            resumed_from_step=self._resumed_from_step,
        )

    def _learn(self, number: int) -> Iterator[int]:
        """Learn what is left of an epoch, and yield the number of images after each batch."""
        started = time.monotonic()
        self._learner.begin(number)
        for batch in self._train.shuffled(self._recipe.seed, number, skip=self._sums.batches):
            with self._blame():
                self._sums.add(self._learner.learn(batch, self._step), len(batch[1]))
            self._step += 1
            self._sums.seconds += time.monotonic() - started
            yield len(batch[1])
            started = time.monotonic()

    def _epoch(self, number: int, progress: Progress) -> Iterator[Epoch | Live]:
        rate = self._learner.learning_rate(self._step - self._sums.batches)
        for images in self._learn(number):
            if time.monotonic() - self._saved >= SECONDS_BETWEEN_CHECKPOINTS:
                self._save(number)
            progress.advance(images)
            if time.monotonic() - self._told >= SECONDS_BETWEEN_POINTS:
                self._told = time.monotonic()
                yield self._live()
        ended = time.monotonic()
        train_loss, train_accuracy = self._sums.means(_DIVERGED.format(number))
        learnt = time.monotonic()  # a GPU is waited for
        validation_loss, validation_accuracy, mean_iou = self._validate(number)
        if all(validation_loss < earlier.validation_loss for earlier in self._history):
            self._learner.keep_best()
        epoch = Epoch(
            epoch=number,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            validation_loss=validation_loss,
            validation_accuracy=validation_accuracy,
            validation_mean_iou=mean_iou,
            learning_rate=rate,
            seconds=self._sums.seconds + time.monotonic() - ended,
            images_per_s=self._train.images / (self._sums.seconds + learnt - ended),
        )
        log.info("%s: %s", self._name, _sentence(epoch, self._recipe.epochs))
        self._history.append(epoch)
        self._sums = _Sums(self._device)
        self._save(number + 1)
        yield epoch

    def _validate(self, number: int) -> tuple[float, float, float | None]:
        """Return loss, accuracy and, of masks, mean IoU of the weights that count."""
        self._learner.averaged.eval()
        plain = self._recipe.model_copy(update={"label_smoothing": 0})
        loss, sums = Loss(plain, self._classes, self._device), _Sums(self._device)
        overlap = Overlap(self._classes, self._device) if self._masks else None
        with torch.inference_mode():
            for images_NHWC, truths in self._validation.in_order():
                with self._blame():
                    logits = self._learner.answer(images_NHWC)
                    figures = [loss.sum(logits, truths).double(), *hits_and_counted(logits, truths), loss.total(truths)]
                    sums.add(torch.stack(figures), len(truths))
                    if overlap:
                        overlap.add(logits, truths)
        mean_loss, accuracy = sums.means(f"the validation loss became {{}} in epoch {number}")
        return mean_loss, accuracy, overlap.mean_iou() if overlap else None

    def _save(self, number: int) -> None:
        """Leave a checkpoint from which epoch `number` goes on; weights that are no numbers are never saved."""
        self._saved = time.monotonic()
        if self._sums.batches:
            self._sums.means(_DIVERGED.format(number))
        if self._checkpoints is None:
            return
        if not self._learner.is_finite():
            raise TrainingDiverged(f"weights became NaN or infinite in epoch {number}; try a lower learning_rate")
        loss, hits, counted, weight = self._sums.figures.tolist()
        index = CheckpointIndex(
            step=self._step,
            batches=self._sums.batches,
            images=self._sums.images,
            loss=loss,
            hits=hits,
            counted=counted,
            weight=weight,
            learning_seconds=self._sums.seconds,
            micro_batch=self._learner.micro_batch,
            history=tuple(self._history),
        )
        self._checkpoints.save(index, self._learner.tensors())

    def _resume(self, index: CheckpointIndex, tensors: dict[str, Tensor]) -> None:
        self._learner.load(tensors)
        self._learner.micro_batch = index.micro_batch
        self._history, self._step = list(index.history), index.step
        before = (index.loss, index.hits, index.counted, index.weight)
        self._sums.figures += torch.tensor(before, dtype=torch.float64, device=self._device)
        self._sums.batches, self._sums.images, self._sums.seconds = index.batches, index.images, index.learning_seconds
        log.info("%s: going on from step %d, in epoch %d", self._name, index.step, len(index.history) + 1)

    @contextmanager
    def _blame(self) -> Iterator[None]:
        """Turn what torch says of a network that can't be trained into the candidate's failure."""
        size = f"at batch_size {self._recipe.batch_size}"
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise OutOfDeviceMemory(f"not even one image fits the device: {first_line(error)}") from None
        except torch.AcceleratorError:  # a RuntimeError too, but the device's fault rather than the network's
            raise
        except (RuntimeError, TypeError, ValueError) as error:
            raise DoesNotFit(f"the network can't be trained {size}: {first_line(error)}") from error

    def _live(self) -> Live:
        loss, hits, counted, weight = self._sums.figures.tolist()
        memory, utilisation = gpu_load(self._device)
        return Live(
            step=self._step,
            loss=loss / weight,
            accuracy=hits / max(counted, 1),
            learning_rate=self._learner.learning_rate(self._step),
            images_per_s=self._sums.images / self._sums.seconds,
            gpu_memory_mib=memory,
            gpu_utilisation=utilisation,
        )

    def _facts(self) -> str:
        before = ", validation {} {:.3f}".format(*self._history[-1].chief) if self._history else ""
        return f"{self._live()}{before}"


class _Sums:
    """Loss and hits over the batches of an epoch; they stay on the device, which need not wait for them.

    Summed loss, hits, of how many images or pixels that count, and what the loss is divided by to be a mean.
    """

    def __init__(self, device: torch.device) -> None:
        self.figures = torch.zeros(4, dtype=torch.float64, device=device)
        self.images, self.batches, self.seconds = 0, 0, 0.0

    def add(self, figures: Tensor, images: int) -> None:
        """Count a batch."""
        self.figures += figures
        self.images += images
        self.batches += 1

    def means(self, complaint: str) -> tuple[float, float]:
        """Return mean loss and accuracy.

        Raises:
            TrainingDiverged: with the complaint, {} being the loss, where that is no number.
        """
        loss, hits, counted, weight = self.figures.tolist()
        if not math.isfinite(loss):
            raise TrainingDiverged(complaint.format(loss))
        return loss / weight, hits / max(counted, 1)


def _sentence(epoch: Epoch, epochs: int) -> str:
    name, value = epoch.chief
    return (
        f"epoch {epoch.epoch} of {epochs}, loss {epoch.train_loss:.3f}, "
        f"validation {name} {value:.3f}, {epoch.seconds:.1f} s"
    )
