"""The end of every graph: Scorecards -> select -> register -> deploy."""

from collections.abc import Callable
from typing import Any

from kfp import dsl

from components.deploy_model import deploy_model
from components.images import Images
from components.register_model import register_model
from components.select_model import select_model

OnCluster = Callable[[dsl.PipelineTask], dsl.PipelineTask]


def select_and_serve(
    measured: Any,
    dataset: Callable[[], Any],
    contract: str,
    serving: dict[str, Any],
    images: Images,
    on_cluster: OnCluster,
) -> None:
    """Add the tasks to a pipeline.

    Args:
        measured: the Scorecards of all that compete.
        dataset: gives the data that the winner's drift reference is learnt from, where somebody won.
        contract: evaluation_metrics.yaml.
        serving: `deploy`, `namespace` and `replicas` of the pipeline.
        images: which the cluster runs.
        on_cluster: tells the cluster what a task needs.
    """
    selected = on_cluster(select_model(measured=measured, contract=contract))
    selection = selected.outputs["selection"]
    with dsl.If(selected.outputs["Output"] != "none", name="somebody-won"):
        registered = on_cluster(
            register_model(winner=selected.outputs["winner"], dataset=dataset(), selection=selection)
        )
        with dsl.If(serving["deploy"] == True, name="deploy"):  # noqa: E712 - a pipeline channel, compared at run time
            on_cluster(
                deploy_model(
                    model=registered.outputs["model"],
                    selection=selection,
                    version=registered.outputs["Output"],
                    namespace=serving["namespace"],
                    replicas=serving["replicas"],
                    image_prefix=images.prefix,
                    image_tag=images.tag,
                )
            )
