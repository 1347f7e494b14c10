import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from steelyard.bundle import BATCH, WEIGHTS_FILE, Epoch, ModelBundle, images_at_once, sha256
from steelyard.data.dataset import Dataset
from steelyard.data.prepare import prepare
from steelyard.errors import DoesNotFit, ExportDiffers, OutOfDeviceMemory, TrainingDiverged
from steelyard.evaluation.answers import SPLITS
from steelyard.models.normalised import Normalised
from steelyard.params import Candidate, Params, Training
from steelyard.training import export as exporting
from steelyard.training import train as training
from steelyard.training.batches import _upload, no_single
from steelyard.training.export import export
from steelyard.training.job import Places, run_job
from steelyard.training.live import Live
from steelyard.training.run_key import run_key
from steelyard.training.train import train

RECIPE = {"epochs": 2, "batch_size": 64, "precision": "float32"}


def _with(candidate: Candidate, **recipe: object) -> Candidate:
    return candidate.model_copy(update={"training": Training.model_validate(RECIPE | recipe)})


def test_training_learns_and_is_watched(candidate: Candidate, dataset: Dataset) -> None:
    told: list[Epoch | Live] = []
    trained = train(_with(candidate, epochs=6, learning_rate=0.01), dataset, told.append)
    seen = [point for point in told if isinstance(point, Epoch)]
    assert [epoch.epoch for epoch in seen] == [1, 2, 3, 4, 5, 6]
    assert tuple(seen) == trained.history
    assert seen[-1].validation_accuracy > 0.9 > seen[0].validation_accuracy
    assert trained.best_epoch == min(seen, key=lambda epoch: epoch.validation_loss).epoch


def test_a_long_epoch_is_told_of_while_it_goes_on(
    candidate: Candidate, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SECONDS_BETWEEN_POINTS", 0.0)
    told: list[Epoch | Live] = []
    trained = train(_with(candidate), dataset, told.append)
    points = [point for point in told if isinstance(point, Live)]
    steps = dataset.index.images["train"] // 64
    assert [point.step for point in points] == list(range(1, 2 * steps + 1))
    assert points[steps - 1].loss == pytest.approx(trained.history[0].train_loss)
    assert points[steps - 1].accuracy == pytest.approx(trained.history[0].train_accuracy)
    assert min(point.images_per_s for point in points) > 0
    assert points[0].gpu_memory_mib is None
    assert re.fullmatch(r"learning rate [\d.e-]+, loss 2\.\d{3}, accuracy 0\.\d{3}", str(points[0]))
    assert str(replace(points[0], gpu_memory_mib=812.0, gpu_utilisation=97.0)).endswith(
        "GPU memory 812 MiB, GPU at 97 %"
    )


def test_training_streams_from_shards_and_the_answers_are_those_from_arrays(
    candidate: Candidate, dataset: Dataset, params: Params, bundle: ModelBundle, tmp_path: Path
) -> None:
    shards = prepare(params.data.model_copy(update={"layout": "shards"}), params.task, tmp_path / "dataset")
    assert shards.ref == dataset.ref
    trained = train(_with(candidate, epochs=6, learning_rate=0.01), shards, lambda epoch: None)
    assert trained.history[-1].validation_accuracy > 0.9
    for split in SPLITS:
        from_shards, from_arrays = (bundle.predict_each(one.batches(split, 64)) for one in (shards, dataset))
        assert (from_shards.probabilities_NC == from_arrays.probabilities_NC).all()
        assert (shards.labels_N(split) == dataset.labels_N(split)).all()


def test_equal_seeds_give_equal_weights_and_others_do_not(candidate: Candidate, dataset: Dataset) -> None:
    first, again, other = (
        train(_with(candidate, seed=seed), dataset, lambda epoch: None).model.state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_loss_that_leaves_the_numbers_ends_the_candidate(candidate: Candidate, dataset: Dataset) -> None:
    with pytest.raises(TrainingDiverged, match=r"the loss became (nan|inf) in epoch \d+; try a lower learning_rate"):
        train(_with(candidate, learning_rate=1e30), dataset, lambda epoch: None)


def test_a_candidate_that_failed_says_of_which_training(candidate: Candidate, dataset: Dataset, tmp_path: Path) -> None:
    failing = _with(candidate, learning_rate=1e30)
    with pytest.raises(TrainingDiverged) as caught:
        run_job(failing, dataset, Places(bundle=tmp_path / "bundle", checkpoints="", store=None), None)
    assert caught.value.run_key == run_key(failing, dataset)


@pytest.mark.parametrize(
    ("layers", "batch_size", "complaint"),
    [
        ([{"flatten": True}, {"batch_norm": True}], 1, "at batch_size 1: Expected more than 1 value per channel"),
        ([{"flatten": True}, {"dense": 10**12}], 64, "at batch_size 64: .*allocate"),
        ([{"flatten": True}, {"dense": 10**20}], 64, "at batch_size 64: .*[Oo]verflow"),
    ],
)
def test_a_network_that_can_t_be_trained_ends_the_candidate_in_one_line(
    dataset: Dataset, layers: list[dict[str, object]], batch_size: int, complaint: str
) -> None:
    candidate = _with(Candidate.model_validate({"name": "x", "layers": layers}), batch_size=batch_size)
    with pytest.raises(DoesNotFit, match=f"^the network can't be trained {complaint}") as caught:
        train(candidate, dataset, lambda epoch: None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nlong advice"), OutOfDeviceMemory),
        (torch.AcceleratorError("CUDA error: an illegal memory access"), torch.AcceleratorError),
    ],
)
def test_a_full_device_is_the_candidate_s_fault_and_a_broken_one_is_not(
    candidate: Candidate, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, raised: Exception, told: type[Exception]
) -> None:
    def refuse(*_: object, **__: object) -> Normalised:
        raise raised

    monkeypatch.setattr(Normalised, "to", refuse)
    with pytest.raises(told, match=r"CUDA [^\n]*$"):
        train(candidate, dataset, lambda epoch: None)


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, TypeError, OSError, torch.OutOfMemoryError])
def test_an_error_of_the_observer_is_not_the_candidate_s(
    candidate: Candidate, dataset: Dataset, kind: type[Exception]
) -> None:
    def observe(epoch: Epoch) -> None:
        raise kind("MLflow does not answer")

    with pytest.raises(kind, match=r"^MLflow does not answer$"):
        train(candidate, dataset, observe)


