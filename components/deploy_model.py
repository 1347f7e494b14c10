"""deploy_model: a registered model -> an InferenceService that answers as it did offline."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Model

from components import images


@dsl.component(base_image=images.BASE, install_kfp_package=False)
def deploy_model(
    model: Input[Model],
    selection: Input[Artifact],
    version: int,
    namespace: str,
    replicas: int,
    image_prefix: str,
    image_tag: str,
) -> str:
    """Put the model into service for its client, try it out there, and point `champion` at it.

    Args:
        model: the packed bundle.
        selection: for whom it was chosen.
        version: under which it is registered.
        namespace: where the InferenceService lives.
        replicas: how many pods serve at least; 0 for as many as now, or 1.
        image_prefix: registry and path of the serving images.
        image_tag: their tag.

    Returns:
        The URL at which it answers.
    """
    from pathlib import Path

    from components.cluster.api import connect
    from components.cluster.deployment import deploy, directly
    from components.cluster.inference_service import InferenceService
    from components.runtime import task
    from steelyard.selection.selection import Selection
    from steelyard.smoke_test import SmokeTest

    with task() as runtime:
        client = Selection.read(Path(selection.path) / "selection.json").client
        registered = runtime.tracking.registered(client, version)
        service = InferenceService(
            name=client,
            namespace=namespace,
            storage_uri=registered.storage_uri,
            image_prefix=image_prefix,
            image_tag=image_tag,
            replicas=replicas,
        )
        with runtime.tracking.deployment(registered):
            deploy(service, SmokeTest.read(Path(model.path)), directly, connect(), tell=runtime.tell)
        runtime.conclude(f"{client} is served at {service.url}")
        return service.url
