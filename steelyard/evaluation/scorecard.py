"""Scorecard: what was measured of one candidate, or why nothing could be."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from steelyard.artifact import CandidateName, Index, Record, new_folder
from steelyard.bundle import Epoch
from steelyard.data.dataset import DatasetRef
from steelyard.errors import ArtifactError
from steelyard.metrics import Metric, is_known, metric

Split = Literal["validation", "test"]


class Measurement(Record):
    """One metric of one candidate on one split."""

    value: float
    bound: float  # one-sided 95 %, on the unfavourable side
    unit: str


class Hardware(Record):
    """What the times were measured on; times of different classes are never compared."""

    hardware_class: str
    rounds: int
    images_per_round: int


class RocCurve(Record):
    """One-vs-rest ROC of one class, thinned to at most 101 points."""

    false_positive_rate: tuple[float, ...]
    true_positive_rate: tuple[float, ...]
    threshold: tuple[float, ...]


class ScorecardIndex(Index):
    """scorecard.json."""

    candidate: CandidateName
    task: str
    classes: tuple[str, ...] = ()
    run_key: str = ""
    dataset: DatasetRef
    failure: str | None = None
    remembered: bool = False
    validation: dict[str, Measurement] = Field(default_factory=dict)
    test: dict[str, Measurement] = Field(default_factory=dict)
    model: dict[str, Measurement] = Field(default_factory=dict)
    hardware: Hardware | None = None
    confusion: dict[Split, tuple[tuple[int, ...], ...]] = Field(default_factory=dict)
    roc: dict[str, RocCurve] = Field(default_factory=dict)
    history: tuple[Epoch, ...] = ()
    micro_batch: int = 0
    best_epoch: int | None = None

    @model_validator(mode="after")
    def _measurements_make_sense(self) -> Self:
        for group in ("validation", "test", "model"):
            for name, measured in getattr(self, group).items():
                if is_known(name):
                    _check(f"{group}.{name}", measured, metric(name))
        return self

    @model_validator(mode="after")
    def _confusion_fits_the_classes(self) -> Self:
        for split, rows in self.confusion.items():
            if {len(rows), *map(len, rows)} != {len(self.classes)}:
                raise ValueError(f"confusion.{split} must have one row and one column per class")
        return self


def _check(where: str, measured: Measurement, read: Metric) -> None:
    if measured.unit != read.unit:
        raise ValueError(f"{where}: the unit must be {read.unit!r}, not {measured.unit!r}")
    lowest, highest = sorted((measured.value, measured.bound))
    if lowest < 0 or (read.unit == "fraction" and highest > 1):
        raise ValueError(f"{where}: {lowest:g} to {highest:g} is out of range")
    if measured.bound != (lowest if read.higher_is_better else highest):
        raise ValueError(f"{where}: the bound lies on the favourable side of the value")


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitOutputs:
    """What a candidate answered for one split: N images, C classes."""

    probabilities_NC: NDArray[np.float32]
    labels_N: NDArray[np.int64]


class Times(NamedTuple):
    """What was timed in R interleaved rounds."""

    latency_ms_RS: NDArray[np.float64]  # S single images a round
    throughput_R: NDArray[np.float64]  # images per second of one batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorecard:
    """The index and, where they were kept, the answers behind it."""

    index: ScorecardIndex
    outputs: Mapping[Split, SplitOutputs]
    times: Times | None = None

    @property
    def candidate(self) -> str:
        """The candidate's name."""
        return self.index.candidate

    def write(self, folder: Path) -> None:
        """Write `scorecard.json` and `outputs.npz`."""
        arrays: dict[str, NDArray[np.generic]] = {}
        for split, outputs in self.outputs.items():
            arrays[f"{split}_probabilities"] = outputs.probabilities_NC
            arrays[f"{split}_labels"] = outputs.labels_N
        if self.times:
            arrays |= {"latency_ms": self.times.latency_ms_RS, "throughput": self.times.throughput_R}
        with new_folder(folder) as partial:
            if arrays:
                np.savez_compressed(partial / "outputs.npz", **arrays)  # type: ignore[arg-type]
            self.index.write(partial / "scorecard.json")

    @classmethod
    def read(cls, folder: Path) -> "Scorecard":
        """Read a scorecard; `outputs.npz` may be missing.

        Raises:
            ArtifactError: the folder holds no scorecard known here, or its arrays do not fit its index.
        """
        index = ScorecardIndex.read(folder / "scorecard.json")
        file = folder / "outputs.npz"
        if not file.exists():
            return cls(index=index, outputs={})
        try:
            with np.load(file, allow_pickle=False) as arrays:
                outputs = {split: _split_outputs(arrays, split) for split in _splits(arrays)}
                times = _times(arrays) if "latency_ms" in arrays else None
        except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
            raise ArtifactError(f"{file}: {error}") from None
        for split, answers in outputs.items():
            if answers.probabilities_NC.shape != (len(answers.labels_N), len(index.classes)):
                raise ArtifactError(
                    f"{file}: {split}_probabilities has shape {answers.probabilities_NC.shape}, "
                    f"not ({len(answers.labels_N)} labels, {len(index.classes)} classes)"
                )
            if not answers.labels_N.size or not 0 <= answers.labels_N.min() <= answers.labels_N.max() < len(
                index.classes
            ):
                raise ArtifactError(f"{file}: {split}_labels must be indices of classes, and at least one")
        return cls(index=index, outputs=outputs, times=times)


def _splits(arrays: Mapping[str, NDArray[np.generic]]) -> list[Split]:
    splits: tuple[Split, ...] = ("validation", "test")
    return [split for split in splits if f"{split}_labels" in arrays]


def _times(arrays: Mapping[str, NDArray[np.generic]]) -> Times:
    return Times(np.asarray(arrays["latency_ms"], np.float64), np.asarray(arrays["throughput"], np.float64))


def _split_outputs(arrays: Mapping[str, NDArray[np.generic]], split: Split) -> SplitOutputs:
    return SplitOutputs(
        probabilities_NC=np.asarray(arrays[f"{split}_probabilities"], np.float32),
        labels_N=np.asarray(arrays[f"{split}_labels"], np.int64),
    )
