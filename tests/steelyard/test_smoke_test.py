"""The smoke test accepts the offline answers to the bit and nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest

from steelyard.bundle import ModelBundle
from steelyard.data.dataset import Dataset
from steelyard.errors import ArtifactError
from steelyard.smoke_test import IMAGES, Json, SmokeTest, SmokeTestFailed


@pytest.fixture
def smoke_test(bundle: ModelBundle, dataset: Dataset) -> SmokeTest:
    return SmokeTest.of(bundle, dataset.head("test"))


def answer(smoke_test: SmokeTest, bundle: ModelBundle) -> Json:
    """Answer as a model server does: through JSON."""
    request = json.loads(json.dumps(smoke_test.request()))
    (tensor,) = request["inputs"]
    images_NHWC = np.array(tensor["data"], dtype=np.uint8).reshape(tensor["shape"])
    probabilities_NC = bundle.predict(images_NHWC).probabilities_NC
    output = {"name": "probabilities", "shape": probabilities_NC.shape, "data": probabilities_NC.ravel().tolist()}
    found: Json = json.loads(json.dumps({"outputs": [output]}))
    return found


def test_the_same_model_passes(smoke_test: SmokeTest, bundle: ModelBundle, tmp_path: Path) -> None:
    smoke_test.write(tmp_path)
    read = SmokeTest.read(tmp_path)
    assert len(read.images_NHWC) == IMAGES
    read.check(answer(read, bundle))


def test_one_bit_makes_it_fail(smoke_test: SmokeTest, bundle: ModelBundle) -> None:
    answered = answer(smoke_test, bundle)
    output = answered["outputs"][0]  # type: ignore[index]
    output["data"][-1] = float(np.nextafter(np.float32(output["data"][-1]), np.float32(2)))
    with pytest.raises(SmokeTestFailed, match="1 of 16 held-out images are answered otherwise than offline"):
        smoke_test.check(answered)


@pytest.mark.parametrize(
    "answered",
    [
        {},
        {"error": "no"},
        {"outputs": [{"name": "labels", "data": ["a"]}]},
        {"outputs": [{"name": "probabilities", "data": [0.5]}]},
        {"outputs": [{"name": "probabilities", "data": None}]},
    ],
)
def test_an_answer_without_the_probabilities_makes_it_fail(smoke_test: SmokeTest, answered: Json) -> None:
    with pytest.raises(SmokeTestFailed, match="holds no probabilities"):
        smoke_test.check(answered)


def test_a_bundle_without_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"smoke\.npz: is missing"):
        SmokeTest.read(tmp_path)
