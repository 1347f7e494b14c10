"""Project -> a run on a Kubeflow Pipelines backend, followed to its end."""

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.cluster.api import ClusterRefused, connect
from components.cluster.tasks import Task, list_tasks
from components.runtime import WRONG_INPUT
from pipelines.compile import COMPILED
from pipelines.project import Project
from steelyard.errors import InputError, SteelyardError
from steelyard.store import is_remote

EXPERIMENT = "steelyard"
ENDED = {"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"}
LOOK_EVERY_S = 5.0
ATTEMPTS = 12


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
    except (urllib3.exceptions.HTTPError, TimeoutError) as error:
        raise SteelyardError(f"{endpoint}: the KFP API does not answer: {error}") from None


def check_source(source: str) -> None:
    """Refuse images that a cluster can't see.

    Raises:
        InputError: they lie on this machine.
    """
    if source and not is_remote(source):
        raise InputError(
            f"data.source: {source!r} lies on this machine; copy it to the object store and give --data s3://..."
        )


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
    """
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


def follow(client: Any, run_id: str, namespace: str, tell: Callable[[str], None]) -> bool:
    """Wait for a run's end; tell what its tasks do, and of each that failed why, and how to see its log.

    KFP's API has no reasons. They stand in the pods, so without access to the cluster there are only states.

    Args:
        client: kfp.Client.
        run_id: of the run.
        namespace: where its pods are.
        tell: gets a line for each change.

    Returns:
        Whether somebody won, as far as can be seen.

    Raises:
        InputError: a task found the input wrong.
        SteelyardError: the run did not succeed, or KFP's API did not answer for a while.
    """
    look = _Look(namespace, run_id, tell)
    while (state := _state(client, run_id)) not in ENDED:
        look.tell_changes()
        time.sleep(LOOK_EVERY_S)
    tasks = look.tell_changes()
    tell(f"run {run_id}: {state}")
    if state == "SUCCEEDED":
        return not tasks or any(task.name == "register-model" for task in tasks)
    failed = [task for task in {task.name: task for task in tasks}.values() if task.failed]
    for task in failed:
        tell(f"{task.name} {task.said}")
        tell(f"  kubectl -n {namespace} logs {task.pod} -c main")
    if not failed:
        tell(f"  kubectl -n {namespace} logs -l pipeline/runid={run_id} -c main --prefix --tail=30")
    wrong_input = any(task.reason.startswith(WRONG_INPUT) for task in failed)
    raise (InputError if wrong_input else SteelyardError)(f"run {run_id} ended as {state}")


def _state(client: Any, run_id: str) -> str:
    """Ask for the state, and bear with an API that is away for a minute."""
    import urllib3
    from kfp_server_api import ApiException

    for attempt in range(ATTEMPTS):
        try:
            return str(client.get_run(run_id).state)
        except (urllib3.exceptions.HTTPError, ApiException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            if attempt < ATTEMPTS - 1:
                time.sleep(LOOK_EVERY_S)
    raise SteelyardError(f"run {run_id} goes on, but the KFP API does not answer: {reason}")


class _Look:
    """What can be seen of a run's tasks, each change told once."""

    def __init__(self, namespace: str, run_id: str, tell: Callable[[str], None]) -> None:
        self._namespace, self._run_id, self._tell = namespace, run_id, tell
        self._told: set[tuple[str, str]] = set()

    def tell_changes(self) -> list[Task]:
        """Look, and return the tasks; none where the cluster can't be looked at."""
        try:
            tasks = list_tasks(connect(), self._namespace, self._run_id)
        except ClusterRefused as error:
            self._once("", f"only KFP's own states can be told: {error}")
            return []
        for task in tasks:
            if task.said != "waits":
                self._once(task.pod, f"{task.name}: {task.said}")
        return tasks

    def _once(self, about: str, line: str) -> None:
        if (about, line) not in self._told:
            self._told.add((about, line))
            self._tell(line)
