"""The predictor answers over v1, v2 and gRPC, and every mistake of a client with one clear sentence."""

import base64
import http.client
import json
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from numpy.typing import NDArray
from serving_kit import CLASSES, SHAPE, VERSION, Answer, Running, b64, listening, noise, png, predictor, write_bundle

from steelyard.bundle import ModelBundle

V1, V2 = "/v1/models/tiny:predict", "/v2/models/tiny/infer"
JSON_LENGTH = "Inference_Header_Content_Length"
IMAGES = noise(3)


@pytest.fixture(scope="module")
def server(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("predictor")
    with predictor(
        bundle_folder, folder, "--max-body-mib", "1", "--max-images", "100", "--drift-socket", ""
    ) as running:
        yield running


@pytest.fixture(scope="module")
def expected_NC(bundle_folder: Path) -> NDArray[np.float32]:
    return ModelBundle(bundle_folder).predict(IMAGES).probabilities_NC


@pytest.fixture
def stub(server: Running) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield GRPCInferenceServiceStub(channel)


def tensor(**changes: object) -> dict[str, Any]:
    """A v2 JSON request for IMAGES, with its input changed; None takes a key away."""
    content = {"name": "images", "shape": [3, *SHAPE], "datatype": "UINT8", "data": IMAGES.ravel().tolist()} | changes
    return {"inputs": [{key: value for key, value in content.items() if value is not None}]}


def binary(raw: bytes, **changes: object) -> tuple[bytes, str]:
    """A v2 request with the input behind the JSON, and the length of the JSON."""
    request = tensor(data=None, **{"parameters": {"binary_data_size": len(raw)}} | changes)
    json_part = json.dumps(request | {"parameters": {"binary_data_output": True}}).encode()
    return json_part + raw, str(len(json_part))


def prefixed(parts: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def outputs_of(answer: Answer) -> dict[str, list[Any]]:
    assert answer.status == 200, answer.body
    return {output["name"]: output["data"] for output in answer.json()["outputs"]}


def test_v1_answers_label_and_probabilities(server: Running, expected_NC: NDArray[np.float32]) -> None:
    instances = [{"b64": b64(png(IMAGES[0]))}, {"image_bytes": {"b64": b64(png(IMAGES[1]))}}]
    answer = server.post(V1, {"instances": instances}, Content_Type="application/json; charset=utf-8")
    assert answer.status == 200
    assert answer.headers["x-model-version"] == VERSION
    content = answer.json()
    assert list(content) == ["predictions"]
    for prediction, row_C in zip(content["predictions"], expected_NC, strict=False):
        assert prediction["label"] == CLASSES[row_C.argmax()]
        assert list(prediction["probabilities"].values()) == pytest.approx(row_C, abs=1e-6)


@pytest.mark.parametrize("nested", [False, True])
def test_v2_answers_tensors_in_json(server: Running, expected_NC: NDArray[np.float32], nested: bool) -> None:
    data = IMAGES.tolist() if nested else IMAGES.ravel().tolist()
    answer = server.post(V2, tensor(data=data) | {"id": "a-1"})
    content = answer.json()
    assert (content["id"], content["model_name"], content["model_version"]) == ("a-1", "tiny", VERSION)
    assert outputs_of(answer)["probabilities"] == pytest.approx(expected_NC.ravel(), abs=1e-6)
    assert outputs_of(answer)["labels"] == [CLASSES[i] for i in expected_NC.argmax(axis=1)]


def test_v2_answers_encoded_images_in_json(server: Running, expected_NC: NDArray[np.float32]) -> None:
    request = tensor(datatype="BYTES", shape=[3], data=[b64(png(image)) for image in IMAGES])
    assert outputs_of(server.post(V2, request))["probabilities"] == pytest.approx(expected_NC.ravel(), abs=1e-6)


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("media_type", ["application/octet-stream", "application/json"])
def test_v2_takes_and_gives_bytes_behind_the_json(
    server: Running, expected_NC: NDArray[np.float32], encoded: bool, media_type: str
) -> None:
    if encoded:
        raw = prefixed([png(image) for image in IMAGES])
        body, length = binary(raw, datatype="BYTES", shape=[3])
    else:
        body, length = binary(IMAGES.tobytes())
    answer = server.post(V2, body, **{JSON_LENGTH: length}, Content_Type=media_type)
    assert answer.status == 200, answer.body
    json_length = int(answer.headers["inference-header-content-length"])
    first, second = json.loads(answer.body[:json_length])["outputs"]
    raw = answer.body[json_length:]
    size = first["parameters"]["binary_data_size"]
    assert np.frombuffer(raw[:size], "<f4").reshape(first["shape"]) == pytest.approx(expected_NC, abs=1e-6)
    assert raw[size:] == prefixed([CLASSES[i].encode() for i in expected_NC.argmax(axis=1)])
    assert second["parameters"]["binary_data_size"] == len(raw) - size


def test_v2_gives_only_the_outputs_asked_for(server: Running) -> None:
    assert list(outputs_of(server.post(V2, tensor() | {"outputs": [{"name": "labels"}]}))) == ["labels"]


def test_v2_answers_at_the_address_with_its_version(server: Running) -> None:
    assert server.post(f"/v2/models/tiny/versions/{VERSION}/infer", tensor()).status == 200
    assert server.post("/v2/models/tiny/versions/7/infer", tensor()).status == 404


def test_metadata_readiness_and_metrics(server: Running) -> None:
    metadata = server.get("/v2/models/tiny").json()
    assert metadata["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, *SHAPE]}]
    assert [output["name"] for output in metadata["outputs"]] == ["probabilities", "labels"]
    for path in ("/", "/v1/models/tiny", "/v2/health/live", "/v2/health/ready", "/v2/models/tiny/ready"):
        assert server.get(path).status == 200
    before = server.metric("predictor_images_total")
    server.post(V2, tensor())
    assert server.metric("predictor_images_total") == before + 3
    assert server.metric("predictor_requests_total") > 0


def infer_request(**changes: object) -> pb.ModelInferRequest:
    content = {"name": "images", "datatype": "UINT8", "shape": [3, *SHAPE]} | changes
    raw = content.pop("raw", IMAGES.tobytes())
    return pb.ModelInferRequest(model_name="tiny", inputs=[content], raw_input_contents=[] if raw is None else [raw])


def test_grpc_answers_raw_contents(stub: GRPCInferenceServiceStub, expected_NC: NDArray[np.float32]) -> None:
    answer = stub.ModelInfer(infer_request())
    assert (answer.model_name, answer.model_version) == ("tiny", VERSION)
    assert [output.name for output in answer.outputs] == ["probabilities", "labels"]
    assert np.frombuffer(answer.raw_output_contents[0], "<f4") == pytest.approx(expected_NC.ravel(), abs=1e-6)
    assert answer.raw_output_contents[1] == prefixed([CLASSES[i].encode() for i in expected_NC.argmax(axis=1)])


def test_grpc_answers_typed_contents(stub: GRPCInferenceServiceStub, expected_NC: NDArray[np.float32]) -> None:
    contents = pb.InferTensorContents(uint_contents=IMAGES.ravel().tolist())
    answer = stub.ModelInfer(infer_request(raw=None, contents=contents))
    assert list(answer.outputs[0].contents.fp32_contents) == pytest.approx(expected_NC.ravel(), abs=1e-6)
    encoded = pb.InferTensorContents(bytes_contents=[png(image) for image in IMAGES])
    answer = stub.ModelInfer(infer_request(raw=None, datatype="BYTES", shape=[3], contents=encoded))
    assert list(answer.outputs[0].contents.fp32_contents) == pytest.approx(expected_NC.ravel(), abs=1e-6)


def test_grpc_tells_readiness_and_metadata(stub: GRPCInferenceServiceStub) -> None:
    assert stub.ServerReady(pb.ServerReadyRequest()).ready
    assert stub.ModelReady(pb.ModelReadyRequest(name="tiny")).ready
    assert list(stub.ModelMetadata(pb.ModelMetadataRequest(name="tiny")).inputs[0].shape) == [-1, *SHAPE]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shape": [3, 9, 9, 1]}, "must have shape"),
        ({"shape": [-1, *SHAPE]}, "must have shape"),
        ({"shape": [2, *SHAPE]}, "takes 128 bytes, not 192"),
        ({"name": "pixels"}, "the model has no input 'pixels'"),
        ({"datatype": "FP32"}, "must be of datatype UINT8 or BYTES"),
        ({"datatype": "NONSENSE"}, "invalid content type"),
        ({"datatype": "BYTES", "shape": [1], "raw": b"\xff\xff\xff\xffshort"}, "4-byte length"),
        ({"datatype": "BYTES", "shape": [1], "raw": prefixed([b"no image"])}, "is not an image"),
        ({"raw": None, "contents": pb.InferTensorContents(uint_contents=[1, 2])}, "must hold 192 numbers"),
        ({"raw": None, "contents": pb.InferTensorContents(uint_contents=[256] * 192)}, "integers from 0 to 255"),
    ],
)
def test_grpc_mistakes_are_invalid_arguments(
    stub: GRPCInferenceServiceStub, changes: dict[str, object], sentence: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(infer_request(**changes))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert sentence in caught.value.details()


def test_nobody_unloads_the_model(server: Running, stub: GRPCInferenceServiceStub) -> None:
    assert server.post("/v2/repository/models/tiny/unload", {}).status == 400
    with pytest.raises(grpc.RpcError, match="is fixed"):
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="tiny"))
    assert server.get("/v2/models/tiny/ready").status == 200


