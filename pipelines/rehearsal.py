"""The winner, served as in its pod: the test split over HTTP, then the same images corrupted until the alarm."""

import base64
import io
import json
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
from steelyard.drift.corruptions import corrupt
from steelyard.errors import SteelyardError

CORRUPTION = "gaussian_noise"
SEVERITY = 3
BATCH = 10
DETECTOR_CATCHES_UP_WITHIN_S = 30.0

Labels = list[str]
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
    images_NHWC, labels_N = dataset.head("test"), dataset.labels_N("test")
    truth = [bundle.index.classes[label] for label in labels_N]
    offline = [bundle.index.classes[best] for best in bundle.predict_all(images_NHWC).probabilities_NC.argmax(1)]
    answers = [label for batch in _batches(images_NHWC) for label in _classify(pod, *batch)]
    clean_alarms = _alarms(_report(pod, after=len(truth)))
    tell(f"clean stream: {len(truth)} images, accuracy {_accuracy(answers, truth):.4f}, {len(clean_alarms)} alarms")
    first_alarm = _stream_until_alarm(pod, corrupt(images_NHWC, CORRUPTION, SEVERITY, seed=0), len(truth), clean_alarms)
    tell(f"corrupted stream ({CORRUPTION}): " + (f"alarm after {first_alarm} images" if first_alarm else "no alarm"))
    return Rehearsal(
        images=len(truth),
        offline_accuracy=_accuracy(offline, truth),
        http_accuracy=_accuracy(answers, truth),
        clean_alarms=len(clean_alarms),
        images_to_alarm=first_alarm,
    )


def _stream_until_alarm(pod: Pod, images_NHWC: NDArray[np.uint8], sent: int, before: list[int]) -> int | None:
    clean = sent
    for number, batch in _batches(images_NHWC):
        _classify(pod, number, batch)
        sent += len(batch)
        fresh = _alarms(_report(pod, after=sent))[len(before) :]
        if fresh:
            return fresh[0] - clean
    return None


def _batches(images_NHWC: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    for number, start in enumerate(range(0, len(images_NHWC), BATCH)):
        yield number, images_NHWC[start : start + BATCH]


def _classify(pod: Pod, number: int, images_NHWC: NDArray[np.uint8]) -> Labels:
    """Ask for a batch of labels, by v1 and v2 in turn."""
    if number % 2:
        tensor = {
            "name": "images",
            "datatype": "UINT8",
            "shape": images_NHWC.shape,
            "data": images_NHWC.ravel().tolist(),
        }
        answer = _request("POST", f"{pod.predictor_url}/v2/models/{pod.name}/infer", {"inputs": [tensor]})
        return next(list(output["data"]) for output in answer["outputs"] if output["name"] == "labels")
    instances = [{"b64": base64.b64encode(_png(image_HWC)).decode()} for image_HWC in images_NHWC]
    answer = _request("POST", f"{pod.predictor_url}/v1/models/{pod.name}:predict", {"instances": instances})
    return [prediction["label"] for prediction in answer["predictions"]]


def _png(image_HWC: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_HWC.squeeze()).save(buffer, "PNG")
    return buffer.getvalue()


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


def _accuracy(answers: Labels, truth: Labels) -> float:
    return sum(a == t for a, t in zip(answers, truth, strict=True)) / len(truth)
