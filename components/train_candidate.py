"""train_candidate: one candidate -> ModelBundle, trained or remembered."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from components import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def train_candidate(candidate: dict, dataset: Input[Dataset], bundle: Output[Model], processes: int = 1) -> None:
    """Train one candidate, or take it from memory; its own failure is written down and does not fail the task.

    Args:
        candidate: as prepare_data returned it.
        dataset: what it learns.
        bundle: what came of it, or `failure.json`.
        processes: that learn together, one for each GPU.
    """
    from pathlib import Path

    from components.runtime import log_plainly, task
    from steelyard.bundle import write_failure
    from steelyard.data.dataset import Dataset as PreparedDataset
    from steelyard.errors import CandidateFailed
    from steelyard.params import Candidate
    from steelyard.training.job import Places, run_job
    from steelyard.training.processes import Processes
    from steelyard.training.run_key import run_key

    with task() as runtime:
        spec, target = Candidate.model_validate(candidate), Path(bundle.path)
        prepared = PreparedDataset(Path(dataset.path), runtime.store)
        try:
            places = Places(bundle=target, checkpoints=runtime.checkpoints(bundle.uri), store=runtime.store)
            together = Processes(count=processes, begin=log_plainly) if processes > 1 else None
            run_job(spec, prepared, places, runtime.tracking, together)
        except CandidateFailed as error:
            write_failure(target, spec.name, "training", error, run_key(spec, prepared), prepared.ref)