def test_a_bundle_answers_like_the_network_for_any_batch(bundle: ModelBundle, dataset: Dataset) -> None:
    images_NHWC = dataset.head("test")
    whole = bundle.predict_all(images_NHWC)
    single = bundle.predict(images_NHWC[:1])
    assert whole.embedding_ND.shape == (len(images_NHWC), bundle.index.embedding_size)
    np.testing.assert_allclose(single.probabilities_NC[0], whole.probabilities_NC[0], atol=1e-5)
    np.testing.assert_allclose(whole.probabilities_NC.sum(1), 1, atol=1e-5)
    bundle.verify()
    assert sum(
        tensor.numel() for name, tensor in load_file(bundle.folder / WEIGHTS_FILE).items() if "network" in name
    ) == (bundle.index.parameters)


def test_an_export_that_answers_otherwise_is_refused(
    candidate: Candidate, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(ExportDiffers, match="torch and ONNX Runtime differ by"):
        export(train(candidate, dataset, lambda epoch: None), candidate, dataset, "key", tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_the_run_key_holds_what_decides_the_weights_and_nothing_else(candidate: Candidate, dataset: Dataset) -> None:
    key = run_key(candidate, dataset)
    assert run_key(candidate.model_copy(update={"name": "renamed"}), dataset) == key
    assert run_key(_with(candidate, seed=7), dataset) != key
    shards = dataset.index.model_copy(update={"layout": "shards", "shards": {"train": ("0.tar",)}})
    streamed = SimpleNamespace(index=shards, ref=dataset.ref)
    assert run_key(candidate, streamed) != key, "shards are shuffled otherwise"  # type: ignore[arg-type]
    assert run_key(Candidate.model_validate({"name": "x", "arch": "resnet18"}), dataset) != key


def test_the_run_key_is_that_of_the_candidate_as_a_pipeline_hands_it_on(candidate: Candidate, dataset: Dataset) -> None:
    handed_on = Candidate.model_validate_json(candidate.model_dump_json(exclude_none=True))
    assert run_key(handed_on, dataset) == run_key(candidate, dataset)


@pytest.mark.parametrize(("images", "size"), [(64, 64), (65, 64), (129, 64), (1, 64), (130, 64), (3, 1)])
def test_every_image_is_in_one_batch_and_none_is_alone(images: int, size: int) -> None:
    labels_N = np.arange(images)
    parts = [labels_N[start : start + size] for start in range(0, images, size)]
    batches = [labels for _, labels in no_single((part.astype(np.uint8), part) for part in parts)]
    assert np.concatenate(batches).tolist() == list(range(images))
    assert size == 1 or images == 1 or min(map(len, batches)) > 1
    assert max(map(len, batches)) <= size + (size > 1)


def test_the_weights_file_is_covered_by_its_checksum(bundle: ModelBundle) -> None:
    assert bundle.index.files[WEIGHTS_FILE] == sha256(bundle.folder / WEIGHTS_FILE)


def test_the_weights_are_those_of_the_epoch_with_the_lowest_validation_loss(
    candidate: Candidate, dataset: Dataset
) -> None:
    trained = train(_with(candidate, epochs=12, learning_rate=1.0), dataset, lambda epoch: None)
    losses = [epoch.validation_loss for epoch in trained.history]
    with torch.inference_mode():
        logits_NC, _ = trained.model(torch.from_numpy(dataset.head("validation")))
        loss = torch.nn.functional.cross_entropy(logits_NC, torch.from_numpy(dataset.labels_N("validation")))
    assert loss.item() == pytest.approx(min(losses), rel=1e-4)
    assert trained.best_epoch < 12, "this recipe is meant to end worse than it was"


@pytest.mark.parametrize(("side", "images"), [(32, BATCH), (224, 20), (4000, 1)])
def test_large_images_are_answered_a_few_at_a_time(side: int, images: int) -> None:
    assert images_at_once((side, side, 3), BATCH) == images


def test_a_split_that_fits_a_device_is_there_as_it_was(dataset: Dataset) -> None:
    images_NHWC, labels_N = _upload(dataset, "train", torch.device("cpu"))
    assert np.array_equal(images_NHWC, dataset.head("train"))
    assert np.array_equal(labels_N, dataset.labels_N("train"))
