"""Training on one thread of a CPU, or on a GPU: how fast beside Lightning, how near to the bare step, how accurate?

    python benchmarks/training.py [--data FOLDER] [--images 2000] [--only-halving] [--quick] [--json]
    python benchmarks/training.py --gpu [--data FOLDER] [--airbench FILE] [--quick] [--json]

FOLDER holds `train/CLASS/*.jpg` and `test/CLASS/*.jpg` of CIFAR-10 (default: below STEELYARD_TEST_DATA). Contenders
take turns, each time in a process of its own, three rounds of a small CNN and two of ResNet-18; ratios are medians over
the rounds. steelyard's time has its decoding in it, Lightning's ImageFolder decodes with PIL in each epoch, as its
users have it. Seconds are those that the processor spent, so that others on the machine count for little. Needs
`pip install lightning`; without it, only what needs no peer is measured.

A GPU is looked for with --gpu alone; `_training_gpu.py` says how it is measured. Where there is none, its figures are
"not run", unless --quick lets all of it run on the CPU.
"""

import argparse
import json
import os
import statistics
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from _training import (
    BATCH,
    CPU,
    NOT_RUN,
    SEEDS,
    SMALL_CNN,
    Contenders,
    Figures,
    Peer,
    accuracy_on_test,
    apart,
    candidate,
    fit_lightning,
    in_turns,
    lightning,
    part_of,
    prepared,
    processor_seconds,
    ratio,
    silence,
    speeds,
    trained_from,
)
from _training_gpu import FIGURES, on_device

from steelyard.data.dataset import Dataset
from steelyard.training.device import best_device
from steelyard.training.train import train

STEPS = 30


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10 as pictures in train/ and test/")
    parser.add_argument("--images", type=int, default=2000, help="that the small CNN learns beside Lightning on a CPU")
    parser.add_argument("--quick", action="store_true", help="a smoke run on few images")
    parser.add_argument("--only-halving", action="store_true", help="what halving saves and costs, and nothing else")
    parser.add_argument("--gpu", action="store_true", help="measure on a GPU instead")
    parser.add_argument("--airbench", type=Path, metavar="FILE", help="airbench94.py, to train beside on a GPU")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    silence()
    figures = on_gpu(arguments) if arguments.gpu else on_cpu(arguments)
    lines = (f"{name:28} {NOT_RUN if figure is None else figure:>10}" for name, figure in figures.items())
    print(json.dumps(figures, indent=1) if arguments.json else "\n".join(lines))


def on_gpu(arguments: argparse.Namespace) -> Figures:
    """Return the figures of a GPU, which are None where there is none."""
    device = best_device()
    if device == CPU and not arguments.quick:
        return dict.fromkeys(FIGURES, NOT_RUN)
    with TemporaryDirectory() as scratch:
        return on_device(device, cifar_of(arguments), Path(scratch), arguments.airbench, arguments.quick)


def on_cpu(arguments: argparse.Namespace) -> Figures:
    """Return the figures of one thread of a CPU."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks
    from _halving import halving  # with mlflow, which a GPU's figures do without

    torch.set_num_threads(1)
    cifar = cifar_of(arguments)
    images, epochs = (200, 2) if arguments.quick else (arguments.images, 10)
    with TemporaryDirectory() as scratch:
        few = part_of(cifar, Path(scratch) / "few", {"train": images, "validation": images // 5, "test": images // 10})
        figures: Figures = {}
        if not arguments.only_halving:
            figures |= resnet18(cifar, Path(scratch), 3 if arguments.quick else STEPS)
            figures |= small_cnn(few, Path(scratch), epochs)  # the last with a peer: it trains in this process
            figures |= accuracy(cifar, Path(scratch), images if arguments.quick else None, epochs)
        split = {
            "train": images,
            "validation": images,
            "test": images // 10,
        }  # few for validation would judge by chance
        pictures = part_of(cifar, Path(scratch) / "halved-pictures", split)
        return figures | halving(prepared(pictures, Path(scratch) / "halving-dataset"), Path(scratch))


def cifar_of(arguments: argparse.Namespace) -> Path:
    if found := arguments.data or next(Path(os.environ.get("STEELYARD_TEST_DATA", "none")).rglob("cifar10"), None):
        return Path(found)
    sys.exit("--data: name the folder with CIFAR-10 as pictures in train/ and test/")


def small_cnn(photos: Path, scratch: Path, epochs: int) -> Figures:
    """Train the small CNN, decoding included, beside Lightning, and beside a bare step on one batch."""
    small = candidate("small", {"layers": SMALL_CNN}, epochs)
    contenders: Contenders = {"steelyard": partial(trained_from, photos, small, scratch / "dataset")}
    if lightning:
        contenders["Lightning"] = lambda: fit_lightning(Peer(small), photos, epochs=epochs)
    rounds = in_turns(apart(contenders), 3, processor_seconds)
    speed, bare = speeds(small, Dataset(scratch / "dataset"), CPU, processor_seconds)
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
    contenders: Contenders = {"steelyard": lambda: train(one, dataset, lambda epoch: None)}
    if lightning:
        contenders["Lightning"] = lambda: fit_lightning(Peer(one), few, epochs=1)
        contenders["tuned"] = lambda: fit_lightning(Peer(one, tuned=True), few, epochs=1)
    rounds = in_turns(apart(contenders), 2, processor_seconds)
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
        found.append(accuracy_on_test(trained, dataset, CPU))
    return {
        "accuracy_mean": round(statistics.fmean(found), 4),
        "accuracy_spread": round(statistics.stdev(found), 4),
    }


if __name__ == "__main__":
    main()
