"""What `training.py --gpu` measures, on any torch.device: beside Lightning, a resident batch, and airbench94.

Seconds are those of the clock, once the device has done its work; contenders take turns. Lightning is tuned: bfloat16,
channels_last, cuDNN's benchmark, and the number of workers that was the fastest in two epochs before.

airbench94.py is Keller Jordan's, from `legacy/` of github.com/KellerJordan/cifar10-airbench: its user fetches it, a
process of its own runs it, and its times and accuracies are those that it prints. It learns exactly the images that we
learn, and neither side's seconds count loading or what is evaluated between epochs. How long we train is chosen by
accuracy on the test split, which is airbench94's measure; our recipe was not tuned.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from _training import (
    NOT_RUN,
    SEEDS,
    SIDE,
    SMALL_CNN,
    Clock,
    Contenders,
    Figures,
    Peer,
    accuracy_on_test,
    candidate,
    fit_lightning,
    in_turns,
    lightning,
    part_of,
    prepared,
    ratio,
    speeds,
    trained_from,
)

from steelyard.data.dataset import Dataset
from steelyard.data.workers import processes
from steelyard.params import Candidate, Split
from steelyard.training.device import device_name
from steelyard.training.train import train

FIGURES = (
    *("small_cnn_gpu_ratio", "resnet18_gpu_ratio", "resident_batch_gpu_ratio"),
    *("airbench_time_ratio", "airbench_accuracy", "airbench_ours_accuracy", "hardware"),
)
IMAGES, EPOCHS, ROUNDS = 8000, {"small CNN": 10, "ResNet-18": 5}, 3
WORKERS, TRIAL_EPOCHS = (0, 2, 4, 8, 16), 2
NEARLY_ALL = Split(train=0.96, validation=0.02, test=0.02)  # the test split is the folder's
LENGTHS = (8, 12, 16, 24)  # epochs; the first that is as accurate as airbench94 counts
RUN_AIRBENCH = """
import sys, torch
from importlib import import_module
from pathlib import Path
script, seeds = Path(sys.argv[1]), int(sys.argv[2])
sys.path.insert(0, str(script.parent))
train = import_module(script.stem).main
train("warmup")
for seed in range(seeds):
    torch.manual_seed(seed)
    train(seed)
"""


def on_device(device: torch.device, cifar: Path, scratch: Path, script: Path | None, quick: bool) -> Figures:
    """Return the figures; where quick, on few images.

    Args:
        device: what `train` chooses on this machine.
        cifar: folder of pictures, as `training.py` takes it.
        scratch: an empty folder.
        script: airbench94.py; without it, what needs it is not run.
        quick: a smoke run.
    """
    images, rounds = (100, 1) if quick else (IMAGES, ROUNDS)
    few = part_of(cifar, scratch / "few", {"train": images, "validation": images // 5, "test": images // 10})
    figures: Figures = dict.fromkeys(FIGURES, NOT_RUN)
    figures["hardware"] = f"{device_name(device)}, {cores()} cores, torch {torch.__version__}"
    epochs = dict.fromkeys(EPOCHS, 1) if quick else EPOCHS
    small = candidate("small", {"layers": SMALL_CNN}, epochs["small CNN"])
    resnet = candidate("resnet18", {"arch": "resnet18"}, epochs["ResNet-18"])
    figures |= beside_lightning("small CNN", "small_cnn_gpu_ratio", small, few, scratch, device, rounds)
    figures |= beside_lightning("ResNet-18", "resnet18_gpu_ratio", resnet, few, scratch, device, rounds)
    speed, bare = speeds(small, Dataset(scratch / "dataset"), device, clock_of(device))
    figures |= {"small CNN, images/s": round(speed), "the same, one batch": round(bare)}
    figures["resident_batch_gpu_ratio"] = round(speed / bare, 2)
    if script:
        photos = part_of(cifar, scratch / "some", {"train": 1200, "test": 200}) if quick else cifar
        seeds, lengths = (2, (1,)) if quick else (SEEDS, LENGTHS)
        figures |= beside_airbench(script.resolve(), photos, scratch, device, seeds, lengths)
    return figures


def beside_lightning(
    name: str, key: str, one: Candidate, photos: Path, scratch: Path, device: torch.device, rounds: int
) -> Figures:
    """Train a network, decoding included, beside Lightning with its best number of workers."""
    clock, epochs = clock_of(device), one.training.epochs
    ours = partial(trained_from, photos, one, scratch / "dataset", processes())
    ours()  # warms up
    contenders: Contenders = {"steelyard": ours}
    figures: Figures = {}
    if lightning:
        tuned = {"precision": "bf16-mixed", "benchmark": True}

        def theirs(workers: int, epochs: int) -> None:
            fit_lightning(Peer(one, tuned=True), photos, epochs, workers, device.type, devices=1, **tuned)

        trial = min(TRIAL_EPOCHS, epochs)
        trials = in_turns({str(n): partial(theirs, n, trial) for n in WORKERS if n <= cores()}, 1, clock)
        workers = int(min(trials, key=lambda n: trials[n]))
        contenders["Lightning"] = partial(theirs, workers, epochs)
        figures[f"{name}, Lightning's workers"] = workers
    took = in_turns(contenders, rounds, clock)
    figures |= {f"{name}, {who}, s": round(statistics.median(times), 2) for who, times in took.items()}
    return figures | {key: ratio(took, "Lightning", "steelyard")}


def beside_airbench(
    script: Path, photos: Path, scratch: Path, device: torch.device, seeds: int, lengths: Sequence[int]
) -> Figures:
    """Train until airbench94's mean accuracy is reached, on the same images; and say so where it is not."""
    dataset = prepared(photos, scratch / "airbench-dataset", processes(), NEARLY_ALL)
    theirs = airbench(script, dataset, scratch / "airbench", seeds)
    wanted, their_s = (statistics.fmean(values) for values in zip(*theirs, strict=True))
    train(fast_cnn(1, 0), dataset, lambda epoch: None)  # warms up
    for epochs in lengths:
        ours = [accuracy_and_seconds(fast_cnn(epochs, seed), dataset, device) for seed in range(seeds)]
        accuracy, our_s = (statistics.fmean(values) for values in zip(*ours, strict=True))
        if accuracy >= wanted:
            break
    return {
        "airbench94, s": round(their_s, 2),
        "steelyard, s": round(our_s, 2),
        "steelyard, epochs": epochs,
        "airbench_time_ratio": round(our_s / their_s, 2),
        "airbench_accuracy": round(wanted, 4),
        "airbench_ours_accuracy": round(accuracy, 4),
        "airbench accuracy reached": "yes" if accuracy >= wanted else "no",
    }


