"""How a training gets several processes on one machine: by torchrun's launcher. Imports torch only to do so."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steelyard.errors import SteelyardError

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

log = logging.getLogger(__name__)


def _kinds(above: type[SteelyardError]) -> Iterator[tuple[str, type[SteelyardError]]]:
    """Yield the errors that are made of one text, by name."""
    for kind in above.__subclasses__():
        if kind.__init__ is Exception.__init__:
            yield kind.__name__, kind
        yield from _kinds(kind)


_KINDS = dict(_kinds(SteelyardError))  # that stay themselves from one process to another


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """Several processes, one for each GPU that the machine lends."""

    count: int
    begin: Callable[[], None]  # called first in each; sets its log up

    def run(self, work: Callable[..., None], *arguments: object) -> None:
        """Call a function in each process, with the arguments and with `group`, and wait for all.

        Raises:
            SteelyardError: the first that a process raised, as of the same kind; or it failed in another way, or was
                killed. The others were ended.
        """
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=self.count,
            max_restarts=0,  # the task is tried again as a whole, and goes on from the last checkpoint
            run_id="training",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
        )
        for talker in ("torch.distributed.elastic", "torch.multiprocessing"):
            logging.getLogger(talker).setLevel(logging.CRITICAL)  # what fails is told once, by the error below
        try:
            elastic_launch(config, _process)(self.begin, work, arguments)
        except ChildFailedError as error:
            raise _reason(*error.get_first_failure()) from None


def _process(begin: Callable[[], None], work: Callable[..., None], arguments: tuple[object, ...]) -> None:
    from steelyard.training.group import joined

    begin()
    with joined() as group:
        work(*arguments, group=group)


def _reason(rank: int, failure: "ProcessFailure") -> SteelyardError:
    """Return what a process raised, as this one's error."""
    if isinstance(failure.message, str):  # it was killed
        return SteelyardError(f"process {rank} of the training was ended: {failure.message}")
    said, traceback = failure.message["message"], failure.message["extraInfo"]["py_callstack"]
    name, _, sentence = said.partition(": ")
    if kind := _KINDS.get(name):
        return kind(sentence)
    log.error("%s", traceback)
    return SteelyardError(f"process {rank} of the training failed: {said.partition(chr(10))[0]}")
