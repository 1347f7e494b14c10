"""Drift detection on scikit-learn's digits: does it keep its promise, how soon does it see a corruption, at what cost?

    python benchmarks/drift.py [--splits 10] [--json]

Each split trains a small network on half of the 1,797 images, calibrates on a quarter and streams the other quarter,
which nothing has seen. Delay: images until the alarm when the stream is corrupted from its 51st image on.
"""

import argparse
import json
import time
import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from steelyard.drift.calibration import build_profile
from steelyard.drift.corruptions import CORRUPTIONS, corrupt
from steelyard.drift.detector import DriftDetector
from steelyard.drift.profile import ReferenceProfile
from steelyard.drift.samples import Samples, image_statistics

SEVERITIES = (1, 3, 5)
CLEAN = 50  # images before the change
CLASSES = tuple("0123456789")


class Split(NamedTuple):
    """What one random split measures."""

    false_alarms: int
    delays: dict[str, int | None]
    built_s: float
    per_image_us: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    digits = load_digits()
    small_NHW = (digits.images * 255 / 16).round().astype(np.uint8)
    resized = [np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR)) for image in small_NHW]
    images_NHWC = np.stack(resized)[..., None]
    splits = [one_split(images_NHWC, digits.target, seed) for seed in range(arguments.splits)]
    figures = summary(splits)
    lines = (f"{name:40} {figure:>8g}" for name, figure in figures.items())
    print(json.dumps(figures, indent=1) if arguments.json else "\n".join(lines))


def one_split(images_NHWC: NDArray[np.uint8], labels_N: NDArray[np.int64], seed: int) -> Split:
    """Return what one random split measures."""
    train, validation, test = np.split(np.random.default_rng(seed).permutation(len(labels_N)), [898, 1347])
    network = MLPClassifier((64,), max_iter=60, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 60 epochs are enough, converged or not
        network.fit(intensities(images_NHWC[train]), labels_N[train])
    began = time.process_time()
    learnt, held_out = ((answers(network, images_NHWC[rows]), labels_N[rows]) for rows in (train, validation))
    profile = build_profile(*learnt, *held_out, classes=CLASSES, model_sha256="benchmark", seed=seed)
    built_s = time.process_time() - began
    clean = answers(network, images_NHWC[test])
    detector = DriftDetector(profile)
    began = time.process_time()
    false_alarms = len(detector.update(clean))
    per_image_us = (time.process_time() - began) / len(test) * 1e6
    delays = {
        f"{name} {severity}": delay(profile, clean, answers(network, corrupt(images_NHWC[test], name, severity, seed)))
        for name in CORRUPTIONS
        for severity in SEVERITIES
    }
    return Split(false_alarms, delays, built_s, per_image_us)


def intensities(images_NHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    return images_NHWC.reshape(len(images_NHWC), -1) / 255


def answers(network: MLPClassifier, images_NHWC: NDArray[np.uint8]) -> Samples:
    """Return probabilities, the hidden layer and the image statistics."""
    inputs_NP = intensities(images_NHWC)
    hidden_NH = np.maximum(inputs_NP @ network.coefs_[0] + network.intercepts_[0], 0)
    probabilities_NC = network.predict_proba(inputs_NP)
    return Samples(probabilities_NC.astype("f4"), hidden_NH.astype("f4"), image_statistics(images_NHWC))


def delay(profile: ReferenceProfile, clean: Samples, corrupted: Samples) -> int | None:
    """Return images from the change to the first alarm, or None for no alarm in the rest of the stream."""
    detector = DriftDetector(profile)
    detector.update(clean.rows(slice(CLEAN)))
    alarms = detector.update(corrupted.rows(slice(CLEAN, None)))
    return alarms[0].samples_seen - CLEAN if alarms else None


def summary(splits: list[Split]) -> dict[str, float]:
    """Return the figures of all splits, by name."""
    figures: dict[str, float] = {
        "clean streams": len(splits),
        "of them with a false alarm": sum(split.false_alarms > 0 for split in splits),
        "promised: at most": round(len(splits) * 450 / 10_000, 2),
        "calibration, s of processor time": round(float(np.mean([split.built_s for split in splits])), 1),
        "detection, us per image": round(float(np.mean([split.per_image_us for split in splits])), 1),
    }
    for name in splits[0].delays:
        found = [delay for split in splits if (delay := split.delays[name]) is not None]
        figures[f"{name}: streams found"] = len(found)
        figures[f"{name}: median delay"] = float(np.median(found)) if found else float("inf")
    return figures


if __name__ == "__main__":
    main()
