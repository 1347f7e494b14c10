"""A model is tried before it replaces another. KServe and the predictor are played over HTTP; the rest is real."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from components.cluster import deployment
from components.cluster.api import ClusterRefused
from components.cluster.deployment import deploy, directly, through_the_api
from components.cluster.inference_service import InferenceService, NotReady
from steelyard.smoke_test import SmokeTest, SmokeTestFailed
from tests.fake_cluster import Cluster

SMOKE_TEST = SmokeTest(
    images_NHWC=np.zeros((2, 1, 1, 1), np.uint8), answers=np.array([[0.25, 0.75], [1, 0]], np.float32)
)


def acme(uri: str = "s3://models/42", name: str = "acme") -> InferenceService:
    return InferenceService(
        name=name, namespace="steelyard", storage_uri=uri, image_prefix="steelyard", image_tag="0.1.0"
    )


def answering(data: list[float]) -> Callable[[str, Any], Any]:
    return lambda name, body: {"outputs": [{"name": "probabilities", "data": data}]}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "BETWEEN_S", 0.0)


@pytest.fixture
def working(cluster: Cluster) -> Cluster:
    """A cluster in which everything becomes ready and answers rightly."""

    def kserve(name: str) -> None:
        applied = cluster.objects[acme(name=name).path]
        variables = applied["spec"]["predictor"]["containers"][0]["env"]
        (uri,) = (variable["value"] for variable in variables if variable["name"] == "STORAGE_URI")
        cluster.deploy(acme(uri, name), ready=True)

    cluster.kserve, cluster.predictor = kserve, answering([0.25, 0.75, 1, 0])
    return cluster


def run(service: InferenceService, api: Any, told: list[str] | None = None) -> None:
    tell = told.append if told is not None else lambda _: None
    deploy(service, SMOKE_TEST, through_the_api(api), api, timeout_s=0.1, tell=tell)


def written(cluster: Cluster) -> list[tuple[str, str]]:
    return [(method, path.rpartition("/")[2]) for method, path, *_ in cluster.requests if method in ("PATCH", "DELETE")]


def test_a_model_is_tried_under_another_name_then_put_in_place_and_asked(working: Cluster, api: Any) -> None:
    told: list[str] = []
    run(acme(), api, told)
    assert written(working) == [("PATCH", "acme-trial"), ("DELETE", "acme-trial"), ("PATCH", "acme")]
    assert acme(name="acme-trial").path not in working.objects
    assert told == [
        f"{name}: 2 held-out images are answered as offline, bit for bit" for name in ("acme-trial", "acme")
    ]


def test_the_same_again_needs_no_trial(working: Cluster, api: Any) -> None:
    run(acme(), api)
    before = working.objects[acme().path]["spec"]
    working.requests.clear()
    run(acme(), api)
    assert written(working) == []
    assert working.objects[acme().path]["spec"] == before


def test_a_model_that_answers_otherwise_never_replaces_the_one_that_serves(working: Cluster, api: Any) -> None:
    run(acme(), api)
    working.predictor = answering([0.25, 0.75, 0.5, 0.5])
    with pytest.raises(SmokeTestFailed, match="1 of 2 held-out images"):
        run(acme("s3://models/43"), api)
    assert "s3://models/42" in str(working.objects[acme().path])
    assert acme(name="acme-trial").path not in working.objects


def test_a_model_that_does_not_start_never_replaces_the_one_that_serves(working: Cluster, api: Any) -> None:
    run(acme(), api)
    working.kserve = lambda name: None
    working.without_pods(acme(name="acme-trial"))
    with pytest.raises(NotReady, match="KServe has not made its pods yet"):
        run(acme("s3://models/43"), api)
    assert "s3://models/42" in str(working.objects[acme().path])
    assert acme(name="acme-trial").path not in working.objects


def test_what_served_before_is_put_back_where_the_new_model_fails_only_in_its_place(working: Cluster, api: Any) -> None:
    run(acme(), api)
    before = working.objects[acme().path]["spec"]
    answers = {"acme-trial": [0.25, 0.75, 1, 0], "acme": [0.25, 0.75, 0.5, 0.5]}
    working.predictor = lambda name, body: answering(answers[name])(name, body)
    with pytest.raises(SmokeTestFailed):
        run(acme("s3://models/43"), api)
    assert working.objects[acme().path]["spec"] == before


def test_a_first_model_that_fails_in_its_place_is_taken_away(working: Cluster, api: Any) -> None:
    answers = {"acme-trial": [0.25, 0.75, 1, 0], "acme": [0.25, 0.75, 0.5, 0.5]}
    working.predictor = lambda name, body: answering(answers[name])(name, body)
    with pytest.raises(SmokeTestFailed):
        run(acme(), api)
    assert acme().path not in working.objects


def test_a_service_that_leads_nowhere_for_a_moment_is_asked_again(working: Cluster, api: Any) -> None:
    answers = [{"error": "no endpoints"}, {"error": "no endpoints"}]
    right = working.predictor
    working.predictor = lambda name, body: answers.pop() if answers else right(name, body)
    run(acme(), api)
    assert answers == []


def test_replicas_that_are_not_given_stay_as_they_are(working: Cluster, api: Any) -> None:
    def replicas() -> int:
        return int(working.objects[acme().path]["spec"]["predictor"]["minReplicas"])

    run(replace(acme(), replicas=0), api)
    assert replicas() == 1
    working.objects[acme().path]["spec"]["predictor"]["minReplicas"] = 2
    with pytest.raises(NotReady):  # the cluster played here makes one pod
        run(replace(acme("s3://models/43"), replicas=0), api)
    patches = [body for method, path, body in working.bodies if method == "PATCH" and path == acme().path]
    assert patches[-2]["spec"]["predictor"]["minReplicas"] == 2


def test_a_refused_trial_is_told_in_the_webhook_s_words(working: Cluster, api: Any) -> None:
    working.refusal = "admission webhook denied the request: no"
    with pytest.raises(ClusterRefused, match="denied the request: no"):
        run(acme(), api)


def test_a_service_that_can_t_be_reached_fails_the_smoke_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InferenceService, "url", "http://127.0.0.1:1")
    with pytest.raises(SmokeTestFailed, match="does not answer"):
        directly(acme(), "/v2/models/acme/infer", {})
