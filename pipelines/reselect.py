"""The graph for a new client: recall -> select -> register -> deploy. Nothing is trained."""

from kfp import dsl
from kfp.dsl import Dataset
from kfp.dsl.base_component import BaseComponent

from components.images import RELEASE, Images
from components.recall_models import recall_models
from pipelines.resources import Profile, on_nodes_of
from pipelines.select_and_serve import select_and_serve


def build(profile: Profile | None = None, images: Images = RELEASE) -> BaseComponent:
    """Return the pipeline; the arguments are those of `train_and_select`."""
    on_cluster = on_nodes_of(profile, images)

    @dsl.pipeline(
        name="reselect",
        description="Choose for another client among all models that are remembered, and serve the one that fits best.",
    )
    def reselect(
        contract: str,
        field: str = "",
        deploy: bool = True,
        namespace: str = "steelyard",
        replicas: int = 0,
    ) -> None:
        recalled = on_cluster(recall_models(field=field))
        select_and_serve(
            measured=recalled.outputs["measured"],
            dataset=lambda: dsl.importer(artifact_uri=recalled.outputs["Output"], artifact_class=Dataset).output,
            contract=contract,
            serving={"deploy": deploy, "namespace": namespace, "replicas": replicas},
            images=images,
            on_cluster=on_cluster,
        )

    return reselect
