"""ModelBundle -> an MLflow pyfunc model that carries the bundle and the code that answers from it."""

from pathlib import Path

import steelyard
from steelyard.bundle import ModelBundle

REQUIREMENTS = ["numpy>=2.1", "pillow>=11", "pydantic>=2.9", "onnxruntime>=1.20"]


def save_pyfunc(bundle: ModelBundle, folder: Path) -> None:
    """Save a model whose input is a column `image` of encoded image bytes (base64 in JSON).

    It answers with a column `label` and, for each class, a column `probability_CLASS`; a segmentation with a column
    `mask` of PNG files, whose pixels are places in the list of classes.
    """
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    index = bundle.index
    answers = [ColSpec("string", "label"), *(ColSpec("double", f"probability_{name}") for name in index.classes)]
    mlflow.pyfunc.save_model(
        path=str(folder),
        python_model=str(Path(__file__).with_name("pyfunc.py")),
        artifacts={"bundle": str(bundle.folder)},
        code_paths=[str(Path(steelyard.__file__).parent)],
        pip_requirements=REQUIREMENTS,
        signature=ModelSignature(
            inputs=Schema([ColSpec("binary", "image")]),
            outputs=Schema([ColSpec("binary", "mask")] if index.task == "segmentation" else answers),
        ),
    )
