"""A network with its optimiser and its averaged weights: what one step changes, and what a checkpoint holds."""

import copy
import logging
import sys
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from steelyard.models.normalised import Normalised
from steelyard.params import Training
from steelyard.training.augment import Augmentation
from steelyard.training.batches import Batch
from steelyard.training.device import keep_freed_memory, precision, seed
from steelyard.training.freezing import Freezing
from steelyard.training.graphs import Graphs
from steelyard.training.group import ALONE, Group
from steelyard.training.loss import Loss, hits_and_counted
from steelyard.training.schedule import learning_rate

log = logging.getLogger(__name__)

FEW_STEPS = 500  # trying a graph takes as long as some forty


class Learner:
    """Learns batch by batch. All that is random in a step is drawn from the seed and the step's number alone."""

    def __init__(
        self,
        model: Normalised,
        recipe: Training,
        loss: Loss,
        steps: int,
        device: torch.device,
        group: Group = ALONE,
    ) -> None:
        """Take a model to its device.

        Args:
            model: which is to learn.
            recipe: how.
            loss: the recipe's.
            steps: in all.
            device: where.
            group: of processes, each of which learns a share of each batch.
        """
        keep_freed_memory()
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.model) if recipe.ema else self.model
        self._floats, self._counters = _pairs(self.averaged, self.model)
        self.precision = precision(recipe, device, self.model)
        self.micro_batch = recipe.batch_size + 1  # the last batch may have one image more
        self._answered_at_once = sys.maxsize
        self.best: dict[str, Tensor] = {}
        self._recipe, self._loss, self._steps = recipe, loss, steps
        self._device, self._group = device, group
        self._freezing = Freezing(model.network, recipe.unfreeze)
        worth_it = device.type == "cuda" and steps >= FEW_STEPS
        self._graphs = Graphs(self.model, device, wanted=worth_it and not recipe.deterministic)  # speed is chance
        self._augment = Augmentation(recipe.augment, model.network.classes)
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )

    def begin(self, epoch: int) -> None:
        """Set the network to learn, in an epoch."""
        self.model.train()
        self._freezing.begin(epoch)
        self._graphs.begin()

    def learn(self, batch: Batch, step: int) -> Tensor:
        """Take one step, and return (4,): the summed loss, the hits, of how many, and what the loss is divided by.

        Where the device's memory does not suffice, the batch is learnt in parts, each half as large as before, and
        the gradients are summed: batch norm then sees the parts. Of several processes each learns its share, in parts
        of its own if need be, and returns the figures of the whole batch.

        Raises:
            torch.OutOfMemoryError: not even a single image fits.
        """
        mine = self._group.share(len(batch[1]))
        while True:
            try:
                figures = self._gradients(batch, mine, step)
                break
            except torch.OutOfMemoryError:
                tried = min(self.micro_batch, mine.stop - mine.start)
                if tried <= 1:
                    raise
            if self._graphs.give_up():
                continue
            self.micro_batch = tried // 2
            log.warning("the device's memory is full: going on with %d images at a time", self.micro_batch)
        if self._group.size > 1:
            self._group.add_up(self.model.parameters(), figures[:3])
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        self._optimizer.step()
        if self.averaged is not self.model:
            self._average(step)
        return figures

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        return learning_rate(self._recipe, step, self._steps)

    def answer(self, images_NHWC: Tensor) -> Tensor:
        """Return the logits (N, classes), or for masks (N, classes, H, W), of the weights that count."""
        with self._autocast():
            while True:
                try:
                    parts = torch.split(images_NHWC, self._answered_at_once)
                    return torch.cat([self.averaged(part_NHWC)[0].float() for part_NHWC in parts])
                except torch.OutOfMemoryError:
                    tried = min(self._answered_at_once, len(images_NHWC))
                    if tried <= 1:
                        raise
                self._answered_at_once = tried // 2

    def end(self) -> None:
        """Give back what only learning needs."""
        self._graphs.forget()

    def keep_best(self) -> None:
        """Remember the weights as the best so far."""
        self.best = {name: value.detach().clone() for name, value in self.averaged.state_dict().items()}

    def is_finite(self) -> bool:
        """Return whether all weights are numbers."""
        return all(bool(value.isfinite().all()) for value in self.model.parameters())

    def tensors(self) -> dict[str, Tensor]:
        """Return all from which `load` goes on, by name."""
        found = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self.averaged is not self.model:
            found |= {f"averaged.{name}": value for name, value in self.averaged.state_dict().items()}
        found |= {f"best.{name}": value for name, value in self.best.items()}
        for name, parameter in self.model.named_parameters():
            for kind, value in self._optimizer.state.get(parameter, {}).items():
                found[f"optimizer.{kind}.{name}"] = value
        return found

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Become what `tensors` described, to the bit."""
        copy_into(self.model, _below("model.", tensors))
        if self.averaged is not self.model:
            copy_into(self.averaged, _below("averaged.", tensors))
        self.best = {name: value.to(self._device) for name, value in _below("best.", tensors).items()}
        parameters = dict(self.model.named_parameters())
        for address, value in _below("optimizer.", tensors).items():
            kind, _, name = address.partition(".")
            parameter = parameters[name]
            like = torch.empty_like(parameter) if value.shape == parameter.shape else torch.empty_like(value)
            self._optimizer.state[parameter][kind] = like.to(self._device).copy_(value)

    def _gradients(self, batch: Batch, mine: slice, step: int) -> Tensor:
        seed(_mixed(self._recipe.seed, step), self._device)
        self._optimizer.zero_grad()
        images_NCHW, targets = self._augment(*batch)
        total, sums = self._loss.total(targets), torch.zeros(3, dtype=torch.float64, device=self._device)
        if self._group.rank:
            seed(_mixed(self._recipe.seed, step, self._group.rank), self._device)  # else all drop the same neurons
        parts = _parts(images_NCHW[mine], targets[mine], self.micro_batch)
        for images, wanted in parts:
            with self._autocast():
                logits = self._graphs.answer(images, whole=len(parts) == 1)
            loss = self._loss.sum(logits.float(), wanted)
            (loss / total).backward()  # type: ignore[no-untyped-call]
            sums += torch.stack([loss.detach().double(), *hits_and_counted(logits, wanted)])
        return torch.cat([sums, total[None]])

    def _autocast(self) -> torch.autocast:
        """Return what lets the network reckon in its precision; without a cache of weights, which no graph can have."""
        lower = self.precision != torch.float32
        return torch.autocast(self._device.type, self.precision, enabled=lower, cache_enabled=False)

    @torch.no_grad()
    def _average(self, step: int) -> None:
        """Move the averaged weights towards the new ones; early ones, which are far from the last, count for less."""
        decay = min(self._recipe.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._floats[0], self._floats[1], 1 - decay)
        if self._counters[0]:
            torch._foreach_copy_(*self._counters)


@torch.no_grad()
def copy_into(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a module the values of a state dict; MNASNet's own way asks for the version of a pickled one."""
    for name, value in module.state_dict().items():
        value.copy_(tensors[name])


Pair = tuple[list[Tensor], list[Tensor]]


def _pairs(one: nn.Module, other: nn.Module) -> tuple[Pair, Pair]:
    """Return the numbers of two equal networks side by side, and batch norm's counters likewise."""
    both = [list(module.state_dict().values()) for module in (one, other)]
    floats, counters = (
        tuple([value for value in values if value.is_floating_point() == wanted] for values in both)
        for wanted in (True, False)
    )
    return floats, counters  # type: ignore[return-value]


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _parts(images_NCHW: Tensor, targets: Tensor, most: int) -> list[tuple[Tensor, Tensor]]:
    """Return images with what they are, `most` at a time or one more: a single one batch norm can't take."""
    if not len(targets):
        return []
    count = -(-len(targets) // most)
    if most > 1:
        count = min(count, max(1, len(targets) // 2))
    return list(zip(images_NCHW.tensor_split(count), targets.tensor_split(count), strict=True))


def _mixed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
