"""ModelBundle + Dataset -> Scorecard, from the ONNX file that will be served."""

import logging

from steelyard.bundle import FailureIndex, ModelBundle
from steelyard.data.dataset import Dataset
from steelyard.evaluation.answers import SPLITS, SplitOutputs
from steelyard.evaluation.bounds import measure_quality
from steelyard.evaluation.measurement import exactly
from steelyard.evaluation.metrics import quality_names
from steelyard.evaluation.mistakes import worst_mistakes
from steelyard.evaluation.scorecard import Scorecard, ScorecardIndex

log = logging.getLogger(__name__)

BATCH = 128


def evaluate(bundle: ModelBundle, dataset: Dataset, dataset_uri: str = "") -> Scorecard:
    """Let a bundle answer for validation and test, and measure the former; the latter waits for the choice.

    Args:
        bundle: the candidate.
        dataset: whose images it answers for.
        dataset_uri: where others find the dataset.
    """
    answers = {
        split: SplitOutputs(
            probabilities_NC=bundle.predict_each(dataset.batches(split, BATCH)).probabilities_NC,
            labels_N=dataset.labels_N(split),
        )
        for split in SPLITS
    }
    index, classes = bundle.index, bundle.index.classes
    names = quality_names("classification", classes)
    validation = measure_quality(answers["validation"], classes, names)
    log.info("%s: validation accuracy %.4f", index.candidate, validation["accuracy"].value)
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
        mistakes=worst_mistakes(answers["validation"], dataset, "validation"),
    )


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
        ),
    )
