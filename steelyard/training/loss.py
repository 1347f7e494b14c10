"""What answers cost: a sum over what counts, so that a batch learnt in parts costs as much as in one piece."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from steelyard.data.sources.segmentation import IGNORED
from steelyard.params import Training

FOCUS = 2.0  # gamma, by which Lin et al. (2017) got the best results
UNCOUNTED = -100  # what torch takes for no class
NEXT_TO_NOTHING = 1e-6  # that a batch counts for in which everything is ignored


class Loss:
    """The loss of a recipe, for labels, shares of classes, or masks.

    Cross-entropy; focal loss (Lin et al. 2017) over the softmax; or soft Dice (Milletari et al. 2016, with plain sums
    below the line), of each image and each class that is in it. What is IGNORED in a mask counts for nothing.
    """

    def __init__(self, recipe: Training, classes: Sequence[str], device: torch.device) -> None:
        """Choose it.

        Args:
            recipe: names the loss, its class weights and its label smoothing.
            classes: in the order of the logits.
            device: where it is computed.
        """
        weights = [recipe.class_weights.get(name, 1.0) for name in classes]
        self._kind, self._smoothing = recipe.loss, recipe.label_smoothing
        self._weights_C = torch.tensor(weights, device=device)

    def total(self, truths: Tensor) -> Tensor:
        """Return what a sum over these truths is divided by to be a mean: the weight of all that counts.

        Args:
            truths: labels (N,), shares (N, C) or masks (N, H, W).
        """
        if truths.ndim == 2:
            return truths.new_full((), len(truths))
        labels = _counted(truths)
        dice = self._kind == "dice"
        weights = self._weights_of_present(self._of_each_class(labels)) if dice else self._weights_of(labels)
        return weights.sum().clamp_min(NEXT_TO_NOTHING)

    def sum(self, logits: Tensor, truths: Tensor) -> Tensor:
        """Return the summed loss of logits (N, C), or for masks (N, C, H, W)."""
        if truths.ndim == 2:
            return self._cross_entropy(logits, truths)
        labels = _counted(truths)
        if self._kind == "dice":
            return self._dice(logits, labels)
        if truths.ndim == 3:  # a row for each pixel: CUDA has no deterministic algorithm for an image of them
            logits, labels = logits.movedim(1, -1).flatten(0, 2), labels.flatten()
        return self._focal(logits, labels) if self._kind == "focal" else self._cross_entropy(logits, labels)

    def _cross_entropy(self, logits_PC: Tensor, truths: Tensor) -> Tensor:
        each = nn.functional.cross_entropy(
            logits_PC, truths, self._weights_C, label_smoothing=self._smoothing, reduction="none"
        )
        return each.sum()  # a GPU's kernel that sums by itself uses one block of threads for all pixels

    def _focal(self, logits_PC: Tensor, labels_P: Tensor) -> Tensor:
        surprise_P = -logits_PC.log_softmax(1).gather(1, labels_P.clamp_min(0)[:, None])[:, 0]
        doubt_P = 1 - (-surprise_P).exp()
        return (self._weights_of(labels_P) * doubt_P**FOCUS * surprise_P).sum()

    def _dice(self, logits_NCHW: Tensor, labels_NHW: Tensor) -> Tensor:
        truth_NCHW = self._of_each_class(labels_NHW)
        probability_NCHW = logits_NCHW.softmax(1) * (labels_NHW >= 0)[:, None]
        overlap_NC = (probability_NCHW * truth_NCHW).sum((2, 3))
        both_NC = probability_NCHW.sum((2, 3)) + truth_NCHW.sum((2, 3))
        dice_NC = 2 * overlap_NC / both_NC.clamp_min(1)  # less than a pixel are only classes that weigh nothing here
        return (self._weights_of_present(truth_NCHW) * (1 - dice_NC)).sum()

    def _weights_of(self, labels: Tensor) -> Tensor:
        return self._weights_C[labels.clamp_min(0)] * (labels >= 0)

    def _weights_of_present(self, truth_NCHW: Tensor) -> Tensor:
        return self._weights_C * truth_NCHW.flatten(2).any(2)

    def _of_each_class(self, labels_NHW: Tensor) -> Tensor:
        """Return (N, C, H, W): where each class is."""
        classes_C = torch.arange(len(self._weights_C), device=labels_NHW.device)
        return labels_NHW[:, None] == classes_C[:, None, None]


def hits_and_counted(logits: Tensor, truths: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many images or pixels are answered rightly, and of how many that count."""
    labels = truths.argmax(1) if truths.ndim == 2 else _counted(truths)
    return (logits.argmax(1) == labels).sum(), (labels >= 0).sum()


def _counted(truths: Tensor) -> Tensor:
    return truths.masked_fill(truths == IGNORED, UNCOUNTED) if truths.ndim == 3 else truths
