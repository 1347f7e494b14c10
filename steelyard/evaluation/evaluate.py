"""ModelBundle + Dataset -> Scorecard, from the ONNX file that will be served."""

import logging

import numpy as np
from numpy.typing import NDArray

from steelyard.bundle import FailureIndex, ModelBundle
from steelyard.data.dataset import Dataset
from steelyard.data.sources.segmentation import IGNORED
from steelyard.evaluation.answers import SPLITS, Answers, MaskCounts, Split, SplitOutputs
from steelyard.evaluation.bounds import measure_quality
from steelyard.evaluation.measurement import exactly
from steelyard.evaluation.metrics import quality_names
from steelyard.evaluation.mistakes import worst_mistakes
from steelyard.evaluation.scorecard import Scorecard, ScorecardIndex
from steelyard.metrics import CHIEF

log = logging.getLogger(__name__)


def evaluate(bundle: ModelBundle, dataset: Dataset, dataset_uri: str = "") -> Scorecard:
    """Let a bundle answer for validation and test, and measure the former; the latter waits for the choice.

    Args:
        bundle: the candidate.
        dataset: whose images it answers for.
        dataset_uri: where others find the dataset.
    """
    index, classes = bundle.index, bundle.index.classes
    answers = {split: _answers(bundle, dataset, split) for split in SPLITS}
    validation = measure_quality(answers["validation"], classes, quality_names(index.task, classes))
    chief = CHIEF[index.task]
    log.info("%s: validation %s %.4f, of the exported model", index.candidate, chief, validation[chief].value)
    judged = answers["validation"]
    return Scorecard(
        index=ScorecardIndex(
            candidate=index.candidate,
            task=index.task,
            classes=classes,
            run_key=index.run_key,
            dataset=dataset.ref,
            dataset_uri=dataset_uri,
            remembered=index.remembered,
            validation=validation,
            model={
                "parameters": exactly("parameters", index.parameters),
                "model_size_mib": exactly("model_size_mib", bundle.size_mib),
                "training_minutes": exactly("training_minutes", index.training_seconds / 60),
            },
            history=index.history,
            micro_batch=index.micro_batch,
            best_epoch=index.best_epoch,
        ),
        answers=answers,
        mistakes=worst_mistakes(judged, dataset, "validation") if isinstance(judged, SplitOutputs) else None,
    )


def _answers(bundle: ModelBundle, dataset: Dataset, split: Split) -> Answers:
    batches = dataset.batches(split, bundle.batch)
    if bundle.index.task == "classification":
        return SplitOutputs(
            probabilities_NC=bundle.predict_each(batches).probabilities_NC, labels_N=dataset.labels_N(split)
        )
    counts = [
        count_pixels(truth_HW, said_HW, len(bundle.index.classes))
        for images_NHWC, masks_NHW in batches
        for truth_HW, said_HW in zip(masks_NHW, bundle.segment(images_NHWC).masks_NHW, strict=True)
    ]
    return MaskCounts(counts_NCC=np.stack(counts))


def count_pixels(truth_HW: NDArray[np.uint8], said_HW: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Return (C, C): a mask's pixels by true and predicted class, without those that are ignored."""
    counts_HW = truth_HW != IGNORED
    flat_P = truth_HW[counts_HW].astype(np.int64) * classes + said_HW[counts_HW]
    return np.bincount(flat_P, minlength=classes**2).reshape(classes, classes)


def failed_scorecard(failure: FailureIndex, dataset: Dataset) -> Scorecard:
    """Return the Scorecard of a candidate that has nothing to measure: it says why."""
    return Scorecard(
        index=ScorecardIndex(
            candidate=failure.candidate,
            task=dataset.index.task,
            classes=dataset.index.classes,
            run_key=failure.run_key,
            dataset=dataset.ref,
            failure=f"{failure.stage}: {failure.reason}",
            stopped=failure.stopped,
        ),
    )
