"""The predictor of a segmentation answers with masks, over v1, v2 and gRPC, and its drift detector hears of them."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from numpy.typing import NDArray
from PIL import Image
from serving_kit import CLASSES, SHAPE, Running, b64, noise, png, predictor, write_mask_bundle

from steelyard.bundle import ModelBundle
from steelyard.smoke_test import SmokeTest, SmokeTestFailed
from steelyard.tracking.packaging import save_pyfunc

V1, V2 = "/v1/models/tiny:predict", "/v2/models/tiny/infer"
IMAGES = noise(3)
TENSOR = {"name": "images", "shape": [3, *SHAPE], "datatype": "UINT8", "data": IMAGES.ravel().tolist()}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return ModelBundle(write_mask_bundle(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def server(bundle: ModelBundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with predictor(bundle.folder, tmp_path_factory.mktemp("predictor"), "--drift-socket", "") as running:
        yield running


@pytest.fixture(scope="module")
def expected_NHW(bundle: ModelBundle) -> NDArray[np.uint8]:
    masks_NHW = bundle.segment(IMAGES).masks_NHW
    assert np.unique(masks_NHW).tolist() == [0, 1, 2]
    return masks_NHW


def infer(server: Running, **more: object) -> dict[str, dict[str, Any]]:
    answer: Any = server.post(V2, {"inputs": [TENSOR], **more}).json()
    return {output["name"]: output for output in answer["outputs"]}


def test_v1_answers_with_a_png_and_the_share_of_each_class(server: Running, expected_NHW: NDArray[np.uint8]) -> None:
    answer: Any = server.post(V1, {"instances": [{"b64": b64(png(image_HWC))} for image_HWC in IMAGES]}).json()
    for prediction, mask_HW in zip(answer["predictions"], expected_NHW, strict=True):
        image = Image.open(io.BytesIO(base64.b64decode(prediction["mask"]["b64"])))
        assert (image.format, image.mode) == ("PNG", "L")
        np.testing.assert_array_equal(np.asarray(image), mask_HW)
        assert prediction["shares"] == {name: (mask_HW == place).mean() for place, name in enumerate(CLASSES)}
        assert tuple(prediction["shares"]) == CLASSES


def test_v2_answers_with_masks_and_the_names_of_their_values(server: Running, expected_NHW: NDArray[np.uint8]) -> None:
    found = infer(server)
    assert (found["masks"]["datatype"], found["masks"]["shape"]) == ("UINT8", [3, *SHAPE[:2]])
    np.testing.assert_array_equal(np.reshape(found["masks"]["data"], expected_NHW.shape), expected_NHW)
    assert (found["classes"]["datatype"], found["classes"]["data"]) == ("BYTES", list(CLASSES))
    assert infer(server, outputs=[{"name": "masks"}]).keys() == {"masks"}
    refused = server.post(V2, {"inputs": [TENSOR], "outputs": [{"name": "labels"}]})
    assert (refused.status, refused.json()["error"]) == (
        400,
        "the model has no output 'labels'; it has: masks, classes",
    )


def test_v2_answers_in_binary(server: Running, expected_NHW: NDArray[np.uint8]) -> None:
    wanted = [{"name": "masks", "parameters": {"binary_data": True}}]
    answer = server.post(V2, {"inputs": [TENSOR], "outputs": wanted})
    length = int({name.lower(): value for name, value in answer.headers.items()}["inference-header-content-length"])
    (told,) = json.loads(answer.body[:length])["outputs"]
    assert told["parameters"]["binary_data_size"] == expected_NHW.size
    assert answer.body[length:] == expected_NHW.tobytes()


def test_grpc_answers_and_describes_them(server: Running, expected_NHW: NDArray[np.uint8]) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        told = stub.ModelMetadata(pb.ModelMetadataRequest(name="tiny")).outputs
        assert [(output.name, output.datatype) for output in told] == [("masks", "UINT8"), ("classes", "BYTES")]
        request = pb.ModelInferRequest(model_name="tiny", raw_input_contents=[IMAGES.tobytes()])
        request.inputs.add(name="images", datatype="UINT8", shape=IMAGES.shape)
        answer = stub.ModelInfer(request)
    assert [(output.name, list(output.shape)) for output in answer.outputs] == [
        ("masks", [3, *SHAPE[:2]]),
        ("classes", [len(CLASSES)]),
    ]
    contents = answer.raw_output_contents
    assert (contents[0] if contents else bytes(answer.outputs[0].contents.uint_contents)) == expected_NHW.tobytes()


def test_the_smoke_test_is_of_masks(server: Running, bundle: ModelBundle, tmp_path: Path) -> None:
    SmokeTest.of(bundle, IMAGES).write(tmp_path)
    smoke_test = SmokeTest.read(tmp_path)
    answer = server.post(V2, smoke_test.request()).json()
    smoke_test.check(answer)
    answer["outputs"][0]["data"][0] = (answer["outputs"][0]["data"][0] + 1) % 3  # type: ignore[index]
    with pytest.raises(SmokeTestFailed, match=r"1 of 3 held-out images are answered otherwise than offline, in 0.52%"):
        smoke_test.check(answer)
    with pytest.raises(SmokeTestFailed, match="holds no masks"):
        smoke_test.check({"outputs": [{"name": "masks", "data": [300] * 192}]})


def test_large_images_are_answered_few_at_a_time_and_alike(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bundle.segment(IMAGES)
    monkeypatch.setattr("steelyard.bundle.BATCH_PIXELS", SHAPE[0] * SHAPE[1])
    assert bundle.batch == 1
    parts = bundle.segment(IMAGES)
    np.testing.assert_array_equal(parts.masks_NHW, whole.masks_NHW)
    np.testing.assert_allclose(parts.outputs.probabilities_NC, whole.outputs.probabilities_NC, rtol=1e-6)
    np.testing.assert_allclose(whole.outputs.probabilities_NC.sum(1), 1, rtol=1e-6)


def test_the_registered_model_answers_with_masks_from_mlflow_alone(
    bundle: ModelBundle, expected_NHW: NDArray[np.uint8], tmp_path: Path
) -> None:
    import mlflow.pyfunc
    import pandas as pd

    save_pyfunc(bundle, tmp_path / "model")
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    answers = model.predict(pd.DataFrame({"image": [png(image_HWC) for image_HWC in IMAGES]}))
    masks_NHW = np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in answers["mask"]])
    np.testing.assert_array_equal(masks_NHW, expected_NHW)
