"""The images that a candidate was most sure of and wrong about, small enough to be kept with its Scorecard."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.artifact import read_arrays
from steelyard.data.dataset import Dataset
from steelyard.errors import ArtifactError
from steelyard.evaluation.answers import Split, SplitOutputs

MOST = 24
LONGEST_SIDE = 96  # pixels; larger images are thinned out


class Mistakes(NamedTuple):
    """M images uint8 [M, H, W, C], the surest first; truth and answer are indices of classes."""

    images_MHWC: NDArray[np.uint8]
    truth_M: NDArray[np.int64]
    said_M: NDArray[np.int64]
    probability_M: NDArray[np.float32]  # of what was said

    def write(self, file: Path) -> None:
        """Write the four arrays."""
        np.savez_compressed(
            file, images=self.images_MHWC, truth=self.truth_M, said=self.said_M, probability=self.probability_M
        )

    @classmethod
    def read(cls, file: Path) -> "Mistakes":
        """Read them.

        Raises:
            ArtifactError: the file is damaged.
        """
        arrays = read_arrays(file)
        try:
            return cls(*(arrays[name] for name in ("images", "truth", "said", "probability")))
        except KeyError as error:
            raise ArtifactError(f"{file}: {error} is missing") from None


def worst_mistakes(outputs: SplitOutputs, dataset: Dataset, split: Split) -> Mistakes:
    """Return up to 24 images of a split whose wrong answer had the highest probability."""
    said_N, probability_N = outputs.probabilities_NC.argmax(1), outputs.probabilities_NC.max(1)
    wrong_N = np.flatnonzero(said_N != outputs.labels_N)
    rows_M = wrong_N[np.argsort(-probability_N[wrong_N], kind="stable")][:MOST]
    height, width, channels = dataset.index.image_shape
    step = -(-max(height, width) // LONGEST_SIDE)
    images_MHWC = np.empty((len(rows_M), -(-height // step), -(-width // step), channels), np.uint8)
    for position, image_HWC in _chosen(dataset, split, rows_M):
        images_MHWC[position] = image_HWC[::step, ::step]
    return Mistakes(images_MHWC, outputs.labels_N[rows_M], said_N[rows_M], probability_N[rows_M])


def _chosen(dataset: Dataset, split: Split, rows_M: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield the place in `rows_M` and the image of each row; the split is read once, from arrays or shards."""
    places = {int(row): place for place, row in enumerate(rows_M)}
    row = 0
    for images_NHWC, _ in dataset.batches(split, 128) if places else ():
        for image_HWC in images_NHWC:
            if row in places:
                yield places[row], image_HWC
            row += 1
