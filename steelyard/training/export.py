"""Trained -> ModelBundle: ONNX for serving, safetensors for training on, and a check that both agree."""

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from steelyard.artifact import new_folder
from steelyard.bundle import MODEL_FILE, WEIGHTS_FILE, BundleIndex, ModelBundle, checksums
from steelyard.data.dataset import Dataset
from steelyard.errors import ExportDiffers
from steelyard.models.build import build
from steelyard.models.normalised import Normalised
from steelyard.params import Candidate
from steelyard.training.train import Trained

OPSET = 20
CHECKED = 256  # images of validation
LARGEST_DIFFERENCE = 1e-4  # in probability, between torch and ONNX Runtime


def export(trained: Trained, candidate: Candidate, dataset: Dataset, run_key: str, folder: Path) -> ModelBundle:
    """Write a ModelBundle.

    Args:
        trained: what to export.
        candidate: what it was trained as.
        dataset: what it was trained on; up to 256 of its validation images are the check.
        run_key: by which the training is remembered.
        folder: where the bundle goes.

    Raises:
        ExportDiffers: torch and ONNX Runtime disagree by more than 1e-4 in probability.
    """
    with new_folder(folder) as partial:
        (partial / MODEL_FILE).parent.mkdir()
        _to_onnx(trained.model, dataset, partial / MODEL_FILE)
        save_file(trained.model.state_dict(), partial / WEIGHTS_FILE)
        (partial / WEIGHTS_FILE).chmod(0o644)  # safetensors makes files that are nobody else's to read
        index = BundleIndex(
            candidate=candidate.name,
            task=dataset.index.task,
            classes=dataset.index.classes,
            input_shape=dataset.index.image_shape,
            embedding_size=trained.model.network.features,
            run_key=run_key,
            dataset=dataset.ref,
            model=candidate.model_spec(),
            training=candidate.training.model_dump(),
            parameters=sum(parameter.numel() for parameter in trained.model.parameters()),
            opset=OPSET,
            history=trained.history,
            best_epoch=trained.best_epoch,
            training_seconds=trained.seconds,
            device=trained.device,
            files=dict(checksums(partial)),
            images_per_s=trained.images_per_s,
            peak_mib=trained.peak_mib,
            precision=trained.precision,
            micro_batch=trained.micro_batch,
            resumed_from_step=trained.resumed_from_step,
        )
        index.write(partial / "bundle.json")
        difference = _checked_difference(trained.model, ModelBundle(partial), dataset)
        index.model_copy(update={"onnx_max_diff": difference}).write(partial / "bundle.json")
    return ModelBundle(folder)


def export_untrained(candidate: Candidate, dataset: Dataset, folder: Path) -> ModelBundle:
    """Write a ModelBundle with random weights, which is as large and as fast as the trained one will be."""
    shape = dataset.index.image_shape
    with torch.random.fork_rng(devices=[]):
        network = build(candidate, shape, len(dataset.index.classes))
        model = Normalised(network, np.full(shape[2], 0.5), np.full(shape[2], 0.25)).eval()
        untrained = Trained(
            model=model,
            history=(),
            best_epoch=0,
            seconds=0,
            device="none",
            precision="float32",
            micro_batch=0,
            images_per_s=0,
            peak_mib=0,
            resumed_from_step=0,
        )
        return export(untrained, candidate, dataset, "", folder)


class _Served(nn.Module):
    def __init__(self, model: Normalised) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, embedding_ND = self.model(images)
        return logits.softmax(1), embedding_ND


def _to_onnx(model: Normalised, dataset: Dataset, file: Path) -> None:
    example = torch.from_numpy(dataset.head("train", 2))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's deprecations inside torch; nothing a user could change
        torch.onnx.export(
            _Served(model).eval(),
            (example,),
            file,
            input_names=["images"],
            output_names=["probabilities", "embedding"],
            dynamic_shapes=({0: torch.export.Dim("images")},),
            opset_version=OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )


def _checked_difference(model: Normalised, bundle: ModelBundle, dataset: Dataset) -> float:
    images_NHWC, difference = dataset.head("validation", CHECKED), 0.0
    for start in range(0, len(images_NHWC), bundle.batch):
        part_NHWC = images_NHWC[start : start + bundle.batch]
        with torch.inference_mode():
            expected = model(torch.from_numpy(part_NHWC))[0].softmax(1).numpy()
        largest = np.abs(bundle.answer(part_NHWC)[0] - expected).max()
        difference = float(np.maximum(difference, largest))  # NaN, which `max` would pass over, stays
    if not difference <= LARGEST_DIFFERENCE:
        raise ExportDiffers(f"torch and ONNX Runtime differ by {difference:.2g} in probability")
    return difference