def airbench(script: Path, dataset: Dataset, folder: Path, seeds: int) -> list[tuple[float, float]]:
    """Return what airbench94.py prints of each seed: accuracy without test-time augmentation, seconds of training."""
    (folder / "cifar10").mkdir(parents=True)  # where the script looks
    for split in ("train", "test"):
        images, labels = zip(*dataset.batches(split, 1024), strict=True)
        images_NHWC, labels_N = torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels))
        tensors = {"images": images_NHWC, "labels": labels_N.long(), "classes": list(dataset.index.classes)}
        torch.save(tensors, folder / "cifar10" / f"{split}.pt")
    words = [sys.executable, "-c", RUN_AIRBENCH, str(script), str(seeds)]
    printed = subprocess.run(words, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if "|" in line]
    ends = [row for row, after in pairwise(rows) if after[1] == "eval"]  # that row's seconds include the augmentation
    return [(float(row[-3]), float(row[-1])) for row in ends[1:]]  # the first warmed up


def accuracy_and_seconds(one: Candidate, dataset: Dataset, device: torch.device) -> tuple[float, float]:
    """Return accuracy on the test split, and seconds of training without validation."""
    trained = train(one, dataset, lambda epoch: None)
    seconds = sum(dataset.index.images["train"] / epoch.images_per_s for epoch in trained.history)
    return accuracy_on_test(trained, dataset, device), seconds


def fast_cnn(epochs: int, seed: int) -> Candidate:
    """Return seven convolutions, three of which halve the image, with residual ones between."""
    first = [{"conv": 32, "activation": "gelu"}]
    last = [{"pool": SIDE // 2**3}, {"flatten": True}]
    recipe = {
        "epochs": epochs,
        "batch_size": 512,
        "learning_rate": 0.005,
        "weight_decay": 0.05,
        "label_smoothing": 0.1,
        "ema": 0.98,
        "augment": {"crop": 2, "flip": True},
        "seed": seed,
    }
    layers = first + block(64) + block(256) + block(256) + last
    return Candidate.model_validate({"name": "fast", "layers": layers, "training": recipe})


def block(width: int) -> list[dict[str, object]]:
    convolution: dict[str, object] = {"conv": width, "activation": "none"}
    after: list[dict[str, object]] = [{"batch_norm": True}, {"activation": "gelu"}]
    return [convolution, {"pool": 2}, *after, {"residual": [convolution, *after]}]


def cores() -> int:
    return len(os.sched_getaffinity(0))


def clock_of(device: torch.device) -> Clock:
    """Return a clock that waits for the device."""

    def seconds() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return seconds
