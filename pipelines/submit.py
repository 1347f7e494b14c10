"""Project -> a run on a Kubeflow Pipelines backend."""

from collections.abc import Callable
from pathlib import Path

from pipelines.compile import COMPILED
from pipelines.project import Project
from steelyard.errors import InputError, SteelyardError
from steelyard.store import is_remote


def submit(
    project: Project,
    endpoint: str,
    pipeline: Path | None,
    data: str,
    deploy: bool,
    wait: bool,
    tell: Callable[[str], None],
) -> None:
    """Create a run in the experiment `steelyard`.

    Args:
        project: both files, checked.
        endpoint: of the KFP API.
        pipeline: compiled YAML; the release's for CPU nodes where None.
        data: a source that takes the place of data.source.
        deploy: whether the winner is deployed.
        wait: whether to wait for the end.
        tell: gets progress.

    Raises:
        InputError: the images lie where the cluster can't see them.
        SteelyardError: the run did not succeed.
    """
    import kfp

    source = data or project.source
    if source != "digits" and not is_remote(source):
        raise InputError(
            f"data.source: {source!r} lies on this machine; copy it to the object store and give --data s3://..."
        )
    client = kfp.Client(host=endpoint)
    run = client.create_run_from_pipeline_package(
        str(pipeline or COMPILED / "train_and_select.yaml"),
        arguments={
            "params": project.params_text,
            "contract": project.contract_text,
            "data": data,
            "deploy": deploy,
        },
        run_name=project.contract.client,
        experiment_name="steelyard",
        enable_caching=False,
    )
    tell(f"run {run.run_id} created")
    if wait:
        state = client.wait_for_run_completion(run.run_id, timeout=24 * 3600).state
        tell(f"run {run.run_id}: {state}")
        if state != "SUCCEEDED":
            raise SteelyardError(f"run {run.run_id} ended as {state}")
