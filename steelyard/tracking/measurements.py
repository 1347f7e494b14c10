"""Measurements as MLflow's metrics."""

import hashlib
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from steelyard.evaluation.measurement import Measurement
from steelyard.metrics import class_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

LONGEST_NAME = 250  # mlflow.utils.validation.MAX_ENTITY_KEY_LENGTH


def log_measurements(client: "MlflowClient", run_id: str, group: str, measured: Mapping[str, Measurement]) -> None:
    """Log the values of `measured` as GROUP/METRIC."""
    log_values(client, run_id, group, {name: m.value for name, m in measured.items()})


def log_values(client: "MlflowClient", run_id: str, group: str, values: Mapping[str, float]) -> None:
    """Log values as GROUP/NAME."""
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    points = [Metric(_mlflow_name(group, name), value, now_ms, 0) for name, value in values.items()]
    client.log_batch(run_id, metrics=points)


def _mlflow_name(group: str, metric: str) -> str:
    """Name a metric within MLflow's rules, no two alike: validation recall[cat] becomes validation/recall/cat."""
    about = class_of(metric)
    parts = [metric] if about is None else [metric.partition("[")[0], about]
    name = "/".join([group, *map(_encoded, parts)])
    if len(name) <= LONGEST_NAME:
        return name
    end = f"::{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return name[: LONGEST_NAME - len(end)] + end


def _encoded(part: str) -> str:
    """Write the UTF-8 bytes of what MLflow refuses, and of what would make a path of the name, like :2f."""
    return re.sub(r"[^\w. -]|^\.+$", lambda refused: ":" + refused[0].encode().hex(":"), part)
