"""ReferenceProfile: what the drift detector judges by. It lies in the ModelBundle's folder, beside the model."""

import hashlib
import io
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from steelyard.artifact import Index, Record
from steelyard.drift.nulls import Null
from steelyard.drift.samples import Samples
from steelyard.drift.windows import TESTS, Tally
from steelyard.errors import ArtifactError

INDEX_FILE = "reference.json"
ARRAYS_FILE = "reference.npz"

Level = Literal["WARN", "DRIFT"]


class Detector(Record):
    """One detector and the value that its statistic must not exceed."""

    name: str
    window: int | None = None  # None: a chart, judged after every sample
    threshold: float
    level: Level


class FalseAlarms(Record):
    """False alarms per image without drift, as simulated with the final thresholds, and how."""

    per_image: float
    images: int
    method: str


class ReferenceIndex(Index):
    """reference.json."""

    classes: tuple[str, ...]
    features: tuple[str, ...]
    embedding_size: int
    train_rows: int
    held_out_rows: int
    arl0: int  # the promise: all detectors together raise at most one false alarm in as many exchangeable images
    false_alarms: FalseAlarms
    windows: tuple[int, ...]
    clear_after: int  # images without a crossing that end an episode
    detectors: tuple[Detector, ...]
    held_out_accuracy: float
    confidence_threshold: float  # ATC: the share of answers of at least this confidence estimates the accuracy
    seed: int
    model_sha256: str
    arrays_sha256: str


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceArrays:
    """reference.npz: D embedding, F features, C classes, G edges, W windows, T tests, R held-out rows."""

    projection_DP: NDArray[np.float32]
    class_means_CF: NDArray[np.float64]
    low_F: NDArray[np.float64]
    high_F: NDArray[np.float64]
    center_F: NDArray[np.float64]
    scale_F: NDArray[np.float64]
    edges_CG: NDArray[np.float64]
    nulls_WTQ: NDArray[np.float64]  # quantiles, then the tail
    sums_F: NDArray[np.float64]
    squares_F: NDArray[np.float64]
    below_CG: NDArray[np.int64]
    predicted_C: NDArray[np.int64]
    held_out_RF: NDArray[np.float32]  # standardised features, for people's reports
    held_out_predicted_R: NDArray[np.int64]

    def to_bytes(self) -> bytes:
        """Return the npz file."""
        stream = io.BytesIO()
        np.savez_compressed(stream, **{field.name: getattr(self, field.name) for field in fields(self)})
        return stream.getvalue()


@dataclass(frozen=True, eq=False)
class ReferenceProfile:
    """The index and its arrays."""

    index: ReferenceIndex
    arrays: ReferenceArrays

    @cached_property
    def digest(self) -> str:
        """What tells this profile from any other."""
        return hashlib.sha256(self.index.model_dump_json().encode()).hexdigest()

    @cached_property
    def tally(self) -> Tally:
        """The held-out rows, as the window tests see them."""
        arrays = self.arrays
        return Tally(self.index.held_out_rows, arrays.sums_F, arrays.squares_F, arrays.below_CG, arrays.predicted_C)

    @property
    def grid(self) -> int:
        """Edges per class."""
        return int(self.arrays.edges_CG.shape[1])

    def null(self, window: int, test: str) -> Null:
        """How a window test's statistic is distributed without drift."""
        null_Q = self.arrays.nulls_WTQ[self.index.windows.index(window), TESTS.index(test)]
        return Null(null_Q[:-1], float(null_Q[-1]))

    def write(self, folder: Path) -> None:
        """Write `reference.npz` and `reference.json` into an existing folder."""
        (folder / ARRAYS_FILE).write_bytes(self.arrays.to_bytes())
        self.index.write(folder / INDEX_FILE)

    @classmethod
    def read(cls, folder: Path) -> "ReferenceProfile":
        """Read a profile.

        Raises:
            ArtifactError: the folder holds no profile known here, or its arrays are not those of its index.
        """
        index = ReferenceIndex.read(folder / INDEX_FILE)
        file = folder / ARRAYS_FILE
        if not file.exists():
            raise ArtifactError(f"{folder}: holds no readable {ARRAYS_FILE}")
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != index.arrays_sha256:
            raise ArtifactError(f"{file}: differs from the checksum in {INDEX_FILE}")
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                named = {field.name: arrays[field.name] for field in fields(ReferenceArrays)}
                return cls(index, ReferenceArrays(**named))
        except (ValueError, KeyError, OSError) as error:
            raise ArtifactError(f"{file}: {error}") from None

    def features(self, samples: Samples) -> NDArray[np.float64]:
        """Return (N, F) standardised features: what is left once the predicted class is allowed for."""
        arrays = self.arrays
        raw_NF = raw_features(samples, arrays.projection_DP)
        raw_NF -= arrays.class_means_CF[samples.probabilities_NC.argmax(axis=1)]
        # fmin and fmax pass over NaN: an answer that is no number counts as one far out.
        np.fmax(np.fmin(raw_NF, arrays.high_F, out=raw_NF), arrays.low_F, out=raw_NF)
        raw_NF -= arrays.center_F
        raw_NF /= arrays.scale_F
        return raw_NF


def raw_features(samples: Samples, projection_DP: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (N, F): the projected embedding, the log of the doubt in the predicted class, the image statistics."""
    doubt_N1 = 1 - samples.probabilities_NC.max(axis=1, keepdims=True)
    return np.concatenate(
        [samples.embedding_ND @ projection_DP, np.log(np.maximum(doubt_N1, 0) + 1e-6), samples.statistics_NS],
        axis=1,
        dtype=np.float64,
    )
