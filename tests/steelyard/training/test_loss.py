"""Each loss is its formula, and what is ignored costs nothing."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from steelyard.params import Training
from steelyard.training.loss import Loss, hits_and_counted

CPU = torch.device("cpu")
CLASSES = ("sky", "road", "car")
RANDOM = torch.Generator().manual_seed(0)
LOGITS_NCHW = torch.randn(4, 3, 5, 6, generator=RANDOM)
MASKS_NHW = torch.randint(0, 3, (4, 5, 6), generator=RANDOM)
MASKS_NHW[:, :2] = 255
WEIGHTS = {"road": 2.5, "car": 0.5}
WEIGHTS_C = torch.tensor([1.0, 2.5, 0.5])
UNCOUNTED = torch.where(MASKS_NHW == 255, -100, MASKS_NHW)


def loss(classes: tuple[str, ...] = CLASSES, **recipe: object) -> Loss:
    return Loss(Training.model_validate(recipe), classes, CPU)


def mean(made: Loss, logits: Tensor, truths: Tensor) -> Tensor:
    return made.sum(logits, truths) / made.total(truths)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_is_torch_s(smoothing: float) -> None:
    found = mean(loss(class_weights=WEIGHTS, label_smoothing=smoothing), LOGITS_NCHW, MASKS_NHW)
    theirs = nn.functional.cross_entropy(LOGITS_NCHW, UNCOUNTED, WEIGHTS_C, label_smoothing=smoothing)
    torch.testing.assert_close(found, theirs)


def test_labels_and_shares_of_classes_cost_as_torch_has_it() -> None:
    logits_NC, labels_N = LOGITS_NCHW[:, :, 0, 0], torch.tensor([0, 1, 2, 1])
    shares_NC = torch.softmax(LOGITS_NCHW[:, :, 1, 1], 1)
    for truths in (labels_N, shares_NC):
        torch.testing.assert_close(mean(loss(), logits_NC, truths), nn.functional.cross_entropy(logits_NC, truths))


def test_the_256th_class_of_a_classification_is_a_class() -> None:
    logits_NC, labels_N = torch.randn(3, 300, generator=RANDOM), torch.tensor([255, 0, 299])
    found = mean(loss(tuple(map(str, range(300)))), logits_NC, labels_N)
    torch.testing.assert_close(found, nn.functional.cross_entropy(logits_NC, labels_N))
    assert [int(count) for count in hits_and_counted(logits_NC, labels_N)][1] == 3


def test_the_focal_loss_of_two_classes_is_torchvision_s() -> None:
    logits_NCHW, masks_NHW = LOGITS_NCHW[:, :2], MASKS_NHW.clamp(max=1)
    found = mean(loss(("no", "yes"), loss="focal"), logits_NCHW, masks_NHW)
    difference_NHW = logits_NCHW[:, 1] - logits_NCHW[:, 0]
    theirs = sigmoid_focal_loss(difference_NHW, masks_NHW.float(), alpha=-1, gamma=2, reduction="mean")
    torch.testing.assert_close(found, theirs)


def test_the_focal_loss_of_more_classes_is_the_formula() -> None:
    found = mean(loss(loss="focal", class_weights=WEIGHTS), LOGITS_NCHW, MASKS_NHW)
    summed, weight = 0.0, 0.0
    for n, y, x in (MASKS_NHW != 255).nonzero().tolist():
        label = int(MASKS_NHW[n, y, x])
        own = LOGITS_NCHW[n, :, y, x].softmax(0)[label]
        summed += float(WEIGHTS_C[label] * (1 - own) ** 2 * -own.log())
        weight += float(WEIGHTS_C[label])
    assert float(found) == pytest.approx(summed / weight, rel=1e-5)


def test_dice_is_the_formula_for_each_class_that_an_image_has() -> None:
    masks_NHW = MASKS_NHW.clone()
    masks_NHW[0][masks_NHW[0] == 2] = 0  # an image without cars
    found = mean(loss(loss="dice", class_weights=WEIGHTS), LOGITS_NCHW, masks_NHW)
    summed, weight = 0.0, 0.0
    for logits_CHW, mask_HW in zip(LOGITS_NCHW, masks_NHW, strict=True):
        counted_HW = mask_HW != 255
        for label, own_weight in enumerate(WEIGHTS_C.tolist()):
            there = (mask_HW == label)[counted_HW]
            said = logits_CHW.softmax(0)[label][counted_HW]
            if there.any():
                summed += own_weight * float(1 - 2 * said[there].sum() / (said.sum() + there.sum()))
                weight += own_weight
    assert float(found) == pytest.approx(summed / weight, rel=1e-5)


@pytest.mark.parametrize("kind", ["cross-entropy", "dice", "focal"])
class TestEveryLoss:
    def test_what_is_ignored_has_no_gradient_and_the_rest_has(self, kind: str) -> None:
        logits_NCHW = LOGITS_NCHW.clone().requires_grad_()
        mean(loss(loss=kind), logits_NCHW, MASKS_NHW).backward()  # type: ignore[no-untyped-call]
        assert logits_NCHW.grad is not None
        moved_NHW = (logits_NCHW.grad != 0).any(1)
        assert torch.equal(moved_NHW, MASKS_NHW != 255)

    def test_a_batch_that_is_ignored_altogether_costs_nothing(self, kind: str) -> None:
        logits_NCHW = LOGITS_NCHW.clone().requires_grad_()
        found = mean(loss(loss=kind), logits_NCHW, torch.full_like(MASKS_NHW, 255))
        found.backward()  # type: ignore[no-untyped-call]
        assert logits_NCHW.grad is not None
        assert (float(found.detach()), float(logits_NCHW.grad.abs().max())) == (0, 0)

    def test_parts_add_up_to_the_whole(self, kind: str) -> None:
        made = loss(loss=kind, class_weights=WEIGHTS)
        parts = [made.sum(LOGITS_NCHW[n : n + 1], MASKS_NHW[n : n + 1]) for n in range(4)]
        torch.testing.assert_close(torch.stack(parts).sum(), made.sum(LOGITS_NCHW, MASKS_NHW))
        totals = [made.total(MASKS_NHW[n : n + 1]) for n in range(4)]
        torch.testing.assert_close(torch.stack(totals).sum(), made.total(MASKS_NHW))

    def test_a_heavier_class_pulls_harder(self, kind: str) -> None:
        pulls = []
        for weights in ({}, {"car": 10.0}):
            logits_NCHW = LOGITS_NCHW.clone().requires_grad_()
            mean(loss(loss=kind, class_weights=weights), logits_NCHW, MASKS_NHW).backward()  # type: ignore[no-untyped-call]
            assert logits_NCHW.grad is not None
            pulls.append(float(logits_NCHW.grad.movedim(1, -1)[MASKS_NHW == 2].norm()))
        assert pulls[1] > 1.5 * pulls[0]


def test_hits_are_of_pixels_that_count() -> None:
    hits, counted = hits_and_counted(LOGITS_NCHW, MASKS_NHW)
    right_NHW = (LOGITS_NCHW.argmax(1) == MASKS_NHW) & (MASKS_NHW != 255)
    assert (int(hits), int(counted)) == (int(right_NHW.sum()), 4 * 3 * 6)
