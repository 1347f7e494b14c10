"""Scorecards and contracts written for the purpose."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from steelyard.contract import Contract
from steelyard.data.dataset import DatasetRef
from steelyard.evaluation.answers import SplitOutputs
from steelyard.evaluation.bounds import measure_quality
from steelyard.evaluation.measurement import Measurement
from steelyard.evaluation.scorecard import Hardware, Scorecard, ScorecardIndex
from steelyard.evaluation.times import Times
from steelyard.metrics import metric

DATA = DatasetRef(content_digest="c", split_digest="s", evaluation_digest="e")
CPU = Hardware(hardware_class="cpu", rounds=30, images_per_round=20)


def card(name: str, *, failure: str | None = None, test: float = 0.9, **values: float) -> Scorecard:
    """Return a scorecard as somebody would write it by hand: no answers behind the figures."""
    measured = {key: Measurement(value=value, bound=value, unit=metric(key).unit) for key, value in values.items()}
    quality = {key: m for key, m in measured.items() if metric(key).quality}
    index = ScorecardIndex(
        candidate=name,
        task="classification",
        dataset=DATA,
        failure=failure,
        run_key=f"key of {name}",
        validation=quality,
        test={key: Measurement(value=test, bound=test, unit=metric(key).unit) for key in quality},
        model={key: m for key, m in measured.items() if key not in quality},
        hardware=CPU,
    )
    return Scorecard(index=index)


def changed(scorecard: Scorecard, **fields: object) -> Scorecard:
    """Return a scorecard with other fields in its index."""
    return Scorecard(index=scorecard.index.model_copy(update=fields), answers=scorecard.answers, times=scorecard.times)


def contract(epsilon: float = 0.01, margin: float = 0.0, **must: str) -> Contract:
    """Return a contract over accuracy (3) and the median latency (1)."""
    metrics: dict[str, dict[str, object]] = {
        "accuracy": {"weight": 3, "worst": 0.5, "ideal": 1.0},
        "latency_p50_ms": {"weight": 1, "worst": 100, "ideal": 1},
    }
    for name, limit in must.items():
        metrics[name]["must"] = limit
    return written(metrics, epsilon=epsilon, switching_margin=margin)


def written(metrics: Mapping[str, object], **more: object) -> Contract:
    """Return a contract with these metrics."""
    return Contract.model_validate({"client": "acme", "epsilon": 0.01, "metrics": metrics, **more})


def reweighted(wanted: Contract, weights: Mapping[str, float]) -> Contract:
    """Return a contract with other weights."""
    metrics = {name: {**p.model_dump(), "weight": weights[name]} for name, p in wanted.metrics.items()}
    return Contract.model_validate({**wanted.model_dump(), "metrics": metrics})


def outputs(labels_N: NDArray[np.int64], hit_rate: float, seed: int, classes: int = 2) -> SplitOutputs:
    """Return answers that are right at a rate."""
    random = np.random.default_rng(seed)
    wrong_N = (labels_N + random.integers(1, classes, len(labels_N))) % classes
    answered_N = np.where(random.random(len(labels_N)) < hit_rate, labels_N, wrong_N)
    sure_NC = 0.8 * np.eye(classes, dtype=np.float32)[answered_N] + 0.2 / classes
    return SplitOutputs(probabilities_NC=sure_NC.astype(np.float32), labels_N=labels_N)


def with_answers(
    name: str,
    hit_rate: float = 0.9,
    seed: int = 0,
    labels_N: NDArray[np.int64] | None = None,
    names: Sequence[str] = ("accuracy", "macro_recall"),
    latency_ms: float = 2.0,
) -> Scorecard:
    """Return a scorecard with answers and times behind its figures, as this house writes them."""
    labels_N = np.arange(400) % 2 if labels_N is None else labels_N
    validation = outputs(labels_N, hit_rate, seed)
    index = ScorecardIndex(
        candidate=name,
        task="classification",
        classes=("a", "b"),
        dataset=DATA,
        run_key=f"key of {name}",
        validation=measure_quality(validation, ("a", "b"), names),
        model={
            "latency_p50_ms": Measurement(value=latency_ms, bound=latency_ms, unit="ms"),
            "throughput_images_per_s": Measurement(value=1000 / latency_ms, bound=1000 / latency_ms, unit="images/s"),
            "model_size_mib": Measurement(value=1.0, bound=1.0, unit="MiB"),
        },
        hardware=CPU,
    )
    return Scorecard(
        index=index,
        answers={"validation": validation, "test": outputs(labels_N, hit_rate, seed + 1000)},
        times=Times(np.full((30, 20), latency_ms), np.full(30, 1000 / latency_ms)),
    )
