"""The graph: prepare -> each candidate (train, evaluate) -> measure -> select -> register -> deploy."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.evaluate_candidate import evaluate_candidate
from components.images import RELEASE, Images
from components.measure_latency import measure_latency
from components.prepare_data import prepare_data
from components.train_candidate import train_candidate
from pipelines.resources import Profile, on_nodes_of
from pipelines.select_and_serve import select_and_serve


def build(profile: Profile | None = None, images: Images = RELEASE) -> BaseComponent:
    """Return the pipeline.

    Args:
        profile: the cluster's nodes; None for the local runner, which takes each task's environment from its own.
        images: which a cluster runs.
    """

    on_cluster, processes = on_nodes_of(profile, images), max(1, profile.gpus if profile else 0)

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
            trained = on_cluster(
                train_candidate(candidate=candidate, dataset=dataset, contract=contract, processes=processes)
            )
            evaluated = on_cluster(evaluate_candidate(bundle=trained.outputs["bundle"], dataset=dataset))
        measured = on_cluster(
            measure_latency(
                bundles=dsl.Collected(trained.outputs["bundle"]),
                scorecards=dsl.Collected(evaluated.outputs["scorecard"]),
            )
        )
        select_and_serve(
            measured=measured.outputs["measured"],
            dataset=lambda: dataset,
            contract=contract,
            serving={"deploy": deploy, "namespace": namespace, "replicas": replicas},
            images=images,
            on_cluster=on_cluster,
        )

    return train_and_select
