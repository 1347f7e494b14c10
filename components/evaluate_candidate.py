"""evaluate_candidate: ModelBundle -> Scorecard."""

from kfp import dsl
from kfp.dsl import Artifact, ClassificationMetrics, Dataset, Input, Metrics, Model, Output

from components import images


@dsl.component(base_image=images.BASE, install_kfp_package=False)
def evaluate_candidate(
    bundle: Input[Model],
    dataset: Input[Dataset],
    scorecard: Output[Artifact],
    metrics: Output[Metrics],
    classification: Output[ClassificationMetrics],
) -> None:
    """Measure a candidate on validation and test from its ONNX file; a failed one gets a Scorecard that says why."""
    from pathlib import Path

    from components.runtime import task
    from components.user_interface import show
    from steelyard.bundle import ModelBundle, read_failure
    from steelyard.data.dataset import Dataset as PreparedDataset
    from steelyard.evaluation.evaluate import evaluate, failed_scorecard

    with task() as runtime:
        prepared, folder = PreparedDataset(Path(dataset.path), runtime.store), Path(bundle.path)
        failure = read_failure(folder)
        measured = (
            failed_scorecard(failure, prepared) if failure else evaluate(ModelBundle(folder), prepared, dataset.uri)
        )
        measured.write(Path(scorecard.path))
        show(measured, metrics, classification)
