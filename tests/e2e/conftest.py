"""One platform for all tests, the runs that several of them look at, and nothing left behind."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_platform import (
    EXPERIMENT,
    FREE_GIB,
    KFP,
    SERVING,
    Platform,
    free_gib,
    kubectl,
    missing_from,
    remove_objects,
    steelyard_applied,
)
from e2e_runs import CLIENT, CONTRACT, PARAMS, Runs, contract_of, patient_params
from mlflow import MlflowClient

from components.cluster.api import connect
from components.images import Images
from pipelines.compile import compile_all

HERE = Path(__file__).parent


@pytest.fixture
def mlflow(platform: Platform) -> Iterator[MlflowClient]:
    with platform.tracking() as uri:
        yield MlflowClient(tracking_uri=uri, registry_uri=uri)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs a cluster and takes its time."""
    missing = missing_from(dict(os.environ))
    for item in items:
        if HERE in Path(item.path).parents:
            item.add_marker(pytest.mark.timeout(1200))
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"needs a cluster: {', '.join(missing)} not set (make e2e)"))


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    import kfp

    api = connect()
    if (free := free_gib(api)) < FREE_GIB:
        pytest.exit(f"a node has {free:.1f} GiB of free disk; the tests need {FREE_GIB}", returncode=1)
    images = Images(prefix=os.environ.get("IMAGE_PREFIX", "steelyard"), tag=os.environ["IMAGE_TAG"])
    pipelines = tmp_path_factory.mktemp("pipelines")
    compile_all(pipelines, images)
    client = kfp.Client(host=os.environ["KFP_ENDPOINT"])
    with steelyard_applied(images):
        platform = Platform(api=api, kfp=client, images=images, pipelines=pipelines)
        yield platform
        services = kubectl("-n", SERVING, "get", "inferenceservices", "-o=name").split()
        for service in (one for one in services if one.partition("/")[2].startswith("e2e-")):
            kubectl("-n", SERVING, "delete", service, "--wait", "--ignore-not-found")
        _forget_models(platform)
        for run_id in platform.started:
            client.delete_run(run_id)
            for graph in ("train-and-select", "reselect"):
                remove_objects(f"v2/artifacts/{graph}/{run_id}")
            kubectl("-n", KFP, "delete", "workflow", "-l", f"pipeline/runid={run_id}", "--ignore-not-found")
        client.delete_experiment(client.get_experiment(experiment_name=EXPERIMENT).experiment_id)


def _forget_models(platform: Platform) -> None:
    with platform.tracking() as uri:
        mlflow = MlflowClient(tracking_uri=uri, registry_uri=uri)
        for model in mlflow.search_registered_models("name LIKE 'e2e-%'"):
            mlflow.delete_registered_model(model.name)


@pytest.fixture(scope="session")
def runs(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    main = platform.submit("e2e-main", params=PARAMS, contract=contract_of(CLIENT))
    project = tmp_path_factory.mktemp("project")
    (project / "params.yaml").write_text(PARAMS, encoding="utf-8")
    (project / "evaluation_metrics.yaml").write_text(CONTRACT, encoding="utf-8")
    command = [sys.executable, "-m", "pipelines", "submit", str(project), "--wait", "--data", "s3://mlpipeline/nothing"]
    command += ["--pipeline", str(platform.pipelines / "train_and_select.yaml")]
    submitted = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert submitted.stderr is not None
    platform.started.append(submitted.stderr.readline().split()[1])  # run ID created
    one = patient_params("gpu-cnn", epochs=1)
    gpu = platform.submit(
        "e2e-gpu", "train_and_select-gpu.yaml", params=one, contract=contract_of("e2e-gpu"), deploy=False
    )
    yield Runs(platform=platform, main=main, gpu=gpu, submitted=submitted)
    submitted.terminate()
