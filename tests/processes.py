"""Processes for tests that kill or race: forked off one that has imported what they need and run nothing."""

import multiprocessing

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    [
        "steelyard.training.train",
        "steelyard.training.job",
        "steelyard.tracking.tracking",
        "torchvision.transforms.v2",
        "mlflow.store.tracking.sqlalchemy_store",
        "mlflow.store.model_registry.sqlalchemy_store",
        "mlflow.store.artifact.local_artifact_repo",
    ]
)
