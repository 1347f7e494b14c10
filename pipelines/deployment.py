"""`steelyard deploy`: a registered model into service, from a machine outside the cluster."""

import os
from collections.abc import Callable

from components.cluster.api import connect
from components.cluster.deployment import deploy, through_the_api
from components.cluster.inference_service import InferenceService
from components.images import Images
from steelyard.errors import InputError
from steelyard.tracking.tracking import Tracking


def deploy_registered(
    client: str,
    version: int | None,
    namespace: str,
    replicas: int,
    images: Images,
    timeout_s: float,
    tell: Callable[[str], None],
) -> str:
    """Put a registered model into service, tried before it replaces another, and return its URL.

    Args:
        client: whose model.
        version: of it; the challenger if None.
        namespace: of the InferenceService.
        replicas: how many pods serve at least; 0 for as many as now, or 1.
        images: of the predictor and the drift detector.
        timeout_s: until it must be ready.
        tell: is told how far it is.

    Raises:
        InputError: there is no such model, or MLFLOW_TRACKING_URI does not say where.
        SteelyardError: it does not become ready, or answers otherwise than offline.
    """
    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not tracking_uri:
        raise InputError("say where the model is registered: MLFLOW_TRACKING_URI")
    api, tracking = connect(), Tracking(tracking_uri)
    model = tracking.registered(client, version)
    service = InferenceService(
        name=model.client,
        namespace=namespace,
        storage_uri=model.storage_uri,
        image_prefix=images.prefix,
        image_tag=images.tag,
        replicas=replicas,
    )
    with tracking.deployment(model):
        smoke_test = tracking.fetch_smoke_test(model)
        deploy(service, smoke_test, through_the_api(api), api, timeout_s=timeout_s, tell=tell)
    return service.url
