"""How well masks overlap, counted on the device that makes them."""

import torch
from torch import Tensor

from steelyard.data.sources.segmentation import IGNORED


class Overlap:
    """Counts pixels by true and predicted class; what is IGNORED in a mask counts for nothing."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self._counts_CC = torch.zeros(classes, classes, dtype=torch.int64, device=device)

    def add(self, logits_NCHW: Tensor, masks_NHW: Tensor) -> None:
        """Count the pixels of a batch."""
        classes, counts_NHW = len(self._counts_CC), masks_NHW != IGNORED
        flat_P = masks_NHW[counts_NHW] * classes + logits_NCHW.argmax(1)[counts_NHW]
        self._counts_CC += flat_P.bincount(minlength=classes**2).view(classes, classes)

    def mean_iou(self) -> float:
        """Return the mean over the classes that are there or were said to be; 0 where none was counted."""
        hits_C = self._counts_CC.diagonal()
        either_C = self._counts_CC.sum(0) + self._counts_CC.sum(1) - hits_C
        iou_C = hits_C[either_C > 0] / either_C[either_C > 0]
        return float(iou_C.mean()) if len(iou_C) else 0.0
