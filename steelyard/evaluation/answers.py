"""What a candidate answered for the images of one split, beside the truth."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from steelyard.artifact import read_arrays
from steelyard.errors import ArtifactError

Split = Literal["validation", "test"]
SPLITS: tuple[Split, ...] = ("validation", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitOutputs:
    """Of a classification: N images, C classes."""

    probabilities_NC: NDArray[np.float32]
    labels_N: NDArray[np.int64]

    @property
    def truth(self) -> NDArray[np.int64]:
        """What is equal for all candidates that answered for the same images."""
        return self.labels_N


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskCounts:
    """Of a segmentation: the pixels of each of N images by true class (rows) and predicted class (columns)."""

    counts_NCC: NDArray[np.int64]

    @property
    def labels_N(self) -> NDArray[np.int64]:
        """One stratum: an image has pixels of several classes."""
        return np.zeros(len(self.counts_NCC), np.int64)

    @property
    def truth(self) -> NDArray[np.int64]:
        """What is equal for all candidates that answered for the same images: each one's pixels by true class."""
        return np.asarray(self.counts_NCC.sum(2))


Answers = SplitOutputs | MaskCounts


def write_answers(answers: Answers, file: Path) -> None:
    """Write `probabilities` and `labels`, or `counts`; not compressed, as probabilities hardly shrink."""
    if isinstance(answers, MaskCounts):
        np.savez_compressed(file, counts=answers.counts_NCC)
    else:
        np.savez(file, probabilities=answers.probabilities_NC, labels=answers.labels_N)


def read_answers(file: Path, task: str, classes: int) -> Answers | None:
    """Read what `write_answers` wrote; None where there is no such file.

    Args:
        file: the .npz file.
        task: what was answered.
        classes: how many there are.

    Raises:
        ArtifactError: the file is damaged, or holds no answers of such a task over so many classes.
    """
    if not file.exists():
        return None
    arrays = read_arrays(file)
    try:
        if task == "segmentation":
            return _mask_counts(_whole(arrays["counts"]), classes)
        return _split_outputs(np.asarray(arrays["probabilities"], np.float32), _whole(arrays["labels"]), classes)
    except KeyError as error:
        raise ArtifactError(f"{file}: holds no {error.args[0]}, which answers of {task} have") from None
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{file}: {error}") from None


def _whole(numbers: NDArray[Any]) -> NDArray[np.int64]:
    if numbers.dtype.kind not in "iu":
        raise ValueError(f"labels and counts must be whole numbers, not {numbers.dtype}")
    return np.asarray(numbers, np.int64)


def _split_outputs(probabilities_NC: NDArray[np.float32], labels_N: NDArray[np.int64], classes: int) -> SplitOutputs:
    if probabilities_NC.shape != (labels_N.size, classes):
        raise ValueError(
            f"probabilities have shape {probabilities_NC.shape}, not ({labels_N.size} labels, {classes} classes)"
        )
    if not labels_N.size or not 0 <= labels_N.min() <= labels_N.max() < classes:
        raise ValueError("labels must be indices of classes, and at least one")
    if not (probabilities_NC.min() >= 0 and probabilities_NC.max() <= 1):  # NaN is neither
        raise ValueError("probabilities must be numbers from 0 to 1")
    return SplitOutputs(probabilities_NC=probabilities_NC, labels_N=labels_N)


def _mask_counts(counts_NCC: NDArray[np.int64], classes: int) -> MaskCounts:
    if counts_NCC.ndim != 3 or counts_NCC.shape[1:] != (classes, classes):
        raise ValueError(f"counts have shape {counts_NCC.shape}, not (images, {classes} classes, {classes} classes)")
    if not counts_NCC.sum() or counts_NCC.min() < 0:
        raise ValueError("counts must be at least 0, and some above")
    return MaskCounts(counts_NCC=counts_NCC)
