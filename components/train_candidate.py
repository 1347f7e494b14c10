"""train_candidate: one candidate -> ModelBundle, trained or remembered."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from components import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def train_candidate(candidate: dict, dataset: Input[Dataset], contract: str, bundle: Output[Model]) -> None:
    """Train one candidate, or take it from memory; its own failure is written down and does not fail the task.

    With halving, what it is worth to the client after its first epochs decides whether it goes on.
    """
    from pathlib import Path

    from components.runtime import task
    from steelyard.bundle import write_failure
    from steelyard.contract import Contract
    from steelyard.data.dataset import Dataset as PreparedDataset
    from steelyard.errors import CandidateFailed, Stopped
    from steelyard.params import Candidate
    from steelyard.store import read_text
    from steelyard.training.job import Places, run_job
    from steelyard.training.run_key import run_key

    with task() as runtime:
        spec, target = Candidate.model_validate(candidate), Path(bundle.path)
        prepared = PreparedDataset(Path(dataset.path), runtime.store)
        try:
            places = Places(bundle=target, checkpoints=runtime.checkpoints(bundle.uri), store=runtime.store)
            client = Contract.from_yaml(read_text(contract, runtime.store), "contract")
            run_job(spec, prepared, places, runtime.tracking, client)
        except CandidateFailed as error:
            stage = "halving" if isinstance(error, Stopped) else "training"
            write_failure(target, spec.name, stage, error, run_key(spec, prepared), prepared.ref)
