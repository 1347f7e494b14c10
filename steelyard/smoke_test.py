"""A few held-out images with the offline answers to them: what a model server must repeat before it is trusted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.bundle import ModelBundle
from steelyard.errors import ArtifactError, SteelyardError

SMOKE_FILE = "smoke.npz"
IMAGES = 16
ARRAYS = {"probabilities": "probabilities_NC", "masks": "masks_NHW"}
LARGEST = 4 * 2**20  # bytes of all images together: a request holds them as JSON numbers, 4 characters each at most

Json = dict[str, object]


class SmokeTestFailed(SteelyardError):
    """A model server's answers are not those that its model gave offline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeTest:
    """Images uint8 [N, H, W, C], one batch, and the answers: probabilities float32 [N, K] or masks uint8 [N, H, W]."""

    images_NHWC: NDArray[np.uint8]
    answers: NDArray[np.float32] | NDArray[np.uint8]

    @property
    def output(self) -> str:
        """The name by which v2 knows the answers."""
        return "masks" if self.answers.ndim == 3 else "probabilities"

    @classmethod
    def of(cls, bundle: ModelBundle, held_out_NHWC: NDArray[np.uint8]) -> "SmokeTest":
        """Answer the first few of some images that the model has not learnt from."""
        count = max(1, min(IMAGES, LARGEST // held_out_NHWC[0].nbytes))
        images_NHWC = np.ascontiguousarray(held_out_NHWC[:count])
        if bundle.index.task == "segmentation":
            return cls(images_NHWC=images_NHWC, answers=bundle.segment(images_NHWC).masks_NHW)
        return cls(images_NHWC=images_NHWC, answers=bundle.predict(images_NHWC).probabilities_NC)

    @classmethod
    def read(cls, folder: Path) -> "SmokeTest":
        """Read it from a packed bundle.

        Raises:
            ArtifactError: the bundle has none.
        """
        file = folder / SMOKE_FILE
        if not file.exists():
            raise ArtifactError(f"{file}: is missing; was the bundle packed by register_model?")
        with np.load(file, allow_pickle=False) as arrays:
            answers = next(name for name in ARRAYS.values() if name in arrays)
            return cls(images_NHWC=arrays["images_NHWC"], answers=arrays[answers])

    def write(self, folder: Path) -> None:
        """Write it beside the model."""
        arrays = {"images_NHWC": self.images_NHWC, ARRAYS[self.output]: self.answers}
        np.savez_compressed(folder / SMOKE_FILE, **arrays)  # type: ignore[arg-type]

    def request(self) -> Json:
        """Return the body of a v2 inference request."""
        data = self.images_NHWC.ravel().tolist()
        tensor = {"name": "images", "datatype": "UINT8", "shape": list(self.images_NHWC.shape), "data": data}
        return {"inputs": [tensor], "outputs": [{"name": self.output}]}

    def check(self, answer: Json) -> None:
        """Compare the answer to the request with the offline answers, bit for bit.

        Raises:
            SmokeTestFailed: they differ.
        """
        try:
            served = next(output for output in answer["outputs"] if output["name"] == self.output)  # type: ignore[attr-defined]
            found = np.array(served["data"], dtype=self.answers.dtype).reshape(self.answers.shape)
        except (KeyError, TypeError, ValueError, OverflowError, StopIteration):
            raise SmokeTestFailed(f"the server's answer holds no {self.output}: {str(answer)[:200]}") from None
        if not np.array_equal(found, self.answers):
            images, much = (
                int((found != self.answers).reshape(len(found), -1).any(axis=1).sum()),
                self._by_how_much(found),
            )
            raise SmokeTestFailed(
                f"{images} of {len(found)} held-out images are answered otherwise than offline, {much}"
            )

    def _by_how_much(self, found: NDArray[Any]) -> str:
        if self.output == "masks":
            return f"in {(found != self.answers).mean():.2%} of their pixels"
        return f"by up to {np.abs(found - self.answers).max():.2g} in probability"
