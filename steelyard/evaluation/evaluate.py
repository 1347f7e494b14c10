"""ModelBundle + Dataset -> Scorecard, from the ONNX file that will be served."""

import logging

from steelyard.bundle import FailureIndex, ModelBundle
from steelyard.data.dataset import Dataset
from steelyard.evaluation.bounds import measure_quality
from steelyard.evaluation.metrics import confusion, roc_curves
from steelyard.evaluation.scorecard import Measurement, Scorecard, ScorecardIndex, Split, SplitOutputs
from steelyard.metrics import METRICS

log = logging.getLogger(__name__)

BATCH = 128
EVALUATED: tuple[Split, ...] = ("validation", "test")


def evaluate(bundle: ModelBundle, dataset: Dataset) -> Scorecard:
    """Let a bundle answer for the validation and test splits, and measure the answers."""
    outputs = {
        split: SplitOutputs(
            probabilities_NC=bundle.predict_each(dataset.batches(split, BATCH)).probabilities_NC,
            labels_N=dataset.labels_N(split),
        )
        for split in EVALUATED
    }
    index, classes = bundle.index, bundle.index.classes
    validation = measure_quality(outputs["validation"], classes)
    log.info("%s: validation accuracy %.4f", index.candidate, validation["accuracy"].value)
    return Scorecard(
        index=ScorecardIndex(
            candidate=index.candidate,
            task=index.task,
            classes=classes,
            run_key=index.run_key,
            dataset=dataset.ref,
            remembered=index.remembered,
            validation=validation,
            test=measure_quality(outputs["test"], classes),
            model={
                "parameters": _exactly("parameters", index.parameters),
                "model_size_mib": _exactly("model_size_mib", bundle.size_mib),
            },
            confusion={split: _rows(answers) for split, answers in outputs.items()},
            roc=roc_curves(outputs["validation"], classes),
            history=index.history,
            micro_batch=index.micro_batch,
            best_epoch=index.best_epoch,
        ),
        outputs=outputs,
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
        outputs={},
    )


def _exactly(name: str, value: float) -> Measurement:
    return Measurement(value=value, bound=value, unit=METRICS[name].unit)


def _rows(outputs: SplitOutputs) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in confusion(outputs).tolist())
