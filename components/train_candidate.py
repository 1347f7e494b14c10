"""train_candidate: one candidate -> ModelBundle, trained or remembered."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Model, Output

from components import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def train_candidate(
    candidate: dict,
    dataset: Input[Dataset],
    contract: str,
    bundle: Output[Model],
    training: Output[HTML],
    processes: int = 1,
) -> None:
    """Train one candidate, or take it from memory; its own failure is written down and does not fail the task.

    Args:
        candidate: as prepare_data returned it.
        dataset: what it learns.
        contract: evaluation_metrics.yaml as text, or its s3:// address; with halving, what the candidate is worth by it
            after its first epochs decides whether it goes on.
        bundle: what came of it, or `failure.json`.
        training: curves and profile for the Kubeflow UI.
        processes: that learn together, one for each GPU.
    """
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from components.runtime import log_plainly, task
    from steelyard.bundle import write_failure
    from steelyard.contract import Contract
    from steelyard.data.dataset import Dataset as PreparedDataset
    from steelyard.errors import CandidateFailed, Stopped
    from steelyard.params import Candidate
    from steelyard.report.training import write_failed_training_page, write_training_page
    from steelyard.store import read_text
    from steelyard.training.job import Places, run_job
    from steelyard.training.processes import Processes

    with task() as runtime, TemporaryDirectory() as scratch:
        profile, page = Path(scratch) / "profile", Path(training.path)
        spec, target = Candidate.model_validate(candidate), Path(bundle.path)
        prepared = PreparedDataset(Path(dataset.path), runtime.store)
        try:
            checkpoints = runtime.checkpoints(bundle.uri)
            places = Places(bundle=target, checkpoints=checkpoints, store=runtime.store, profile=profile)
            client = Contract.from_yaml(read_text(contract, runtime.store), "contract")
            together = Processes(count=processes, begin=log_plainly) if processes > 1 else None
            trained = run_job(spec, prepared, places, runtime.tracking, client, together)
            write_training_page(trained.index, profile, page)
        except CandidateFailed as error:
            stage = "halving" if isinstance(error, Stopped) else "training"
            failure = write_failure(target, spec.name, stage, error, prepared.ref)
            runtime.tell(f"{spec.name}: {'stopped' if stage == 'halving' else 'failed'}: {error}")
            write_failed_training_page(failure, page)
