"""A few held-out images with the offline answers to them: what a model server must repeat before it is trusted."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from steelyard.bundle import ModelBundle
from steelyard.errors import ArtifactError, SteelyardError

SMOKE_FILE = "smoke.npz"
IMAGES = 16
LARGEST = 4 * 2**20  # bytes of all images together: a request holds them as JSON numbers, 4 characters each at most

Json = dict[str, object]


class SmokeTestFailed(SteelyardError):
    """A model server's answers are not those that its model gave offline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeTest:
    """Images uint8 [N, H, W, C] and probabilities float32 [N, K], one batch."""

    images_NHWC: NDArray[np.uint8]
    probabilities_NC: NDArray[np.float32]

    @classmethod
    def of(cls, bundle: ModelBundle, held_out_NHWC: NDArray[np.uint8]) -> "SmokeTest":
        """Answer the first few of some images that the model has not learnt from."""
        count = max(1, min(IMAGES, LARGEST // held_out_NHWC[0].nbytes))
        images_NHWC = np.ascontiguousarray(held_out_NHWC[:count])
        return cls(images_NHWC=images_NHWC, probabilities_NC=bundle.predict(images_NHWC).probabilities_NC)

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
            return cls(images_NHWC=arrays["images_NHWC"], probabilities_NC=arrays["probabilities_NC"])

    def write(self, folder: Path) -> None:
        """Write it beside the model."""
        np.savez_compressed(folder / SMOKE_FILE, images_NHWC=self.images_NHWC, probabilities_NC=self.probabilities_NC)

    def request(self) -> Json:
        """Return the body of a v2 inference request."""
        data = self.images_NHWC.ravel().tolist()
        tensor = {"name": "images", "datatype": "UINT8", "shape": list(self.images_NHWC.shape), "data": data}
        return {"inputs": [tensor], "outputs": [{"name": "probabilities"}]}

    def check(self, answer: Json) -> None:
        """Compare the answer to the request with the offline answers, bit for bit.

        Raises:
            SmokeTestFailed: they differ.
        """
        try:
            served = next(output for output in answer["outputs"] if output["name"] == "probabilities")  # type: ignore[attr-defined]
            served_NC = np.array(served["data"], dtype=np.float32).reshape(self.probabilities_NC.shape)
        except (KeyError, TypeError, ValueError, StopIteration):
            raise SmokeTestFailed(f"the server's answer holds no probabilities: {str(answer)[:200]}") from None
        if not np.array_equal(served_NC, self.probabilities_NC):
            images = int((served_NC != self.probabilities_NC).any(axis=1).sum())
            largest = float(np.abs(served_NC - self.probabilities_NC).max())
            raise SmokeTestFailed(
                f"{images} of {len(served_NC)} held-out images are answered otherwise than offline, "
                f"by up to {largest:.2g} in probability"
            )
