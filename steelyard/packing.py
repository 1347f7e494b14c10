"""Winner -> what is served: its bundle with the drift reference, a smoke test and a model card beside the model."""

from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from steelyard.artifact import new_folder
from steelyard.bundle import ModelBundle, checksums, sha256
from steelyard.data.dataset import Dataset
from steelyard.data.dataset import Split as DataSplit
from steelyard.drift.calibration import build_profile
from steelyard.drift.samples import Samples, image_statistics
from steelyard.evaluation.scorecard import Scorecard
from steelyard.report.model_card import model_card
from steelyard.selection.selection import Selection
from steelyard.smoke_test import IMAGES as SMOKE_IMAGES
from steelyard.smoke_test import SmokeTest

MOST_IMAGES = 20_000  # of a split that the drift reference is learnt from; the order of a split has no meaning


def pack(
    winner: ModelBundle,
    dataset: Dataset,
    selection: Selection,
    folder: Path,
    scorecard: Scorecard | None = None,
    seed: int = 0,
) -> ModelBundle:
    """Write the bundle that is registered and served.

    The drift reference learns its projection from the train split and sets every threshold on the validation split,
    which the model has not learnt from, through the very ONNX file that will answer. A segmented image counts for the
    class that most of it is, and the mean over its pixels for the model's answer.

    Args:
        winner: the bundle that was chosen.
        dataset: whose validation and test splits it was measured on; a remembered model may have learnt from another
            train split.
        selection: that chose it.
        folder: where the packed bundle goes.
        scorecard: the winner's, for the model card's results by class.
        seed: of the drift reference's draws.
    """
    train, train_labels_N = _samples(winner, dataset, "train")
    held_out, held_out_labels_N = _samples(winner, dataset, "validation")
    profile = build_profile(
        train=train,
        train_labels_N=train_labels_N,
        held_out=held_out,
        held_out_labels_N=held_out_labels_N,
        classes=winner.index.classes,
        model_sha256=sha256(winner.model_path),
        seed=seed,
    )
    with new_folder(folder) as partial:
        winner.copy_to(partial)
        profile.write(partial)
        SmokeTest.of(winner, dataset.head("test", SMOKE_IMAGES)).write(partial)
        (partial / "MODEL_CARD.md").write_text(model_card(winner, dataset, selection, scorecard), encoding="utf-8")
        files = dict(checksums(partial))
        winner.index.model_copy(update={"files": files}).write(partial / "bundle.json")
    return ModelBundle(folder)


def _samples(bundle: ModelBundle, dataset: Dataset, split: DataSplit) -> tuple[Samples, NDArray[np.int64]]:
    """Return what the drift detector would see of a split's images, and their labels."""
    parts, labels = [], []
    for images_NHWC, truths in islice(dataset.batches(split, bundle.batch), -(-MOST_IMAGES // bundle.batch)):
        parts.append(Samples(*bundle.predict(images_NHWC), image_statistics(images_NHWC)))
        labels.append(truths if truths.ndim == 1 else _most_common(truths, len(bundle.index.classes)))
    samples = Samples(*(np.concatenate(column)[:MOST_IMAGES] for column in zip(*parts, strict=True)))
    return samples, np.concatenate(labels)[:MOST_IMAGES]


def _most_common(masks_NHW: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Return the class that most pixels of each mask have: what stands for its label."""
    counts_NC = [np.bincount(mask_HW.ravel(), minlength=classes)[:classes] for mask_HW in masks_NHW]
    return np.asarray(np.argmax(counts_NC, axis=1))
