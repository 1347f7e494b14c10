"""Project -> a run on a Kubeflow Pipelines backend, followed to its end."""

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.cluster.api import Api, ClusterRefused, connect
from components.cluster.tasks import Task, list_tasks
from pipelines.compile import COMPILED
from pipelines.project import Project
from steelyard.errors import InputError, SteelyardError
from steelyard.store import is_remote

EXPERIMENT = "steelyard"
ENDED = {"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"}
LOOK_EVERY_S = 5.0


def connect_to_kfp(endpoint: str) -> Any:
    """Return a kfp.Client.

    Raises:
        SteelyardError: nothing of KFP's answers there.
    """
    import kfp
    import urllib3

    warnings.filterwarnings("ignore", "This client only works with", FutureWarning)
    try:
        return kfp.Client(host=endpoint)
    except urllib3.exceptions.HTTPError as error:
        raise SteelyardError(f"{endpoint}: the KFP API does not answer: {error}") from None


def submit(client: Any, project: Project, *, pipeline: Path | None = None, data: str = "", deploy: bool = True) -> str:
    """Create a run in the experiment `steelyard`.

    Args:
        client: kfp.Client.
        project: both files, checked.
        pipeline: compiled YAML; the release's for CPU nodes where None.
        data: a source that takes the place of data.source.
        deploy: whether the winner is deployed.

    Returns:
        The run's id.

    Raises:
        InputError: the images lie where the cluster can't see them.
    """
    source = data or project.source
    if source != "digits" and not is_remote(source):
        raise InputError(
            f"data.source: {source!r} lies on this machine; copy it to the object store and give --data s3://..."
        )
    run = client.create_run_from_pipeline_package(
        str(pipeline or COMPILED / "train_and_select.yaml"),
        arguments={
            "params": project.params_text,
            "contract": project.contract_text,
            "data": data,
            "deploy": deploy,
        },
        run_name=project.contract.client,
        experiment_name=EXPERIMENT,
        enable_caching=False,
    )
    return str(run.run_id)


def follow(client: Any, run_id: str, namespace: str, tell: Callable[[str], None]) -> None:
    """Wait for a run's end; tell what its tasks do, and of each that failed why, and how to see its log.

    KFP's API has no reasons. They stand in the pods, so without access to the cluster there are only states.

    Args:
        client: kfp.Client.
        run_id: of the run.
        namespace: where its pods are.
        tell: gets a line for each change.

    Raises:
        SteelyardError: the run did not succeed.
    """
    cluster = _connected(tell)
    told: dict[str, str] = {}
    while True:
        state = str(client.get_run(run_id).state)
        for task in list_tasks(cluster, namespace, run_id) if cluster else []:
            if task.said not in ("waits", told.get(task.pod)):
                told[task.pod] = task.said
                tell(f"{task.name}: {task.said}")
        if state in ENDED:
            break
        time.sleep(LOOK_EVERY_S)
    tell(f"run {run_id}: {state}")
    if state != "SUCCEEDED":
        _explain(list_tasks(cluster, namespace, run_id) if cluster else [], run_id, namespace, tell)
        raise SteelyardError(f"run {run_id} ended as {state}")


def _explain(tasks: list[Task], run_id: str, namespace: str, tell: Callable[[str], None]) -> None:
    """Name each task whose last attempt failed, its reason and the way to its log."""
    failed = [task for task in {task.name: task for task in tasks}.values() if task.failed]
    for task in failed:
        tell(f"{task.name} failed: {task.reason}")
        tell(f"  kubectl -n {namespace} logs {task.pod} -c main")
    if not failed:
        tell(f"  kubectl -n {namespace} logs -l pipeline/runid={run_id} -c main --prefix --tail=30")


def _connected(tell: Callable[[str], None]) -> Api | None:
    try:
        return connect()
    except ClusterRefused as error:
        tell(f"following by KFP's API alone, which has no reasons ({error})")
        return None
