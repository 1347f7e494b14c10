"""The winner's worst mistakes on the validation split, with their images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steelyard.data.dataset import Dataset
from steelyard.data.pictures import TINY, picture, tinted
from steelyard.errors import InputError
from steelyard.evaluation.answers import Answers, MaskCounts, SplitOutputs
from steelyard.evaluation.scorecard import Scorecard
from steelyard.page import NARROW_SPACE

MOST = 24
SIDE, MASK_SIDE = 96, 160  # pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One image, what it shows and what was said of it."""

    picture: str  # a data URI
    true: str
    said: str
    sure: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistakes:
    """The worst of them, worst first."""

    shown: list[Mistake]
    wrong: int  # images with a mistake
    images: int
    masks: bool
    tiny: bool  # pictures that are scaled up


def worst_mistakes(winner: Scorecard, dataset: Dataset) -> Mistakes | None:
    """Look the worst mistakes up; None where the answers were not kept.

    Of a classification these are the images that were most surely taken for another class, of a segmentation those
    with the largest share of wrong pixels.

    Raises:
        InputError: the dataset is not the one that was answered for.
    """
    if dataset.ref.evaluated_on != winner.index.dataset.evaluated_on:
        raise InputError(f"{dataset.folder}: {winner.candidate!r} was measured on other data")
    answers = winner.answered("validation")
    if answers is None:
        return None
    badness_N = _badness(answers)
    wrong = int(np.count_nonzero(badness_N))
    worst_M = np.argsort(-badness_N, kind="stable")[: min(MOST, wrong)]
    shown = zip(worst_M, *dataset.chosen("validation", worst_M), strict=True) if wrong else ()
    return Mistakes(
        shown=[_mistake(answers, int(n), image_HWC, truth, winner.index.classes) for n, image_HWC, truth in shown],
        wrong=wrong,
        images=len(badness_N),
        masks=isinstance(answers, MaskCounts),
        tiny=max(dataset.index.image_shape) <= TINY,
    )


def _badness(answers: Answers) -> NDArray[np.floating]:
    """Return (N,): 0 where an image was recognised; else the confidence, or the share of pixels that are wrong."""
    if isinstance(answers, MaskCounts):
        pixels_N, hits_N = answers.counts_NCC.sum((1, 2)), np.einsum("ncc->n", answers.counts_NCC)
        return np.asarray((pixels_N - hits_N) / np.maximum(pixels_N, 1))
    wrong_N = answers.probabilities_NC.argmax(1) != answers.labels_N
    return np.asarray(answers.probabilities_NC.max(1) * wrong_N)


def _mistake(
    answers: Answers, n: int, image_HWC: NDArray[np.uint8], truth: NDArray[np.uint8], classes: Sequence[str]
) -> Mistake:
    if isinstance(answers, SplitOutputs):
        probability_C, true = answers.probabilities_NC[n], classes[answers.labels_N[n]]
        said = int(probability_C.argmax())
        sure = f"{probability_C[said]:.0%} against {probability_C[answers.labels_N[n]]:.0%}".replace(
            "%", f"{NARROW_SPACE}%"
        )
        return Mistake(picture=picture(image_HWC, SIDE), true=true, said=classes[said], sure=sure)
    counts_CC = answers.counts_NCC[n]
    wrong_CC = counts_CC * ~np.eye(len(classes), dtype=bool)
    row, column = np.unravel_index(wrong_CC.argmax(), wrong_CC.shape)
    sure = f"{wrong_CC.sum() / counts_CC.sum():.0%} of its pixels wrong".replace("%", f"{NARROW_SPACE}%")
    return Mistake(
        picture=picture(tinted(image_HWC, truth), MASK_SIDE), true=classes[row], said=classes[column], sure=sure
    )
