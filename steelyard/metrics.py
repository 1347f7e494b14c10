"""The metrics that a contract may name: what they are called, in what unit, and which way is better."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

Scale = Literal["linear", "log"]
Task = Literal["classification", "segmentation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """How a metric is read."""

    unit: str
    higher_is_better: bool
    scale: Scale = "linear"  # of its utility: ratios count for times and sizes, differences for fractions
    task: Task | None = None  # whose images it is measured on; None for what is measured of the model itself
    timed: bool = False  # depends on the hardware

    @property
    def quality(self) -> bool:
        """Whether it is measured on a split's images, rather than of the model itself."""
        return self.task is not None


_HIT_RATE = Metric(unit="fraction", higher_is_better=True, task="classification")
_MISS_RATE = Metric(unit="fraction", higher_is_better=False, task="classification")
_OVERLAP = Metric(unit="fraction", higher_is_better=True, task="segmentation")
_TIME = Metric(unit="ms", higher_is_better=False, scale="log", timed=True)

METRICS: dict[str, Metric] = {
    "accuracy": _HIT_RATE,
    "macro_precision": _HIT_RATE,
    "macro_recall": _HIT_RATE,
    "worst_class_recall": _HIT_RATE,
    "macro_f1": _HIT_RATE,
    "macro_false_positive_rate": _MISS_RATE,
    "roc_auc": _HIT_RATE,
    "log_loss": Metric(unit="nats", higher_is_better=False, task="classification"),
    "expected_calibration_error": _MISS_RATE,
    "pixel_accuracy": _OVERLAP,
    "mean_iou": _OVERLAP,
    "mean_dice": _OVERLAP,
    "latency_p50_ms": _TIME,
    "latency_p95_ms": _TIME,
    "latency_p99_ms": _TIME,
    "throughput_images_per_s": Metric(unit="images/s", higher_is_better=True, scale="log", timed=True),
    "images_per_dollar": Metric(unit="images/$", higher_is_better=True, scale="log", timed=True),
    "parameters": Metric(unit="count", higher_is_better=False, scale="log"),
    "model_size_mib": Metric(unit="MiB", higher_is_better=False, scale="log"),
    "peak_memory_mib": Metric(unit="MiB", higher_is_better=False, scale="log", timed=True),
    "training_minutes": Metric(unit="minutes", higher_is_better=False, scale="log"),
}

CHIEF = {"classification": "accuracy", "segmentation": "mean_iou"}  # told whether or not a contract names it

PER_CLASS: dict[str, Metric] = {
    "precision": _HIT_RATE,
    "recall": _HIT_RATE,
    "f1": _HIT_RATE,
    "false_positive_rate": _MISS_RATE,
    "iou": _OVERLAP,
    "dice": _OVERLAP,
}

_PER_CLASS_NAME = re.compile(r"(\w+)\[(.+)\]")
_TOP_K_NAME = re.compile(r"top_([2-9]|[1-9]\d{1,3})_accuracy")


@cache
def metric(name: str) -> Metric:
    """Return how `name` is read; per-class metrics are written `recall[CLASS]`, and `top_5_accuracy` takes any number.

    Raises:
        KeyError: there is no such metric.
    """
    if match := _PER_CLASS_NAME.fullmatch(name):
        return PER_CLASS[match[1]]
    return _HIT_RATE if _TOP_K_NAME.fullmatch(name) else METRICS[name]


@cache
def is_known(name: str) -> bool:
    """Whether there is such a metric."""
    match = _PER_CLASS_NAME.fullmatch(name)
    return match[1] in PER_CLASS if match else name in METRICS or bool(_TOP_K_NAME.fullmatch(name))


def class_of(name: str) -> str | None:
    """Return the class that a per-class metric is about, or None."""
    match = _PER_CLASS_NAME.fullmatch(name)
    return match[2] if match else None


def rank_of(name: str) -> int | None:
    """Return the K of `top_K_accuracy`, or None."""
    match = _TOP_K_NAME.fullmatch(name)
    return int(match[1]) if match else None


def known_names() -> list[str]:
    """Return every name that a contract may use, per-class ones with CLASS and top-K accuracy with K in their place."""
    return [*METRICS, "top_K_accuracy", *(f"{name}[CLASS]" for name in PER_CLASS)]
