"""Graph -> YAML for a Kubeflow Pipelines backend, one file for each resource profile."""

from pathlib import Path

from kfp import compiler

from components.images import RELEASE, Images
from pipelines.reselect import build as build_reselect
from pipelines.resources import PROFILES
from pipelines.train_and_select import build

COMPILED = Path(__file__).parent / "compiled"


def compile_all(folder: Path, images: Images = RELEASE) -> list[Path]:
    """Write `train_and_select.yaml`, `train_and_select-gpu.yaml` and `reselect.yaml`.

    Args:
        folder: where they go.
        images: which the pipelines run.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    graphs = {
        "train_and_select": build(PROFILES["cpu"], images),
        "train_and_select-gpu": build(PROFILES["gpu"], images),
        "reselect": build_reselect(PROFILES["cpu"], images),
    }
    for name, graph in graphs.items():
        compiler.Compiler().compile(graph, str(folder / f"{name}.yaml"))
    return [folder / f"{name}.yaml" for name in graphs]
