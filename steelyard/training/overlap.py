"""How well masks overlap, counted on the device that makes them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from steelyard.data.sources.segmentation import IGNORED
from steelyard.evaluation.answers import MaskCounts
from steelyard.evaluation.metrics import quality


class Overlap:
    """Counts pixels by true and predicted class; what is IGNORED in a mask counts for nothing."""

    def __init__(self, classes: Sequence[str], device: torch.device) -> None:
        self._classes = classes
        self._counts_CC = torch.zeros(len(classes), len(classes), dtype=torch.int64, device=device)

    def add(self, logits_NCHW: Tensor, masks_NHW: Tensor) -> None:
        """Count the pixels of a batch."""
        classes, counts_NHW = len(self._counts_CC), masks_NHW != IGNORED
        flat_P = masks_NHW[counts_NHW] * classes + logits_NCHW.argmax(1)[counts_NHW]
        self._counts_CC += flat_P.bincount(minlength=classes**2).view(classes, classes)

    def mean_iou(self) -> float:
        """Return the mean over the classes that are there or were said to be; 0 where none was counted."""
        counted = MaskCounts(counts_NCC=self._counts_CC.cpu().numpy()[None])
        return float(quality(counted, self._classes, np.ones((1, 1)), ["mean_iou"])["mean_iou"][0])
