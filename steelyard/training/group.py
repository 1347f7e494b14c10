"""The processes that learn one candidate together: who learns which images, and how their gradients become one."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed
from torch import Tensor, nn

from steelyard.errors import SteelyardError, first_line
from steelyard.training.device import best_device

Operator = torch.distributed.ReduceOp.RedOpType

LONGEST_WAIT = timedelta(hours=2)  # of one process for another, which validates or writes a checkpoint meanwhile
SECONDS_TO_BE_ENDED = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The processes, as one of them sees them. All draw the same batches and augment them alike."""

    rank: int = 0
    size: int = 1

    def share(self, images: int) -> slice:
        """Return which images of a batch are this process's to learn.

        Shares differ by one image at most. None is a single image, which batch norm can't take; where that leaves
        fewer shares than processes, some of these learn nothing.
        """
        shares = max(1, min(self.size, images // 2))
        first, end = (images * min(rank, shares) // shares for rank in (self.rank, self.rank + 1))
        return slice(first, end)

    def add_up(self, parameters: Iterable[nn.Parameter], figures: Tensor) -> None:
        """Give each process the sums of all processes' gradients, and of their figures.

        DistributedDataParallel, which sends while it still computes, is not used: it weighs unequal shares alike, and
        takes neither parameters that are frozen later nor a batch that is repeated in smaller parts.
        """
        learning = [parameter for parameter in parameters if parameter.requires_grad]
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in learning]
        sums = torch.cat([gradient.reshape(-1) for gradient in gradients])
        self._exchange(sums)
        self._exchange(figures)
        parts = sums.split_with_sizes([gradient.numel() for gradient in gradients])
        for parameter, gradient, part in zip(learning, gradients, parts, strict=True):
            parameter.grad = gradient.copy_(part.view_as(gradient))

    def begin_at(self, step: int) -> None:
        """Wait for all, and see that none found another checkpoint than the others.

        Raises:
            SteelyardError: they would begin at different steps.
        """
        if self.size == 1:
            return
        furthest = torch.tensor([step, -step], device=best_device())
        self._exchange(furthest, torch.distributed.ReduceOp.MAX)
        if furthest.sum() != 0:
            raise SteelyardError("the processes of the training found different checkpoints")

    def _exchange(self, figures: Tensor, how: Operator = torch.distributed.ReduceOp.SUM) -> None:
        try:
            torch.distributed.all_reduce(figures, how)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except RuntimeError as error:
            # The launcher ends this process too, and what it tells shall be the other's reason.
            time.sleep(SECONDS_TO_BE_ENDED)
            raise SteelyardError(f"another process of the training is gone: {first_line(error)}") from error


ALONE = Group()


@contextmanager
def joined() -> Iterator[Group]:
    """Join the processes that torchrun started: by NCCL where each has a GPU, else by Gloo."""
    device = best_device()
    if device.type == "cuda":
        torch.cuda.set_device(torch.distributed.get_node_local_rank())
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, timeout=LONGEST_WAIT)
    yield Group(rank=torch.distributed.get_rank(), size=torch.distributed.get_world_size())
    torch.distributed.destroy_process_group()  # after an error it would wait for the others, who wait for this one
