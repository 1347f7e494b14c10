"""The memory a model takes to answer: `python -m steelyard.evaluation.footprint BUNDLE` in a process of its own."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from steelyard.bundle import ModelBundle
from steelyard.process import own_peak_mib


def peak_memory_mib(bundle: ModelBundle) -> float:
    """Return the most memory that a process held which loaded this model and answered for single images, in MiB."""
    words = [sys.executable, "-m", __name__, str(bundle.folder)]
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    return float(ended.stdout)


def _answer(folder: Path) -> None:
    bundle = ModelBundle(folder)
    for _ in range(3):
        bundle.predict(np.zeros((1, *bundle.index.input_shape), np.uint8))


if __name__ == "__main__":
    _answer(Path(sys.argv[1]))
    print(own_peak_mib())
