"""The code that MLflow runs for a registered model: encoded images in, label and probabilities or masks out."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

if TYPE_CHECKING:
    import pandas as pd


class ImageModel(PythonModel):  # type: ignore[misc]
    """A ModelBundle behind MLflow's interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the bundle that was packed with the model."""
        from steelyard.bundle import ModelBundle

        self.bundle = ModelBundle(Path(context.artifacts["bundle"]))

    def predict(self, context: PythonModelContext, model_input: "pd.DataFrame") -> "pd.DataFrame":
        """Classify or segment a column of encoded images."""
        import pandas as pd

        from steelyard.data.decode import decode
        from steelyard.data.encode import png

        index = self.bundle.index
        images_NHWC = np.stack([decode(image, index.input_shape) for image in model_input["image"]])
        if index.task == "segmentation":
            return pd.DataFrame({"mask": [png(mask_HW) for mask_HW in self.bundle.segment(images_NHWC).masks_NHW]})
        probabilities_NC = self.bundle.predict_all(images_NHWC).probabilities_NC
        columns = [f"probability_{name}" for name in index.classes]  # a class may be called `label`
        answers = pd.DataFrame(probabilities_NC.astype(np.float64), columns=columns)
        answers.insert(0, "label", [index.classes[best] for best in probabilities_NC.argmax(1)])
        return answers


set_model(ImageModel())