PNG = png(IMAGES[0])


def instances(*values: object) -> dict[str, object]:
    return {"instances": list(values)}


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"", 400, "is not JSON"),
        (b'{"instances": [', 400, "is not JSON"),
        (b"\xff\xfe", 400, "is not JSON"),
        (b"[" * 100_000, 400, "is not JSON"),
        (b"[1]", 400, "must be a JSON object"),
        ({}, 400, "has no 'instances'"),
        ({"instances": []}, 400, "at least one image"),
        ({"instances": None}, 400, "must be a list"),
        ({"instances": {"b64": "x"}}, 400, "must be a list"),
        (instances(None), 400, "instances[0] must be"),
        (instances("text"), 400, "instances[0] must be"),
        (instances([1, 2]), 400, "instances[0] must be"),
        (instances({"image_bytes": "x"}), 400, "instances[0] must be"),
        (instances({"b64": b64(PNG)}, {"b64": "!?"}), 400, "instances[1] is not base64"),
        (instances({"b64": 7}), 400, "instances[0] is not base64"),
        (instances({"b64": "ä"}), 400, "instances[0] is not base64"),
        (instances({"b64": base64.encodebytes(PNG).decode()}), 400, "instances[0] is not base64"),
        (instances({"b64": ""}), 400, "instances[0] is empty"),
        (instances({"b64": b64(b"hello")}), 400, "instances[0] is not an image"),
        (instances({"b64": b64(PNG[:50])}), 400, "instances[0] is damaged or cut short"),
        (instances(*[{"b64": b64(PNG)}] * 101), 413, "holds 101 images; at most 100"),
    ],
)
def test_v1_mistakes_get_one_sentence(
    server: Running, body: bytes | dict[str, object], status: int, sentence: str
) -> None:
    answer = server.post(V1, body)
    assert answer.status == status
    assert list(answer.json()) == ["error"]
    assert sentence in answer.json()["error"]


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({}, "'inputs' must be a list with exactly one tensor"),
        ({"inputs": []}, "exactly one tensor"),
        ({"inputs": {}}, "exactly one tensor"),
        ({"inputs": [1]}, "exactly one tensor"),
        ({"inputs": tensor()["inputs"] * 2}, "exactly one tensor"),
        (tensor(name=None), "inputs[0] has no 'name'"),
        (tensor(shape=None), "inputs[0] has no 'shape'"),
        (tensor(datatype=None), "inputs[0] has no 'datatype'"),
        (tensor(name="pixels"), "the model has no input 'pixels'"),
        (tensor(datatype="FP32"), "must be of datatype UINT8 or BYTES"),
        (tensor(datatype=7), "must be of datatype UINT8 or BYTES"),
        (tensor(shape=[3, 64]), "must have shape [n, 8, 8, 1]"),
        (tensor(shape=[3, 8, 8, 3]), "must have shape [n, 8, 8, 1]"),
        (tensor(shape=[-1, *SHAPE]), "must have shape"),
        (tensor(shape=[0, *SHAPE], data=[]), "must have shape"),
        (tensor(shape=[True, *SHAPE]), "must have shape"),
        (tensor(shape=[3.0, *SHAPE]), "must have shape"),
        (tensor(shape=["3", *SHAPE]), "must have shape"),
        (tensor(shape="3"), "must have shape"),
        (tensor(data=None), "'data' must hold 192 numbers"),
        (tensor(data=[]), "'data' must hold 192 numbers"),
        (tensor(data=[1, 2]), "'data' must hold 192 numbers"),
        (tensor(data=[[1], [2, 3]]), "'data' must hold 192 numbers"),
        (tensor(data="text"), "'data' must hold 192 numbers"),
        (tensor(data=[None] * 192), "integers from 0 to 255"),
        (tensor(data=[0.5] * 192), "integers from 0 to 255"),
        (tensor(data=[True] * 192), "integers from 0 to 255"),
        (tensor(data=["1"] * 192), "integers from 0 to 255"),
        (tensor(data=[256] * 192), "integers from 0 to 255"),
        (tensor(data=[-1] * 192), "integers from 0 to 255"),
        (tensor(datatype="BYTES", shape=[1], data=["!"]), "data[0] is not base64"),
        (tensor(datatype="BYTES", shape=[1], data=[b64(b"x")]), "data[0] is not an image"),
        (tensor(datatype="BYTES", shape=[2], data=["x"]), "'data' must hold 2 base64 string(s)"),
        (tensor(parameters=[]) | {"id": 7}, "'id' must be a string"),
        (tensor(parameters="x"), "'parameters' of inputs[0] must be an object"),
        (tensor(parameters={"binary_data_size": 192}), "'binary_data_size' is 192, but 0 bytes follow"),
        (tensor() | {"outputs": [{"name": "logits"}]}, "the model has no output 'logits'"),
        (tensor() | {"outputs": [{}]}, "the model has no output 'None'"),
        (tensor() | {"outputs": "labels"}, "'outputs' must be a list"),
    ],
)
def test_v2_mistakes_get_one_sentence(server: Running, request_: dict[str, object], sentence: str) -> None:
    answer = server.post(V2, request_)
    assert answer.status == 400
    assert list(answer.json()) == ["error"]
    assert sentence in answer.json()["error"]


