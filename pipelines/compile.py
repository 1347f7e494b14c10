"""Graph -> YAML for a Kubeflow Pipelines backend, one file for each resource profile."""

from pathlib import Path

from kfp import compiler

from components.images import RELEASE, Images
from pipelines.reselect import build as build_reselect
from pipelines.resources import CPU_NODES, gpu_nodes
from pipelines.train_and_select import build

COMPILED = Path(__file__).parent / "compiled"


def compile_all(folder: Path, images: Images = RELEASE, gpus: int = 1) -> list[Path]:
    """Write `train_and_select.yaml`, `train_and_select-gpu.yaml` and `reselect.yaml`.

    Args:
        folder: where they go.
        images: which the pipelines run.
        gpus: that each training of `train_and_select-gpu` takes.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    graphs = {
        "train_and_select": build(CPU_NODES, images),
        "train_and_select-gpu": build(gpu_nodes(gpus), images),
        "reselect": build_reselect(CPU_NODES, images),
    }
    for name, graph in graphs.items():
        compiler.Compiler().compile(graph, str(folder / f"{name}.yaml"))
    return [folder / f"{name}.yaml" for name in graphs]
