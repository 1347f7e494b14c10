"""A model goes into service: tried beside the one that serves, and only then in its place."""

import json
import time
from collections.abc import Callable
from dataclasses import replace

import urllib3

from components.cluster.api import Api, ClusterRefused, request
from components.cluster.inference_service import (
    InferenceService,
    apply,
    delete,
    is_serving,
    put_back,
    read,
    wait_until_ready,
)
from steelyard.contract import TRIAL
from steelyard.errors import SteelyardError
from steelyard.smoke_test import Json, SmokeTest, SmokeTestFailed

READY_WITHIN_S = 600.0
ANSWERS_WITHIN_S = 30
ATTEMPTS, BETWEEN_S = 3, 2.0

Ask = Callable[[InferenceService, str, Json], Json]


def deploy(
    service: InferenceService,
    smoke_test: SmokeTest,
    ask: Ask,
    api: Api,
    *,
    timeout_s: float = READY_WITHIN_S,
    tell: Callable[[str], None] = print,
) -> None:
    """Put a model into service, if it answers through its Service as it did offline.

    A new model is first served under a name of its own, so that one which does not start or answers otherwise never
    takes the place of the one that serves. What is in place already is only asked again.

    Args:
        service: what is to serve; 0 replicas for as many as now.
        smoke_test: held-out images and their offline answers.
        ask: how to reach a Service: `directly` in the cluster, `through_the_api` from outside.
        api: a connection.
        timeout_s: how long each InferenceService may take to become ready.
        tell: gets progress, and why it is not ready.

    Raises:
        NotReady: it did not become ready; what served before still does.
        SmokeTestFailed: it answers otherwise than offline; what served before still does.
        ClusterRefused: the API server or KServe's webhook refused it.
    """
    before = read(service, api)
    if not service.replicas:
        service = replace(service, replicas=before["spec"]["predictor"]["minReplicas"] if before else 1)
    if is_serving(service, api):
        tell(f"{service.name}: is in place already")
        return _try_out(service, smoke_test, ask, tell)
    trial = replace(service, name=f"{service.name}{TRIAL}", replicas=1)
    try:
        _put_in_place(trial, smoke_test, ask, timeout_s, tell, api)
    finally:
        delete(trial, api)
    try:
        _put_in_place(service, smoke_test, ask, timeout_s, tell, api)
    except SteelyardError:
        if before:
            put_back(service, before, api)
        else:
            delete(service, api)
        raise


def directly(service: InferenceService, path: str, body: Json) -> Json:
    """Ask from inside the cluster."""
    try:
        response = urllib3.request("POST", service.url + path, json=body, timeout=ANSWERS_WITHIN_S, retries=False)
    except urllib3.exceptions.HTTPError as error:
        raise SmokeTestFailed(f"{service.url} does not answer: {error}") from None
    if response.status != 200:
        raise SmokeTestFailed(f"{service.url}{path} answered {response.status}: {response.data[:200].decode()}")
    answer: Json = json.loads(response.data)
    return answer


def through_the_api(api: Api) -> Ask:
    """Ask from outside, by the API server's proxy: what `kubectl` may do is enough."""

    def ask(service: InferenceService, path: str, body: Json) -> Json:
        proxy = f"/api/v1/namespaces/{service.namespace}/services/{service.name}-predictor:80/proxy"
        answer: Json = request(api, "POST", proxy + path, body=body)
        return answer

    return ask


def _put_in_place(
    service: InferenceService,
    smoke_test: SmokeTest,
    ask: Ask,
    timeout_s: float,
    tell: Callable[[str], None],
    api: Api,
) -> None:
    apply(service, api)
    wait_until_ready(service, timeout_s=timeout_s, tell=tell, api=api)
    _try_out(service, smoke_test, ask, tell)


def _try_out(service: InferenceService, smoke_test: SmokeTest, ask: Ask, tell: Callable[[str], None]) -> None:
    """Ask more than once: for a moment after a rollout a Service may still lead to a pod that is going, or to none."""
    for attempt in range(ATTEMPTS):
        try:
            smoke_test.check(ask(service, f"/v2/models/{service.name}/infer", smoke_test.request()))
            break
        except (SmokeTestFailed, ClusterRefused):
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(BETWEEN_S)
    tell(f"{service.name}: {len(smoke_test.images_NHWC)} held-out images are answered as offline, bit for bit")
