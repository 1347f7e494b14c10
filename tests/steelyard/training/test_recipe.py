"""What a recipe does: augmentation, schedule, averaged weights, micro-batches."""

import time

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steelyard.data.dataset import Dataset
from steelyard.errors import InvalidFile, OutOfDeviceMemory
from steelyard.models.build import Network
from steelyard.models.normalised import Normalised, as_fractions
from steelyard.params import Augment, Candidate, Params, Training
from steelyard.training import train as training
from steelyard.training.augment import Augmentation
from steelyard.training.learner import Learner, _parts
from steelyard.training.loss import Loss
from steelyard.training.schedule import learning_rate
from tests.conftest import SMALL_PARAMS

IMAGES_NHWC = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (64, 12, 10, 3), np.uint8))
LABELS_N = torch.arange(64) % 4


def augmented(truths: Tensor = LABELS_N, **settings: object) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    images, found = Augmentation(Augment.model_validate(settings), classes=4)(IMAGES_NHWC, truths)
    return images, found


def test_without_settings_images_are_only_divided() -> None:
    images_NCHW, labels_N = augmented()
    assert torch.equal(images_NCHW, as_fractions(IMAGES_NHWC))
    assert images_NCHW.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(labels_N, LABELS_N)


def test_about_half_are_flipped_and_each_for_itself() -> None:
    images_NCHW, _ = augmented(flip=True)
    plain_NCHW = as_fractions(IMAGES_NHWC)
    same_N = (images_NCHW == plain_NCHW).flatten(1).all(1)
    flipped_N = (images_NCHW == plain_NCHW.flip(3)).flatten(1).all(1)
    assert (same_N ^ flipped_N).all()
    assert 16 < int(flipped_N.sum()) < 48


def test_a_crop_shifts_each_image_and_mirrors_what_is_missing() -> None:
    images_NCHW, _ = augmented(crop=2)
    padded_NCHW = nn.functional.pad(as_fractions(IMAGES_NHWC), (2, 2, 2, 2), mode="reflect")
    seen = set()
    for image, padded in zip(images_NCHW, padded_NCHW, strict=True):
        shifts = [(y, x) for y in range(5) for x in range(5) if torch.equal(image, padded[:, y : y + 12, x : x + 10])]
        assert len(shifts) == 1
        seen.add(shifts[0])
    assert len(seen) > 15


def test_masks_move_with_their_images() -> None:
    masks_NHW = IMAGES_NHWC[..., 0].long()
    images_NCHW, moved_NHW = augmented(masks_NHW, crop=3, flip=True)
    assert torch.equal((images_NCHW[:, 0] * 255).round().long(), moved_NHW)


def test_colour_keeps_the_range_and_differs_between_images() -> None:
    images_NCHW, _ = augmented(colour=0.5)
    assert 0 <= float(images_NCHW.min()) <= float(images_NCHW.max()) <= 1
    ratios_N = images_NCHW.mean((1, 2, 3)) / as_fractions(IMAGES_NHWC).mean((1, 2, 3))
    assert float(ratios_N.std()) > 0.1


def test_a_cutout_greys_one_whole_square() -> None:
    images_NCHW, _ = augmented(cutout=4)
    changed_NHW = (images_NCHW != as_fractions(IMAGES_NHWC)).any(1)
    assert (changed_NHW.sum((1, 2)) == 16).all()
    assert (images_NCHW.permute(0, 2, 3, 1)[changed_NHW] == 0.5).all()


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_shares_the_label_as_it_shares_the_image(kind: str) -> None:
    images_NCHW, shares_NC = augmented(**{kind: 1.0})
    assert shares_NC.shape == (64, 4)
    assert torch.allclose(shares_NC.sum(1), torch.ones(64))
    assert not torch.equal(images_NCHW, as_fractions(IMAGES_NHWC))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_mixed_image_holds_as_much_of_each_class_as_its_label_says(kind: str) -> None:
    levels_C = torch.tensor([0, 50, 100, 250], dtype=torch.uint8)
    plain_NHWC = levels_C[LABELS_N][:, None, None, None].expand(64, 12, 10, 3)
    torch.manual_seed(0)
    images_NCHW, shares_NC = Augmentation(Augment.model_validate({kind: 1.0}), classes=4)(plain_NHWC, LABELS_N)
    assert torch.allclose(images_NCHW.mean((1, 2, 3)), shares_NC @ (levels_C.float() / 255), atol=1e-5)
    assert float(shares_NC.max(1).values.min()) < 0.95


def test_one_cycle_is_torch_s() -> None:
    recipe, steps = Training(learning_rate=0.1), 200
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps, cycle_momentum=False)
    for step in range(steps):
        assert learning_rate(recipe, step, steps) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        if step < steps - 1:
            theirs.step()


def test_cosine_warms_up_and_falls_to_nothing() -> None:
    recipe = Training(epochs=10, learning_rate=1.0, schedule="cosine", warmup_epochs=2)
    rates = [learning_rate(recipe, step, 100) for step in range(100)]
    assert rates[:20] == sorted(rates[:20])
    assert rates[20] == max(rates) == 1.0
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] < 0.001


