"""How fast each candidate answers: all of them in interleaved rounds, on one machine, one after the other."""

import contextlib
import logging
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.bundle import ModelBundle
from steelyard.evaluation.measurement import exactly
from steelyard.evaluation.scorecard import Hardware, Scorecard
from steelyard.evaluation.times import TIMED, Times, TooFewSamples, measure_time
from steelyard.progress import Progress

log = logging.getLogger(__name__)

ROUNDS = 65
IMAGES_PER_ROUND = 20
THROUGHPUT_BATCH = 32
WARM_UP = 10


def measure_times(bundles: Mapping[str, ModelBundle], seed: int = 0, rounds: int = ROUNDS) -> dict[str, Times]:
    """Time single images and batches of all candidates.

    In each round every candidate answers 20 single images and one batch of 32, or of fewer that are segmented and
    large, in an order that rotates, so that whatever slows the machine down for a while slows all of them. There are as
    many rounds as the 99 % quantile takes on a machine whose pace hardly changes. The number is fixed beforehand: in
    simulations that went on from round 30 until the quantile had a bound, the bound was wrong in 10 to 18 % where the
    pace changed from round to round; over 65 rounds it is in at most 5 % (tests/steelyard/evaluation/test_times.py).
    The images are noise: what they show makes a network neither faster nor slower.

    Args:
        bundles: by candidate.
        seed: of the images.
        rounds: fewer make an estimate.
    """
    images = {name: _noise(bundle, seed) for name, bundle in bundles.items()}
    for name, bundle in bundles.items():
        for _ in range(WARM_UP):
            bundle.predict(images[name][:1])
        bundle.predict(images[name][: bundle.batch])
    found: dict[str, list[_Round]] = {name: [] for name in bundles}
    progress = Progress("timing", rounds, "rounds")
    for number in range(rounds):
        for name in _rotated(list(bundles), number):
            found[name].append(_round(bundles[name], images[name]))
        progress.advance()
    progress.close()
    times = {name: _together(timed) for name, timed in found.items()}
    for name, (latency_ms_RS, throughput_R) in times.items():
        p95_ms, images_per_s = np.quantile(latency_ms_RS, 0.95), np.median(throughput_R)
        batch = min(THROUGHPUT_BATCH, bundles[name].batch)
        log.info("%s: p95 %.2f ms at batch 1, %.0f images/s at batch %d", name, p95_ms, images_per_s, batch)
    return times


def with_times(scorecard: Scorecard, times: Times, peak_memory_mib: float | None) -> Scorecard:
    """Return a scorecard that also tells what depends on this machine.

    What is not known is left out: a quantile without a bound, and the memory if it is None.
    """
    rounds, images = times.latency_ms_RS.shape
    measured = {}
    if peak_memory_mib is not None:
        measured["peak_memory_mib"] = exactly("peak_memory_mib", peak_memory_mib)
    for name in TIMED:
        with contextlib.suppress(TooFewSamples):
            measured[name] = measure_time(name, times)
    index = scorecard.index.model_copy(
        update={
            "model": {**scorecard.index.model, **measured},
            "hardware": Hardware(hardware_class=hardware_class(), rounds=rounds, images_per_round=images),
        }
    )
    return replace(scorecard, index=index, times=times)


def hardware_class() -> str:
    """Name the processor and the threads used: times are compared within one such class only."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return f"{name}, 1 of {os.cpu_count()} threads"


class _Round(NamedTuple):
    latency_ms_S: list[float]
    images_per_s: float


def _noise(bundle: ModelBundle, seed: int) -> NDArray[np.uint8]:
    shape = (THROUGHPUT_BATCH, *bundle.index.input_shape)
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def _round(bundle: ModelBundle, batch_NHWC: NDArray[np.uint8]) -> _Round:
    single = [batch_NHWC[number][None] for number in range(IMAGES_PER_ROUND)]
    latency_ms_S = [1000 * _seconds(bundle, image_NHWC) for image_NHWC in single]
    batch_NHWC = batch_NHWC[: bundle.batch]
    return _Round(latency_ms_S, len(batch_NHWC) / _seconds(bundle, batch_NHWC))


def _together(rounds: list[_Round]) -> Times:
    latency_ms_RS, throughput_R = zip(*rounds, strict=True)
    return Times(np.array(latency_ms_RS), np.array(throughput_R))


def _seconds(bundle: ModelBundle, images_NHWC: NDArray[np.uint8]) -> float:
    started = time.perf_counter()
    bundle.predict(images_NHWC)
    return time.perf_counter() - started


def _rotated(names: list[str], by: int) -> list[str]:
    by %= max(len(names), 1)
    return names[by:] + names[:by]
