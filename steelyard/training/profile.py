"""What a trained network spends its time on: ten steps of training and ten of inference under torch.profiler."""

import copy
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.profiler import ProfilerActivity, profile

from steelyard.artifact import new_folder
from steelyard.data.dataset import Dataset
from steelyard.params import Candidate
from steelyard.profile import Operation, Phase, ProfileIndex
from steelyard.training.batches import Batch, Batches
from steelyard.training.device import arithmetic, best_device, device_name
from steelyard.training.learner import Learner
from steelyard.training.loss import Loss
from steelyard.training.train import Trained

if TYPE_CHECKING:
    from torch.autograd.profiler_util import FunctionEventAvg

STEPS, WARM_UP = 10, 2
MOST_SECONDS = 3.0  # of ten training steps, at the speed that the training had
MOST_OPERATIONS = 25


def write_profile(trained: Trained, candidate: Candidate, dataset: Dataset, run_key: str, folder: Path) -> None:
    """Write `profile.json` and, for each phase, `PHASE.trace.json.gz`, which Chrome and Perfetto open.

    Works on a copy of the network. A batch is the recipe's, or smaller where ten of them would take long.

    Args:
        trained: which network, and how fast it learnt.
        candidate: its recipe.
        dataset: some batches of its train split are learnt.
        run_key: of the training.
        folder: gets the files.
    """
    device, recipe = best_device(), candidate.training
    images = min(trained.micro_batch or recipe.batch_size, int(MOST_SECONDS * trained.images_per_s / STEPS))
    batches = Batches(dataset, "train", max(2, images), device, few=True)
    taken = list(islice(cycle(batches.shuffled(recipe.seed, 1)), STEPS + WARM_UP))
    loss = Loss(recipe, dataset.index.classes, device)
    learner = Learner(copy.deepcopy(trained.model), recipe, loss, len(taken), device)
    learner.begin(recipe.epochs)
    with new_folder(folder) as partial, arithmetic(recipe.deterministic):
        training = _phase(lambda batch: learner.learn(batch, 0), taken, partial / "training.trace.json.gz")
        learner.averaged.eval()
        with torch.inference_mode():
            inference = _phase(lambda batch: learner.answer(batch[0]), taken, partial / "inference.trace.json.gz")
        ProfileIndex(
            run_key=run_key,
            candidate=candidate.name,
            device=device_name(device),
            precision=trained.precision,
            batch_size=len(taken[0][1]),
            steps=STEPS,
            training=training,
            inference=inference,
        ).write(partial / "profile.json")


def _phase(step: Callable[[Batch], object], batches: list[Batch], trace: Path) -> Phase:
    """Profile all steps but those of the warm-up, in which memory is taken and algorithms are chosen."""
    for batch in batches[:WARM_UP]:
        step(batch)
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.synchronize()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, profile_memory=True, acc_events=True) as recorded:
        for batch in batches[WARM_UP:]:
            step(batch)
        if on_gpu:
            torch.cuda.synchronize()
    recorded.export_chrome_trace(str(trace))
    called = (event for event in recorded.key_averages() if event.device_type.name == "CPU")  # with their kernels
    operations = sorted(map(_operation, called), key=lambda one: -(one.gpu_ms or one.cpu_ms))
    return Phase(
        cpu_ms=sum(one.cpu_ms for one in operations),
        gpu_ms=sum(one.gpu_ms for one in operations),
        operations=tuple(operations[:MOST_OPERATIONS]),
    )


def _operation(event: "FunctionEventAvg") -> Operation:
    return Operation(
        name=str(event.key),
        calls=event.count,
        cpu_ms=event.self_cpu_time_total / 1000,
        gpu_ms=event.self_device_time_total / 1000,
        cpu_mib=event.self_cpu_memory_usage / 2**20,
        gpu_mib=event.self_device_memory_usage / 2**20,
    )
