"""The winner, served as in its pod: the test split over HTTP, then the same images corrupted until the alarm."""

import base64
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import urllib3
from numpy.typing import NDArray
from PIL import Image

from pipelines.pod import Pod
from steelyard.bundle import ModelBundle
from steelyard.data.dataset import Dataset
from steelyard.data.encode import png
from steelyard.data.sources.segmentation import IGNORED
from steelyard.drift.corruptions import corrupt
from steelyard.errors import SteelyardError
from steelyard.smoke_test import LARGEST

CORRUPTION = "gaussian_noise"
SEVERITY = 3
BATCH = 10
LARGEST_STREAM = 2**28  # bytes of pixels: 1,783 images of 224 px
DETECTOR_CATCHES_UP_WITHIN_S = 30.0

Truth = NDArray[np.integer]  # indices into the classes: labels (N,) or masks (N, H, W)
Answer = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What was seen."""

    images: int
    offline_accuracy: float
    http_accuracy: float
    clean_alarms: int
    images_to_alarm: int | None


def rehearse(pod: Pod, bundle: ModelBundle, dataset: Dataset, tell: Callable[[str], None]) -> Rehearsal:
    """Send a clean and a corrupted stream through the pod, batch by batch, v1 and v2 in turn.

    v1 requests carry encoded images (PNG, which loses nothing), v2 requests tensors. The test split took no part in
    training, choice or calibration; it is corrupted with the noise of Hendrycks & Dietterich (2019), severity 3.
    """
    images_NHWC = dataset.head("test", LARGEST_STREAM // math.prod(dataset.index.image_shape))
    truth = np.concatenate([truths for _, truths in dataset.batches("test", 128)])[: len(images_NHWC)]
    answers = np.concatenate([_ask(pod, bundle, *batch) for batch in _batches(images_NHWC)])
    clean_alarms, accuracy = _alarms(_report(pod, after=len(truth))), _accuracy(answers, truth)
    tell(f"clean stream: {len(truth)} images, accuracy {accuracy:.4f}, alarms: {len(clean_alarms)}")
    first_alarm = _corrupted_until_alarm(pod, bundle, images_NHWC, clean_alarms)
    otherwise = "the alarm of before still stands" if clean_alarms else "no alarm"
    tell(f"corrupted stream ({CORRUPTION}): " + (f"alarm after {first_alarm} images" if first_alarm else otherwise))
    return Rehearsal(
        images=len(truth),
        offline_accuracy=_accuracy(_offline(bundle, images_NHWC), truth),
        http_accuracy=accuracy,
        clean_alarms=len(clean_alarms),
        images_to_alarm=first_alarm,
    )


def drift_state(pod: Pod) -> str:
    """Return what the detector's report calls its state now."""
    return str(_request("GET", f"{pod.detector_url}/report", None)["state"])


def _corrupted_until_alarm(
    pod: Pod, bundle: ModelBundle, images_NHWC: NDArray[np.uint8], before: list[int]
) -> int | None:
    """Return after how many corrupted images, of as many as were sent clean, there was an alarm."""
    sent = clean = len(images_NHWC)
    for number, batch in _batches(images_NHWC):
        _ask(pod, bundle, number, corrupt(batch, CORRUPTION, SEVERITY, seed=number))
        sent += len(batch)
        fresh = _alarms(_report(pod, after=sent))[len(before) :]
        if fresh:
            return fresh[0] - clean
    return None


def _batches(images_NHWC: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    size = max(1, min(BATCH, LARGEST // images_NHWC[0].nbytes))
    for number, start in enumerate(range(0, len(images_NHWC), size)):
        yield number, images_NHWC[start : start + size]


def _offline(bundle: ModelBundle, images_NHWC: NDArray[np.uint8]) -> Truth:
    if bundle.index.task == "segmentation":
        return bundle.segment(images_NHWC).masks_NHW
    return np.asarray(bundle.predict_all(images_NHWC).probabilities_NC.argmax(1))


def _ask(pod: Pod, bundle: ModelBundle, number: int, images_NHWC: NDArray[np.uint8]) -> Truth:
    """Ask for a batch of labels or masks, by v1 and v2 in turn."""
    classes = list(bundle.index.classes)
    if number % 2:
        tensor = {
            "name": "images",
            "datatype": "UINT8",
            "shape": images_NHWC.shape,
            "data": images_NHWC.ravel().tolist(),
        }
        answer = _request("POST", f"{pod.predictor_url}/v2/models/{pod.name}/infer", {"inputs": [tensor]})
        outputs = {output["name"]: output for output in answer["outputs"]}
        if "masks" in outputs:
            return np.array(outputs["masks"]["data"], np.uint8).reshape(outputs["masks"]["shape"])
        return np.array([classes.index(label) for label in outputs["labels"]["data"]])
    instances = [{"b64": base64.b64encode(png(image_HWC)).decode()} for image_HWC in images_NHWC]
    answer = _request("POST", f"{pod.predictor_url}/v1/models/{pod.name}:predict", {"instances": instances})
    if "mask" in answer["predictions"][0]:
        return np.stack([_mask(prediction["mask"]["b64"]) for prediction in answer["predictions"]])
    return np.array([classes.index(prediction["label"]) for prediction in answer["predictions"]])


def _mask(encoded: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))


def _report(pod: Pod, after: int) -> Answer:
    """Return the detector's report once it has seen as many images as were sent: the tap does not wait for it."""
    deadline = time.monotonic() + DETECTOR_CATCHES_UP_WITHIN_S
    while time.monotonic() < deadline:
        report = _request("GET", f"{pod.detector_url}/report", None)
        if report["samples"] >= after:
            return report
        time.sleep(0.02)
    raise SteelyardError(f"the drift detector saw {report['samples']} of {after} images")


def _alarms(report: Answer) -> list[int]:
    return [int(alarm["after_samples"]) for alarm in report["alarms"]]


def _request(method: str, url: str, body: object) -> Answer:
    response = urllib3.request(method, url, body=json.dumps(body) if body else None, timeout=30.0, retries=False)
    if response.status != 200:
        raise SteelyardError(f"{url} answered {response.status}: {response.data.decode(errors='replace')[:300]}")
    content: Answer = response.json()
    return content


def _accuracy(answers: Truth, truth: Truth) -> float:
    """Return the share of images, or of pixels that count, that are answered rightly."""
    counted = truth != IGNORED if truth.ndim == 3 else np.ones(len(truth), np.bool_)
    return float((answers == truth)[counted].mean())
