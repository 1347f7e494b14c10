"""deploy_model: a registered model -> an InferenceService."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Model

from components import images


@dsl.component(base_image=images.BASE, install_kfp_package=False)
def deploy_model(
    model: Input[Model],
    selection: Input[Artifact],
    version: int,
    namespace: str,
    image_prefix: str,
    image_tag: str,
) -> str:
    """Apply the client's InferenceService, wait until it is ready, and point `champion` at its model.

    Args:
        model: the packed bundle, in the object store.
        selection: for whom it was chosen.
        version: under which it is registered.
        namespace: where the InferenceService lives.
        image_prefix: registry and path of the serving images.
        image_tag: their tag.

    Returns:
        The URL at which it answers.
    """
    from pathlib import Path

    from components.inference_service import apply, render, wait_until_ready
    from components.runtime import task
    from steelyard.selection.selection import Selection

    with task() as runtime:
        client = Selection.read(Path(selection.path) / "selection.json").client
        service = render(
            client=client,
            storage_uri=model.uri.replace("minio://", "s3://", 1),  # what KFP calls its own store
            image_prefix=image_prefix,
            image_tag=image_tag,
            namespace=namespace,
        )
        apply(service)
        url = wait_until_ready(service)
        runtime.tracking.promote(client, version)
        return url
