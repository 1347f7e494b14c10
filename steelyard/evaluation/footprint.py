"""The memory a model takes to answer: `python -m steelyard.evaluation.footprint BUNDLE` in a process of its own."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from steelyard.bundle import ModelBundle
from steelyard.errors import FootprintUnknown
from steelyard.process import own_peak_mib


def peak_memory_mib(bundle: ModelBundle) -> float:
    """Return the most memory that a process held which loaded this model and answered for single images, in MiB.

    Raises:
        FootprintUnknown: it ended before it had answered.
    """
    words = [sys.executable, "-m", __name__, str(bundle.folder)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    if ended.returncode:
        said = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
        raise FootprintUnknown(f"{bundle.index.candidate}: its memory can't be measured: {said[-1]}")
    return float(ended.stdout)


def _answer(folder: Path) -> None:
    bundle = ModelBundle(folder)
    for _ in range(3):
        bundle.predict(np.zeros((1, *bundle.index.input_shape), np.uint8))


if __name__ == "__main__":
    _answer(Path(sys.argv[1]))
    print(own_peak_mib())
