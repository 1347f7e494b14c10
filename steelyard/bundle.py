"""ModelBundle: the one artifact that travels from training to serving, and what answers from it."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.artifact import CandidateName, Index, Record, new_folder
from steelyard.data.dataset import DatasetRef
from steelyard.errors import ArtifactError, CandidateFailed, Stopped

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MODEL_FILE = "1/model.onnx"
WEIGHTS_FILE = "weights.safetensors"
BATCH = 128  # images that are answered at once
BATCH_PIXELS = 2**20  # at once: what a network holds for each pixel then bounds its memory


class Epoch(Record):
    """One point of a training curve."""

    epoch: int
    train_loss: float
    validation_loss: float
    train_accuracy: float
    validation_accuracy: float
    validation_mean_iou: float | None = None  # of masks
    learning_rate: float
    seconds: float
    images_per_s: float = 0

    @property
    def chief(self) -> tuple[str, float]:
        """The figure of validation that is told of an epoch, with its name."""
        if self.validation_mean_iou is not None:
            return "mean IoU", self.validation_mean_iou
        return "accuracy", self.validation_accuracy


class BundleIndex(Index):
    """bundle.json."""

    candidate: CandidateName
    task: str
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    embedding_size: int
    run_key: str
    dataset: DatasetRef
    model: dict[str, object]
    training: dict[str, object]
    parameters: int
    opset: int
    history: tuple[Epoch, ...]
    best_epoch: int
    training_seconds: float
    device: str
    files: dict[str, str]
    remembered: bool = False
    images_per_s: float = 0
    peak_mib: float = 0
    precision: str = "float32"
    micro_batch: int = 0
    resumed_from_step: int = 0
    onnx_max_diff: float | None = None


class Stop(Record):
    """Where halving ended a training, and why."""

    rung: int
    reason: str


class FailureIndex(Index):
    """failure.json: what lies in a bundle's place where a candidate failed or was stopped."""

    candidate: CandidateName
    stage: str
    reason: str
    run_key: str
    dataset: DatasetRef
    stopped: Stop | None = None


class Outputs(NamedTuple):
    """What the model says of N images; of masks, the mean probability of each class over the pixels."""

    probabilities_NC: NDArray[np.float32]
    embedding_ND: NDArray[np.float32]


class Segmented(NamedTuple):
    """Masks of N images, each pixel the index of a class, and what the model says of the images as wholes."""

    masks_NHW: NDArray[np.uint8]
    outputs: Outputs


