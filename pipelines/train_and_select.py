"""The graph: prepare -> each candidate (train, evaluate) -> measure -> select -> register -> deploy."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.deploy_model import deploy_model
from components.evaluate_candidate import evaluate_candidate
from components.images import RELEASE, Images
from components.measure_latency import measure_latency
from components.prepare_data import prepare_data
from components.register_model import register_model
from components.select_model import select_model
from components.train_candidate import train_candidate
from pipelines.resources import Profile, apply_resources


def build(profile: Profile | None = None, images: Images = RELEASE) -> BaseComponent:
    """Return the pipeline.

    Args:
        profile: the cluster's nodes; None for the local runner, which takes each task's environment from its own.
        images: which a cluster runs.
    """

    def on_cluster(task: dsl.PipelineTask) -> dsl.PipelineTask:
        if profile:
            apply_resources(task, profile, images)
        return task

    @dsl.pipeline(
        name="train-and-select",
        description="Train the candidates, weigh them against the client's contract, serve the one that fits best.",
    )
    def train_and_select(
        params: str,
        contract: str,
        data: str = "",
        deploy: bool = True,
        namespace: str = "steelyard",
        replicas: int = 0,
    ) -> None:
        prepared = on_cluster(prepare_data(params=params, contract=contract, data=data))
        dataset = prepared.outputs["dataset"]
        with dsl.ParallelFor(prepared.outputs["Output"]) as candidate:
            trained = on_cluster(train_candidate(candidate=candidate, dataset=dataset))
            evaluated = on_cluster(evaluate_candidate(bundle=trained.outputs["bundle"], dataset=dataset))
        measured = on_cluster(
            measure_latency(
                dataset=dataset,
                bundles=dsl.Collected(trained.outputs["bundle"]),
                scorecards=dsl.Collected(evaluated.outputs["scorecard"]),
            )
        )
        selected = on_cluster(
            select_model(
                bundles=dsl.Collected(trained.outputs["bundle"]),
                measured=measured.outputs["measured"],
                contract=contract,
            )
        )
        selection = selected.outputs["selection"]
        with dsl.If(selected.outputs["Output"] != "none", name="somebody-won"):
            registered = on_cluster(
                register_model(winner=selected.outputs["winner"], dataset=dataset, selection=selection)
            )
            with dsl.If(deploy == True, name="deploy"):  # noqa: E712 - a pipeline channel, compared at run time
                on_cluster(
                    deploy_model(
                        model=registered.outputs["model"],
                        selection=selection,
                        version=registered.outputs["Output"],
                        namespace=namespace,
                        replicas=replicas,
                        image_prefix=images.prefix,
                        image_tag=images.tag,
                    )
                )

    return train_and_select