RAW = IMAGES.tobytes()


@pytest.mark.parametrize(
    ("body", "length", "sentence"),
    [
        (
            *binary(RAW, parameters={"binary_data_size": 10**9}),
            "'binary_data_size' is 1000000000, but 192 bytes follow",
        ),
        (*binary(RAW, parameters={"binary_data_size": -1}), "'binary_data_size' is -1"),
        (*binary(RAW, parameters={"binary_data_size": "192"}), "'binary_data_size' is 192"),
        (*binary(RAW, parameters={}), "192 bytes follow the JSON"),
        (*binary(RAW[:-1]), "takes 192 bytes, not 191"),
        (*binary(RAW, datatype="BYTES", shape=[3]), "4-byte length"),
        (*binary(prefixed([PNG] * 4), datatype="BYTES", shape=[3]), "are not 3 encoded image(s)"),
        (*binary(prefixed([PNG])[:-1], datatype="BYTES", shape=[1]), "are not 1 encoded image(s)"),
        (binary(RAW)[0], "1000000", "must be the length of the JSON part"),
        (binary(RAW)[0], "-1", "must be the length of the JSON part"),
        (binary(RAW)[0], "many", "must be the length of the JSON part"),
        (binary(RAW)[0], "10", "is not JSON"),
    ],
)
def test_v2_binary_mistakes_get_one_sentence(server: Running, body: bytes, length: str, sentence: str) -> None:
    answer = server.post(V2, body, **{JSON_LENGTH: length})
    assert answer.status == 400
    assert sentence in answer.json()["error"]


