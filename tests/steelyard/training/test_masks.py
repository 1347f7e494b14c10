"""A segmentation from images and masks to a packed bundle."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from steelyard.bundle import Epoch, ModelBundle
from steelyard.contract import Contract
from steelyard.data.dataset import Dataset
from steelyard.data.prepare import prepare
from steelyard.drift.profile import ReferenceProfile
from steelyard.errors import DoesNotFit, ExportDiffers
from steelyard.evaluation.answers import SPLITS, Answers, MaskCounts
from steelyard.evaluation.evaluate import evaluate
from steelyard.evaluation.metrics import quality
from steelyard.evaluation.scorecard import Scorecard
from steelyard.halving import estimates
from steelyard.models.build import build
from steelyard.models.normalised import Normalised
from steelyard.packing import pack
from steelyard.params import Candidate, Params
from steelyard.selection.publish import choose
from steelyard.smoke_test import SmokeTest
from steelyard.training import train as training
from steelyard.training.batches import Batches
from steelyard.training.checkpoint import Checkpoints
from steelyard.training.export import _checked_difference, export
from steelyard.training.learner import Learner
from steelyard.training.loss import Loss
from steelyard.training.train import Trained, train
from tests.steelyard.data.pictures import REAL, needs_real_data

HEIGHT, WIDTH = 13, 18
ROUGH = {"augment": {"crop": 3, "flip": True, "colour": 0.2, "cutout": 3}, "ema": 0.9}
PARAMS = """
task: segmentation
data:
  source: SOURCE
  image_size: [13, 18]
  masks: {classes: {ground: 0, disc: 1, square: 2}, ignore: 9}
  split: {train: 0.6, validation: 0.2, test: 0.2, seed: 0}
training: {epochs: 12, batch_size: 8, learning_rate: 0.02, precision: float32}
candidates:
  unet: {unet: {depth: 2, width: 8}}
