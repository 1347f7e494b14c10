"""The compiled pipelines, and what they ask of a cluster."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.images import RELEASE, Images
from pipelines.compile import COMPILED, compile_all
from steelyard import __version__

# What the oldest backend that was tried (2.14.3) knows; an older one refuses or ignores anything else.
KNOWN_PLATFORM_OPTIONS = {"secretAsEnv", "emptyDirMounts", "tolerations", "nodeSelector"}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiled")
    compile_all(folder)
    return folder


def _load(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    spec, platform = yaml.safe_load_all(file.read_text())
    return spec, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


@pytest.mark.parametrize("name", ["train_and_select.yaml", "train_and_select-gpu.yaml", "reselect.yaml"])
def test_the_committed_pipelines_are_what_the_graph_compiles_to(compiled: Path, name: str) -> None:
    assert (COMPILED / name).read_text() == (compiled / name).read_text(), "stale: run `make compile`"


def test_the_release_of_the_images_is_that_of_the_package() -> None:
    assert RELEASE.tag == __version__


def test_images_follow_the_registry_and_the_tag(tmp_path: Path) -> None:
    file, *_ = compile_all(tmp_path, Images(prefix="registry.example.com/ml", tag="1.2.3"))
    executors = _load(file)[0]["deploymentSpec"]["executors"].values()
    images = {executor["container"]["image"] for executor in executors}
    assert images == {f"registry.example.com/ml/{name}-python:1.2.3" for name in ("base", "train")}


def test_the_pipeline_s_parameters_are_those_of_the_readme(compiled: Path) -> None:
    spec, _ = _load(compiled / "train_and_select.yaml")
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert {name for name, p in parameters.items() if not p.get("isOptional")} == {"params", "contract"}
    assert all(parameters[name]["parameterType"] == "STRING" for name in ("params", "contract", "data"))


def test_every_task_has_requests_limits_retries_secret_and_no_cache(compiled: Path) -> None:
    spec, platform = _load(compiled / "train_and_select.yaml")
    for name, executor in spec["deploymentSpec"]["executors"].items():
        resources = executor["container"]["resources"]
        assert {
            "resourceCpuLimit",
            "resourceCpuRequest",
            "resourceMemoryLimit",
            "resourceMemoryRequest",
        } <= resources.keys()
        assert platform[name]["secretAsEnv"][0]["secretName"] == "s3-credentials"
    tasks = _tasks(spec)
    assert len(tasks) == 7
    for task in tasks:
        assert task["retryPolicy"]["maxRetryCount"] == 2
        assert not task["cachingOptions"].get("enableCache")


@pytest.mark.parametrize(("name", "gpus"), [("train_and_select.yaml", None), ("train_and_select-gpu.yaml", "1")])
def test_only_training_asks_for_a_gpu_and_only_in_the_gpu_profile(compiled: Path, name: str, gpus: str | None) -> None:
    spec, platform = _load(compiled / name)
    for executor, content in spec["deploymentSpec"]["executors"].items():
        accelerator = content["container"]["resources"].get("accelerator", {})
        wanted = gpus if executor == "exec-train-candidate" else None
        assert accelerator.get("resourceCount") == wanted
        assert ("tolerations" in platform[executor]) == ("nodeSelector" in platform[executor]) == bool(wanted)
    assert platform["exec-train-candidate"]["emptyDirMounts"][0]["mountPath"] == "/dev/shm"
    if gpus:
        assert platform["exec-train-candidate"]["tolerations"][0]["key"] == "nvidia.com/gpu"
        assert platform["exec-train-candidate"]["nodeSelector"]["labels"] == {"nvidia.com/gpu.present": "true"}


def test_each_training_has_as_many_processes_as_gpus(tmp_path: Path) -> None:
    compile_all(tmp_path, gpus=4)
    for name, gpus in (("train_and_select.yaml", 1), ("train_and_select-gpu.yaml", 4)):
        spec, _ = _load(tmp_path / name)
        (training,) = [task for task in _tasks(spec) if task["taskInfo"]["name"] == "train-candidate"]
        assert training["inputs"]["parameters"]["processes"] == {"runtimeValue": {"constant": gpus}}
    resources = spec["deploymentSpec"]["executors"]["exec-train-candidate"]["container"]["resources"]
    assert resources["accelerator"]["resourceCount"] == "4"
    assert resources["resourceMemoryLimit"] == "32Gi"


def test_no_platform_option_is_compiled_that_an_older_backend_would_refuse(compiled: Path) -> None:
    for file in compiled.iterdir():
        assert {option for executor in _load(file)[1].values() for option in executor} <= KNOWN_PLATFORM_OPTIONS


def _tasks(spec: dict[str, Any]) -> list[dict[str, Any]]:
    dags = [spec["root"]["dag"], *(c["dag"] for c in spec["components"].values() if "dag" in c)]
    tasks = [task for dag in dags for task in dag["tasks"].values()]
    return [task for task in tasks if "executorLabel" in spec["components"][task["componentRef"]["name"]]]