def test_wrong_addresses_and_media_types_get_one_sentence(server: Running) -> None:
    found = [
        (server.post(V1, {"instances": []}, Content_Type="text/plain"), 415),
        (server.post(V2, tensor(), Content_Type="application/x-www-form-urlencoded"), 415),
        (server.post(V2, tensor(), Content_Type="application/octet-stream"), 415),
        (server.post("/v1/models/other:predict", {}), 404),
        (server.post("/v2/models/other/infer", {}), 404),
        (server.post("/v1/models/tiny:explain", {}), 404),
        (server.get("/v2/models/other"), 404),
        (server.get("/nowhere"), 404),
        (server.get(V2), 405),
    ]
    for answer, status in found:
        assert answer.status == status
        assert list(answer.json()) == ["error"]


def test_a_body_over_the_limit_gets_413_and_the_connection_lives_on(server: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20)
    large = bytes(8 * 2**20)
    for body, chunked in [(large, False), (iter([large[: 2**20]] * 8), True)]:
        connection.request("POST", V1, body, {"Content-Type": "application/json"}, encode_chunked=chunked)
        response = connection.getresponse()
        assert response.status == 413
        assert b"larger than 1048576 bytes" in response.read()
    socket_before = connection.sock
    connection.request("POST", V2, json.dumps(tensor()), {"Content-Type": "application/json"})
    assert connection.getresponse().status == 200
    assert connection.sock is socket_before


