"""The metrics that a contract may name: what they are called, in what unit, and which way is better."""

import re
from dataclasses import dataclass
from typing import Literal

Scale = Literal["linear", "log"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """How a metric is read."""

    unit: str
    higher_is_better: bool
    scale: Scale = "linear"  # of its utility: ratios count for times and sizes, differences for fractions
    quality: bool = True  # measured on a split's images, rather than of the model itself


FRACTION = Metric(unit="fraction", higher_is_better=True)

METRICS: dict[str, Metric] = {
    "accuracy": FRACTION,
    "macro_precision": FRACTION,
    "macro_recall": FRACTION,
    "macro_f1": FRACTION,
    "macro_false_positive_rate": Metric(unit="fraction", higher_is_better=False),
    "roc_auc": FRACTION,
    "log_loss": Metric(unit="nats", higher_is_better=False),
    "latency_p50_ms": Metric(unit="ms", higher_is_better=False, scale="log", quality=False),
    "latency_p95_ms": Metric(unit="ms", higher_is_better=False, scale="log", quality=False),
    "throughput_images_per_s": Metric(unit="images/s", higher_is_better=True, scale="log", quality=False),
    "parameters": Metric(unit="count", higher_is_better=False, scale="log", quality=False),
    "model_size_mib": Metric(unit="MiB", higher_is_better=False, scale="log", quality=False),
}

PER_CLASS: dict[str, Metric] = {
    "precision": FRACTION,
    "recall": FRACTION,
    "f1": FRACTION,
    "false_positive_rate": Metric(unit="fraction", higher_is_better=False),
}

_PER_CLASS_NAME = re.compile(r"(\w+)\[(.+)\]")


def metric(name: str) -> Metric:
    """Return how `name` is read; per-class metrics are written `recall[CLASS]`.

    Raises:
        KeyError: there is no such metric.
    """
    if match := _PER_CLASS_NAME.fullmatch(name):
        return PER_CLASS[match[1]]
    return METRICS[name]


def is_known(name: str) -> bool:
    """Whether there is such a metric."""
    match = _PER_CLASS_NAME.fullmatch(name)
    return match[1] in PER_CLASS if match else name in METRICS


def class_of(name: str) -> str | None:
    """Return the class that a per-class metric is about, or None."""
    match = _PER_CLASS_NAME.fullmatch(name)
    return match[2] if match else None


def known_names() -> list[str]:
    """Return every name that a contract may use, per-class ones with CLASS as a placeholder."""
    return [*METRICS, *(f"{name}[CLASS]" for name in PER_CLASS)]