def images_at_once(shape: tuple[int, int, int], most: int) -> int:
    """Return how many images of (height, width, channels) a network answers at once, `most` if they are small."""
    height, width, _ = shape
    return max(1, min(most, BATCH_PIXELS // (height * width)))


class ModelBundle:
    """A folder with `bundle.json`, `1/model.onnx` and `weights.safetensors`."""

    def __init__(self, folder: Path) -> None:
        """Open a bundle.

        Raises:
            ArtifactError: the folder is no bundle of a version known here.
        """
        self.folder = folder
        self.index = BundleIndex.read(folder / "bundle.json")

    def verify(self) -> None:
        """Compare each file with its checksum.

        Raises:
            ArtifactError: a file is missing or was changed.
        """
        if MODEL_FILE not in self.index.files:
            raise ArtifactError(f"{self.folder}: bundle.json has no checksum of {MODEL_FILE}")
        for name, expected in self.index.files.items():
            path = self.folder / name
            if not path.is_file() or sha256(path) != expected:
                raise ArtifactError(f"{path}: is missing or differs from the checksum in bundle.json")

    @property
    def served_digest(self) -> str:
        """Of all its files but the words about it: two bundles with equal digests serve alike."""
        files = {name: digest for name, digest in self.index.files.items() if not name.endswith(".md")}
        return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()

    @property
    def model_path(self) -> Path:
        """The ONNX file."""
        return self.folder / MODEL_FILE

    @property
    def size_mib(self) -> float:
        """Size of what is served: the ONNX file, and the weights beside it where they are too large to be in it."""
        return sum(file.stat().st_size for file in self.model_path.parent.iterdir()) / 2**20

    @cached_property
    def session(self) -> "InferenceSession":
        """The model in ONNX Runtime on one CPU thread: what is evaluated is what is served."""
        import onnxruntime

        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(self.model_path, options, providers=["CPUExecutionProvider"])

    @property
    def batch(self) -> int:
        """How many images are answered at once."""
        return images_at_once(self.index.input_shape, BATCH)

    def answer(self, images_NHWC: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what the graph puts out for a batch: probabilities (N, C) or (N, C, H, W), and embedding (N, D)."""
        probabilities, embedding_ND = self.session.run(["probabilities", "embedding"], {"images": images_NHWC})
        return probabilities, embedding_ND

    def predict(self, images_NHWC: NDArray[np.uint8]) -> Outputs:
        """Answer for a batch.

        Args:
            images_NHWC: uint8, of the bundle's input shape.
        """
        return _of_images(*self.answer(images_NHWC))

    def predict_all(self, images_NHWC: NDArray[np.uint8], batch: int = BATCH) -> Outputs:
        """Answer for any number of images, `batch` at a time, or fewer if they are large."""
        parts = _batches(images_NHWC, min(batch, self.batch))
        return self.predict_each((np.ascontiguousarray(part), None) for part in parts)

    def predict_each(self, batches: Iterable[tuple[NDArray[np.uint8], object]]) -> Outputs:
        """Answer for the images of batches, such as `Dataset.batches` yields."""
        return _joined([self.predict(images_NHWC) for images_NHWC, _ in batches])

    def segment(self, images_NHWC: NDArray[np.uint8]) -> Segmented:
        """Answer for any number of images with masks; the bundle's task is segmentation."""
        masks, parts = [], []
        for part_NHWC in _batches(images_NHWC, self.batch):
            probabilities_NCHW, embedding_ND = self.answer(np.ascontiguousarray(part_NHWC))
            masks.append(probabilities_NCHW.argmax(1).astype(np.uint8))
            parts.append(_of_images(probabilities_NCHW, embedding_ND))
        return Segmented(np.concatenate(masks), _joined(parts))

    def copy_to(self, folder: Path) -> "ModelBundle":
        """Copy the bundle's files into an empty folder."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return ModelBundle(folder)


def write_failure(
    folder: Path, candidate: str, stage: str, error: CandidateFailed, dataset: DatasetRef
) -> FailureIndex:
    """Write down why a candidate failed, in the place of its bundle."""
    stopped = Stop(rung=error.rung, reason=error.reason) if isinstance(error, Stopped) else None
    failure = FailureIndex(
        candidate=candidate,
        stage=stage,
        reason=stopped.reason if stopped else str(error),
        run_key=error.run_key,
        dataset=dataset,
        stopped=stopped,
    )
    with new_folder(folder) as partial:
        failure.write(partial / "failure.json")
    return failure


def read_failure(folder: Path) -> FailureIndex | None:
    """Return why there is no bundle in this folder, or None where there is one."""
    return FailureIndex.read(folder / "failure.json") if (folder / "failure.json").exists() else None


def checksums(folder: Path) -> Mapping[str, str]:
    """Return the sha256 of each file below a folder, indexes at its top excepted, by relative name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / "bundle.json")
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def sha256(file: Path) -> str:
    """Return the hexadecimal sha256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _of_images(probabilities: NDArray[np.float32], embedding_ND: NDArray[np.float32]) -> Outputs:
    return Outputs(probabilities.mean((2, 3)) if probabilities.ndim == 4 else probabilities, embedding_ND)


def _joined(parts: list[Outputs]) -> Outputs:
    return Outputs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _batches(images_NHWC: NDArray[np.uint8], size: int) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(images_NHWC), size):
        yield images_NHWC[start : start + size]