def test_no_mistake_costs_a_connection(server: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20)
    socket_before = None
    for path, body in [(V1, "{"), (V2, "{}"), (V1, '{"instances": [1]}'), (V2, json.dumps(tensor(data=[None] * 192)))]:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert (response.status, bool(response.read())) == (400, True)
        assert socket_before in (None, connection.sock)
        socket_before = connection.sock


def test_a_client_that_leaves_harms_nobody(server: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port)
    connection.putrequest("POST", V1)
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", "100000")
    connection.endheaders(b'{"instances"')
    connection.close()
    assert server.post(V2, tensor()).status == 200


def test_liveness_does_not_wait_for_a_long_computation(server: Running) -> None:
    large = png(noise(1).repeat(300, axis=1).repeat(300, axis=2)[0])
    body = {"instances": [{"b64": b64(large)}] * 8}
    worker = threading.Thread(target=server.post, args=(V1, body))
    worker.start()
    slowest = 0.0
    asked = 0
    while worker.is_alive():
        start = time.monotonic()
        assert server.get("/v2/health/live").status == 200
        slowest, asked = max(slowest, time.monotonic() - start), asked + 1
    worker.join()
    assert asked > 3
    assert slowest < 0.5


def test_sigterm_first_drains_and_then_ends_cleanly(bundle_folder: Path, tmp_path: Path) -> None:
    with predictor(bundle_folder, tmp_path, "--drift-socket", "", "--drain-s", "1.5") as running:
        running.process.terminate()
        time.sleep(0.5)
        assert running.get("/v2/models/tiny/ready").status == 503
        assert running.get("/v2/health/ready").status == 503
        assert running.get("/v2/health/live").status == 200
        assert running.post(V2, tensor()).status == 200
        with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
            assert GRPCInferenceServiceStub(channel).ModelInfer(infer_request()).model_name == "tiny"
        assert running.process.wait(10) == 0


def test_grpc_port_0_is_no_grpc(bundle_folder: Path, tmp_path: Path) -> None:
    with predictor(bundle_folder, tmp_path, grpc_port=0) as running:
        assert listening(running.process.pid) == {("0100007F", running.http_port)}
        assert running.stop(within_s=20) == 0


def test_a_changed_model_is_not_served(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "tiny")
    with (folder / "1" / "model.onnx").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(AssertionError, match=r"differs from the checksum in bundle\.json"), predictor(folder, tmp_path):
        pass
