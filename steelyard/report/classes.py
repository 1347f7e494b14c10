"""How a candidate fares class by class: what it takes for what, and how often."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steelyard.evaluation.answers import Answers, MaskCounts
from steelyard.evaluation.metrics import confusion


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRates:
    """How one class fares; None where there is nothing to divide by."""

    name: str
    count: int  # images or, in masks, pixels
    precision: float | None
    recall: float | None
    f1: float | None  # in masks it is called Dice
    iou: float | None
    false_positive_rate: float | None


def confused(answers: Answers) -> NDArray[np.int64]:
    """Return the confusion matrix (true class, predicted class) of images or, in masks, of pixels."""
    return answers.counts_NCC.sum(0) if isinstance(answers, MaskCounts) else confusion(answers)


def class_rates(counts_CC: NDArray[np.int64], classes: Sequence[str]) -> list[ClassRates]:
    """Return the rates of each class, weakest first."""
    total = int(counts_CC.sum())
    rates = []
    for c, name in enumerate(classes):
        hits, actual, predicted = (int(n) for n in (counts_CC[c, c], counts_CC[c].sum(), counts_CC[:, c].sum()))
        rates.append(
            ClassRates(
                name=name,
                count=actual,
                precision=_ratio(hits, predicted),
                recall=_ratio(hits, actual),
                f1=_ratio(2 * hits, actual + predicted),
                iou=_ratio(hits, actual + predicted - hits),
                false_positive_rate=_ratio(predicted - hits, total - actual),
            )
        )
    return sorted(rates, key=lambda rate: 2.0 if rate.f1 is None else rate.f1)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