class Cramped(nn.Module):
    """A body on a device that takes few images at a time."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.inner = most, nn.Sequential(nn.Flatten(), nn.Linear(12 * 10 * 3, 8))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        if len(images_NCHW) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.inner(images_NCHW)  # type: ignore[no-any-return]


def learner(most: int, **recipe: object) -> Learner:
    torch.manual_seed(0)
    network = Network(Cramped(most), 8, 4)
    model = Normalised(network, np.full(3, 0.5), np.full(3, 0.25))
    cpu, settings = torch.device("cpu"), Training.model_validate({"batch_size": 64, "precision": "float32", **recipe})
    return Learner(model, settings, Loss(settings, "abcd", cpu), 10, cpu)


def test_a_full_device_gets_smaller_parts_and_the_same_step(caplog: pytest.LogCaptureFixture) -> None:
    roomy, cramped = learner(most=64), learner(most=20)
    with caplog.at_level("WARNING"):
        figures = [one.learn((IMAGES_NHWC, LABELS_N), 0).tolist() for one in (roomy, cramped)]
    assert cramped.micro_batch == 16
    assert figures[1] == pytest.approx(figures[0], rel=1e-5)
    for name, value in roomy.model.state_dict().items():
        torch.testing.assert_close(cramped.model.state_dict()[name], value, rtol=1e-4, atol=1e-6)
    assert "going on with 16 images at a time" in caplog.text
    torch.testing.assert_close(cramped.answer(IMAGES_NHWC), roomy.answer(IMAGES_NHWC), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("images", [2, 3, 9, 64])
def test_no_part_is_a_single_image_which_batch_norm_can_t_take(images: int) -> None:
    parts = _parts(IMAGES_NHWC[:images], LABELS_N[:images], 2)
    assert {len(labels) for _, labels in parts} <= {2, 3}
    assert torch.equal(torch.cat([labels for _, labels in parts]), LABELS_N[:images])


def test_answers_that_do_not_fit_are_given_in_parts_and_batches_are_learnt_whole() -> None:
    roomy, cramped = learner(most=64), learner(most=20, batch_size=16)
    torch.testing.assert_close(cramped.answer(IMAGES_NHWC), roomy.answer(IMAGES_NHWC), rtol=1e-4, atol=1e-5)
    assert cramped.micro_batch == 17


@pytest.mark.parametrize("images", [1, 2, 3])
def test_a_batch_of_which_not_one_image_fits_is_refused(images: int) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        learner(most=0, batch_size=images).learn((IMAGES_NHWC[:images], LABELS_N[:images]), 0)


def test_where_not_one_image_fits_the_candidate_fails(
    candidate: Candidate, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "build", lambda *_: Network(Cramped(0), 8, 10))
    with pytest.raises(OutOfDeviceMemory, match="not even one image fits the device: CUDA out of memory"):
        training.train(candidate, dataset, lambda epoch: None)


def test_what_can_t_be_read_is_not_the_candidate_s_fault(
    candidate: Candidate, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("mmap length is greater than file size")

    monkeypatch.setattr(Dataset, "batches", broken)
    with pytest.raises(ValueError, match="mmap length"):
        training.train(candidate, dataset, lambda epoch: None)


def test_pauses_are_no_training_time(candidate: Candidate, dataset: Dataset) -> None:
    began = time.monotonic()
    trained = training.train(candidate, dataset, lambda point: time.sleep(1))
    assert trained.seconds < time.monotonic() - began - len(trained.history)


def test_averaged_weights_follow_the_others_and_are_those_that_answer() -> None:
    one = learner(most=64, ema=0.9, learning_rate=0.1)
    before = one.averaged.network.head.weight.detach().clone()
    for step in range(3):
        one.learn((IMAGES_NHWC, LABELS_N), step)
    now, averaged = (each.network.head.weight.detach() for each in (one.model, one.averaged))
    assert 0 < float((averaged - before).norm()) < float((now - before).norm())
    one.averaged.eval()
    assert torch.equal(one.answer(IMAGES_NHWC), one.averaged(IMAGES_NHWC)[0])


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ("augment: {crop: 8}", "candidates.one-layer.training.augment: crop and cutout must be less than 8 pixels"),
        ("warmup_epochs: 1", "warmup_epochs goes with schedule: cosine"),
        ("schedule: cosine, warmup_epochs: 2", "warmup_epochs must be less than epochs"),
        ("augment: {crops: 8}", "training.augment.crops: unknown key; did you mean 'crop'"),
    ],
)
def test_a_recipe_that_can_t_be_is_refused_at_the_edge(recipe: str, sentence: str) -> None:
    with pytest.raises(InvalidFile, match=sentence.replace(".", r"\.")):
        Params.from_yaml(SMALL_PARAMS.replace("seed: 0}", f"seed: 0, {recipe}}}"))
