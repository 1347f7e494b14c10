"""What a network that is still in training says of a split, as it is measured."""

from collections.abc import Callable, Iterable

import numpy as np
from torch import Tensor

from steelyard.evaluation.answers import Answers, MaskCounts, SplitOutputs
from steelyard.evaluation.evaluate import count_pixels


def answers(
    batches: Iterable[tuple[Tensor, Tensor]], answer: Callable[[Tensor], Tensor], masks: bool, classes: int
) -> Answers:
    """Let a network answer.

    Args:
        batches: images (N, H, W, C) and labels (N,) or masks (N, H, W).
        answer: returns the logits of images, (N, classes) or (N, classes, H, W).
        masks: whether the truths are masks.
        classes: how many there are.
    """
    probabilities, labels, counts = [], [], []
    for images_NHWC, truths in batches:
        logits, truths_N = answer(images_NHWC), truths.cpu().numpy()
        if masks:
            said_NHW = logits.argmax(1).cpu().numpy()
            counts += [count_pixels(*pair, classes) for pair in zip(truths_N, said_NHW, strict=True)]
        else:
            probabilities.append(logits.softmax(1).cpu().numpy())
            labels.append(truths_N)
    if masks:
        return MaskCounts(counts_NCC=np.stack(counts))
    return SplitOutputs(probabilities_NC=np.concatenate(probabilities), labels_N=np.concatenate(labels))
