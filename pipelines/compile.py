"""Graph -> YAML for a Kubeflow Pipelines backend, one file for each resource profile."""

from pathlib import Path

from kfp import compiler

from components.images import RELEASE, Images
from pipelines.resources import PROFILES
from pipelines.train_and_select import build

COMPILED = Path(__file__).parent / "compiled"


def compile_all(folder: Path, images: Images = RELEASE) -> list[Path]:
    """Write `train_and_select.yaml` and `train_and_select-gpu.yaml`.

    Args:
        folder: where they go.
        images: which the pipelines run.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, profile in PROFILES.items():
        file = folder / ("train_and_select.yaml" if name == "cpu" else f"train_and_select-{name}.yaml")
        compiler.Compiler().compile(build(profile, images), str(file))
        files.append(file)
    return files