"""


def draw(folder: Path, number: int) -> None:
    """Write a dark image with a red disc and a green square; the mask ignores a frame around it."""
    random = np.random.default_rng(number)
    image_HWC, mask_HW = random.integers(0, 60, (HEIGHT, WIDTH, 3), np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
    y_HW, x_HW = np.mgrid[:HEIGHT, :WIDTH]
    disc_HW = (y_HW - random.integers(3, 10)) ** 2 + (x_HW - random.integers(3, 7)) ** 2 <= 7
    square_HW = (abs(y_HW - random.integers(3, 10)) <= 2) & (abs(x_HW - random.integers(11, 15)) <= 2)
    for value, where_HW in ((1, disc_HW), (2, square_HW)):
        image_HWC[where_HW, value - 1] += 120
        mask_HW[where_HW] = value
    mask_HW[[0, -1]], mask_HW[:, [0, -1]] = 9, 9
    for kind, pixels in (("images", image_HWC), ("masks", mask_HW)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / kind / f"{number}.png")


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Params:
    folder = tmp_path_factory.mktemp("shapes")
    for number in range(60):
        draw(folder, number)
    return Params.from_yaml(PARAMS.replace("SOURCE", str(folder)))


@pytest.fixture(scope="module")
def candidate(params: Params) -> Candidate:
    return params.candidates["unet"]


@pytest.fixture(scope="module")
def dataset(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare(params.data, params.task, tmp_path_factory.mktemp("masks") / "dataset", workers=1)


@pytest.fixture(scope="module")
def trained(candidate: Candidate, dataset: Dataset) -> Trained:
    return train(candidate, dataset, lambda epoch: None)


@pytest.fixture(scope="module")
def bundle(
    trained: Trained, candidate: Candidate, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> ModelBundle:
    return export(trained, candidate, dataset, "ab" * 32, tmp_path_factory.mktemp("segmented") / "bundle")


@pytest.fixture(scope="module")
def scorecard(bundle: ModelBundle, dataset: Dataset) -> Scorecard:
    return evaluate(bundle, dataset)


def with_recipe(candidate: Candidate, **recipe: object) -> Candidate:
    changed = {**candidate.training.model_dump(), **recipe}
    return Candidate.model_validate({**candidate.model_dump(), "training": changed})


def truths(dataset: Dataset, split: str) -> NDArray[np.uint8]:
    return np.concatenate([masks_NHW for _, masks_NHW in dataset.batches(split, 64)])  # type: ignore[arg-type]


def best_constant(dataset: Dataset, split: str) -> float:
    """Return the mean IoU of the constant mask that has the highest."""
    pixels_C = np.bincount(truths(dataset, split).ravel(), minlength=256)[: len(dataset.index.classes)]
    return float((pixels_C / pixels_C.sum()).max() / (pixels_C > 0).sum())


@pytest.mark.parametrize("loss", ["cross-entropy", "dice", "focal"])
def test_every_loss_learns_and_is_watched(candidate: Candidate, dataset: Dataset, loss: str) -> None:
    seen = train(with_recipe(candidate, loss=loss, class_weights={"square": 2}), dataset, lambda epoch: None).history
    assert seen[-1].validation_loss < seen[0].validation_loss
    assert (seen[-1].validation_mean_iou or 0) > 2 * best_constant(dataset, "validation")


def test_the_epoch_that_is_kept_is_that_of_the_lowest_validation_loss(
    trained: Trained, candidate: Candidate, dataset: Dataset
) -> None:
    epochs, masks_NHW = trained.history, torch.from_numpy(truths(dataset, "validation")).long()
    loss = Loss(candidate.training, dataset.index.classes, torch.device("cpu"))
    with torch.inference_mode():
        logits_NCHW, _ = trained.model(torch.from_numpy(dataset.head("validation")))
    best = min(epochs, key=lambda epoch: epoch.validation_loss)
    assert trained.best_epoch == best.epoch
    assert float(loss.sum(logits_NCHW, masks_NHW) / loss.total(masks_NHW)) == pytest.approx(best.validation_loss, 1e-4)
    counted_NHW = masks_NHW != 255
    right_NHW = (logits_NCHW.argmax(1) == masks_NHW) & counted_NHW
    assert float(right_NHW.sum() / counted_NHW.sum()) == pytest.approx(best.validation_accuracy)


@pytest.mark.parametrize("loss", ["cross-entropy", "dice"])
def test_a_training_that_is_cut_off_ends_with_the_same_bits(
    candidate: Candidate, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    rough = with_recipe(candidate, epochs=3, loss=loss, class_weights={"disc": 3}, **ROUGH)
    unbroken = train(rough, dataset, lambda epoch: None)
    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    left, learn = [7], Learner.learn

    def until_it_is_killed(*words: object) -> torch.Tensor:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return learn(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(Learner, "learn", until_it_is_killed)
    with pytest.raises(KeyboardInterrupt):
        train(rough, dataset, lambda epoch: None, Checkpoints(str(tmp_path)))
    monkeypatch.setattr(Learner, "learn", learn)
    resumed = train(rough, dataset, lambda epoch: None, Checkpoints(str(tmp_path)))
    assert resumed.resumed_from_step == 7  # within the second epoch, of five steps
    for name, value in unbroken.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    timeless = {"seconds", "images_per_s"}
    for one, other in zip(unbroken.history, resumed.history, strict=True):
        assert one.model_dump(exclude=timeless) == other.model_dump(exclude=timeless)


@pytest.mark.parametrize("loss", ["cross-entropy", "dice", "focal"])
def test_a_batch_learnt_in_parts_is_the_same_step(candidate: Candidate, dataset: Dataset, loss: str) -> None:
    recipe = with_recipe(candidate, loss=loss, class_weights={"disc": 3}).training
    plain = candidate.model_copy(
        update={"unet": candidate.unet and candidate.unet.model_copy(update={"batch_norm": False})}
    )
    cpu, states, told = torch.device("cpu"), [], []
    for micro_batch in (9, 3):
        torch.manual_seed(0)
        model = Normalised(build(plain, dataset.index.image_shape, 3), np.full(3, 0.3), np.full(3, 0.2))
        learner = Learner(model, recipe, Loss(recipe, dataset.index.classes, cpu), 100, cpu)
        learner.micro_batch = micro_batch
        told.append(learner.learn(next(Batches(dataset, "train", 8, cpu).shuffled(0, 1)), 40).tolist())
        states.append(learner.model.state_dict())
    assert told[1] == pytest.approx(told[0], rel=1e-5)
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-3, atol=1e-5)


def test_the_graph_takes_bytes_and_answers_like_torch(bundle: ModelBundle, trained: Trained, dataset: Dataset) -> None:
    graph = onnx.load(bundle.model_path).graph
    assert [value.type.tensor_type.elem_type for value in graph.input] == [onnx.TensorProto.UINT8]
    images_NHWC = dataset.head("test")
    with torch.inference_mode():
        logits_NCHW, expected_ND = trained.model(torch.from_numpy(images_NHWC))
    probabilities_NCHW, embedding_ND = bundle.answer(images_NHWC)
    assert probabilities_NCHW.shape == (len(images_NHWC), 3, HEIGHT, WIDTH)
    np.testing.assert_allclose(probabilities_NCHW, logits_NCHW.softmax(1), atol=1e-4)
    np.testing.assert_allclose(embedding_ND, expected_ND, atol=1e-4)
    assert bundle.index.onnx_max_diff is not None
    assert 0 < bundle.index.onnx_max_diff < 1e-4


def test_a_graph_that_answers_otherwise_is_refused(bundle: ModelBundle, trained: Trained, dataset: Dataset) -> None:
    other = copy.deepcopy(trained.model)
    with torch.no_grad():
        other.network.head.bias[0] += 0.01
    with pytest.raises(ExportDiffers, match=r"torch and ONNX Runtime differ by 0\.00\d+ in probability"):
        _checked_difference(other, bundle, dataset)


def test_the_counts_are_those_of_the_masks(scorecard: Scorecard, bundle: ModelBundle, dataset: Dataset) -> None:
    for split in SPLITS:
        answers, truth_NHW = scorecard.answers[split], truths(dataset, split)
        said_NHW = bundle.segment(dataset.head(split)).masks_NHW
        assert isinstance(answers, MaskCounts)
        for truth in range(3):
            for said in range(3):
                by_hand_N = ((truth_NHW == truth) & (said_NHW == said)).sum((1, 2))
                np.testing.assert_array_equal(answers.counts_NCC[:, truth, said], by_hand_N)
        assert answers.counts_NCC.sum() == (HEIGHT - 2) * (WIDTH - 2) * len(truth_NHW)
    assert scorecard.index.test == {}
    best = max(scorecard.index.history, key=lambda epoch: epoch.epoch == scorecard.index.best_epoch)
    assert scorecard.index.validation["mean_iou"].value == pytest.approx(best.validation_mean_iou, abs=1e-3)


def test_the_winner_is_packed_with_all_that_it_is_served_with(
    scorecard: Scorecard, bundle: ModelBundle, dataset: Dataset, tmp_path: Path
) -> None:
    wanted = Contract.from_yaml("{client: c, metrics: {mean_iou: {weight: 1, worst: 0, ideal: 1, must: '>= 0.3'}}}")
    selection = choose([scorecard], wanted)
    assert selection.winner == "unet"
    packed = pack(bundle, dataset, selection, tmp_path / "packed", scorecard)
    packed.verify()
    profile = ReferenceProfile.read(packed.folder).index
    assert (profile.held_out_rows, profile.held_out_accuracy) == (dataset.index.images["validation"], 1)  # all ground
    images_NHWC = dataset.head("test", 16)
    np.testing.assert_array_equal(SmokeTest.read(packed.folder).answers, packed.segment(images_NHWC).masks_NHW)
    assert "| square | " in (packed.folder / "MODEL_CARD.md").read_text()


def test_a_part_that_is_not_there_can_t_be_unfrozen(candidate: Candidate, dataset: Dataset) -> None:
    with pytest.raises(DoesNotFit, match="no part 'layer4'; it has: down, pool, dropout, enlarge, up"):
        train(with_recipe(candidate, unfreeze={"layer4": 1}), dataset, lambda epoch: None)


STREET = (
    "Sky",
    "Building",
    "Pole",
    "Road",
    "Pavement",
    "Tree",
    "SignSymbol",
    "Fence",
    "Car",
    "Pedestrian",
    "Bicyclist",
)
REAL_DATA = {
    "camvid": {
        "image_size": [45, 60],
        "masks": {"classes": {name: value for value, name in enumerate(STREET)}, "ignore": 11},
    },
    "isbi2012_em": {
        "image_size": 40,
        "grayscale": True,
        "masks": {"classes": {"membrane": 0, "cell": 255}},
        "tiles": {"size": 128},
    },
}


@needs_real_data
@pytest.mark.parametrize(("source", "epochs"), [("camvid", 6), ("isbi2012_em", 3)])
def test_real_images_are_segmented_better_than_by_any_constant_mask(tmp_path: Path, source: str, epochs: int) -> None:
    content = {
        "task": "segmentation",
        "data": {"source": str(Path(REAL, "segmentation", source)), **REAL_DATA[source]},
        "training": {"epochs": epochs, "batch_size": 8, "learning_rate": 0.01, "augment": {"flip": True}},
        "candidates": {"unet": {"unet": {"depth": 3, "width": 8}}},
    }
    params = Params.model_validate(content)
    dataset = prepare(params.data, params.task, tmp_path / "dataset")
    last = train(params.candidates["unet"], dataset, lambda epoch: None).history[-1]
    pixels_C = np.bincount(truths(dataset, "validation").ravel(), minlength=256)[: len(dataset.index.classes)]
    assert last.validation_accuracy > pixels_C.max() / pixels_C.sum()
    assert (last.validation_mean_iou or 0) > 1.3 * best_constant(dataset, "validation")


def test_halving_judges_masks_by_what_the_epoch_was_measured_by(params: Params, dataset: Dataset) -> None:
    seen: list[tuple[float | None, float]] = []
    classes, recipe = dataset.index.classes, params.training.model_copy(update={"epochs": 2})
    unet = params.candidates["unet"].model_copy(update={"training": recipe})

    def judge(epoch: Epoch, answers: Callable[[], Answers | None]) -> None:
        answered = answers()
        assert isinstance(answered, MaskCounts)
        measured = quality(answered, classes, np.ones((1, len(answered.labels_N))), ["mean_iou"])
        seen.append((epoch.validation_mean_iou, float(measured["mean_iou"][0])))

    train(unet, dataset, lambda epoch: None, judge=judge)
    assert len(seen) == 2
    assert all(told == pytest.approx(measured) for told, measured in seen)
    assert estimates(unet, dataset, ["latency_p95_ms"])["latency_p95_ms"] > 0
