"""CUDA graphs: a network's pass forward and back is started in one go, where that is faster.

Python starts each kernel by itself, and a GPU waits for it where kernels are short, as those of small networks are. A
graph starts all of them at once (torch.cuda.make_graphed_callables). It is used only where it was seen to be faster
and to give the network's own answers and gradients. None was captured yet: no GPU was at hand.
"""

import gc
import logging
import time
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from steelyard.errors import first_line
from steelyard.models.normalised import Normalised

log = logging.getLogger(__name__)

PASSES = 10  # that are timed
WORTH_IT = 0.95  # of the time without
ALIKE = 0.05  # of the norm; bfloat16 keeps two to three digits

Answer = Callable[[Tensor], Tensor]


class Graphs:
    """Answers like a network that learns, through a graph where there is a good one."""

    def __init__(self, model: Normalised, device: torch.device, *, wanted: bool) -> None:
        """Take a network that is on its device.

        Args:
            model: the network.
            device: a GPU, where graphs are wanted.
            wanted: whether they are tried at all.
        """
        self._model, self._device, self._wanted = model, device, wanted
        self._learning: list[bool] = []
        self._shape: torch.Size | None = None  # of the images before
        self._tried: torch.Size | None = None
        self._graph: Answer | None = None

    def begin(self) -> None:
        """Forget the graph if other parts of the network learn than when it was captured."""
        learning = [parameter.requires_grad for parameter in self._model.parameters()]
        learning += [module.training for module in self._model.modules()]
        if learning != self._learning:
            self.forget()
            self._learning = learning

    def forget(self) -> None:
        """Give the graph's memory back."""
        self._shape = self._tried = None
        if self._graph is not None:
            self._graph = None
            gc.collect()  # torch's own class refers to itself

    def give_up(self) -> bool:
        """Do without graphs from here on, and return whether there was one."""
        held, self._wanted = self._graph is not None, False
        self.forget()
        return held

    def answer(self, images_NCHW: Tensor, *, whole: bool) -> Tensor:
        """Return the logits, from which a gradient can be taken once before the next call.

        Args:
            images_NCHW: in [0, 1]. The second batch of one shape is captured.
            whole: whether these are all images of a step: gradients of a graph can't be summed.
        """
        if not (self._wanted and whole):
            self._shape = None
            return self._network(images_NCHW)
        if images_NCHW.shape == self._shape and self._tried is None:
            self._tried = images_NCHW.shape
            self._graph = self._captured(images_NCHW)
            gc.collect()
        self._shape = images_NCHW.shape
        graph = self._graph if images_NCHW.shape == self._tried else None
        return (graph or self._network)(images_NCHW)

    def _network(self, images_NCHW: Tensor) -> Tensor:
        return self._model.answer(images_NCHW)[0]

    def _captured(self, images_NCHW: Tensor) -> Answer | None:
        """Return a graph; None where it fails, answers otherwise than the network, or is no faster."""
        before = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        stream = torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None
        try:
            with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
                took, others = self._seconds(self._network, images_NCHW), images_NCHW.flip(0)
                graph = _capture(_Answering(self._model), images_NCHW)
                took_graph = self._seconds(graph, images_NCHW)
                alike = _alike(self._pass(self._network, others), self._pass(graph, others))
        except (RuntimeError, AssertionError) as error:
            log.info("no CUDA graph: %s", first_line(error))
            self._wanted = False
            return None
        finally:
            if stream is not None:  # before torch 2.15, a capture that failed left its own behind
                torch.cuda.set_stream(stream)
            for buffer, value in before:
                buffer.copy_(value)
            self._model.zero_grad()
        good = alike and took_graph < WORTH_IT * took
        said = "as the network itself" if alike else "otherwise than the network itself"
        log.info(
            "a CUDA graph takes %.2f of the time, answers %s, and is %sused",
            took_graph / took,
            said,
            "" if good else "not ",
        )
        return graph if good else None

    def _pass(self, answer: Answer, images_NCHW: Tensor) -> list[Tensor]:
        """Return logits, and the gradients of some sum of them."""
        torch.manual_seed(0)
        self._model.zero_grad()
        logits = answer(images_NCHW).float()
        (logits * torch.arange(logits.numel(), device=logits.device).view_as(logits).sin()).sum().backward()  # type: ignore[no-untyped-call]
        gradients = [one.grad for one in self._model.parameters() if one.grad is not None]
        return [found.detach().float().clone() for found in (logits, *gradients)]

    def _seconds(self, answer: Answer, images_NCHW: Tensor) -> float:
        self._pass(answer, images_NCHW)
        _wait(self._device)
        began = time.perf_counter()
        for _ in range(PASSES):
            self._pass(answer, images_NCHW)
        _wait(self._device)
        return time.perf_counter() - began


class _Answering(nn.Module):
    """The network as a module that returns logits alone."""

    def __init__(self, model: Normalised) -> None:
        super().__init__()
        self.model = model

    def forward(self, images_NCHW: Tensor) -> Tensor:
        logits: Tensor = self.model.answer(images_NCHW)[0]
        return logits


def _capture(module: nn.Module, images_NCHW: Tensor) -> Answer:
    sample = (images_NCHW.detach().clone(),)
    return cast("Answer", torch.cuda.make_graphed_callables(module, sample, allow_unused_input=True))


def _wait(device: torch.device) -> None:
    torch.cuda.synchronize(device)


def _alike(ones: list[Tensor], others: list[Tensor]) -> bool:
    """Return whether all are alike; of the smallest, which are noise, a part of the largest is allowed."""
    allowed = ALIKE * torch.stack([one.norm() for one in ones])
    differences = torch.stack([(one - other).norm() for one, other in zip(ones, others, strict=True)])
    return bool((differences <= allowed.clamp(min=float(allowed.max()) / 100)).all())
