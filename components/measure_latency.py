"""measure_latency: all candidates timed on one machine -> complete Scorecards."""

from typing import List

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from components import images


@dsl.component(base_image=images.BASE, install_kfp_package=False)
def measure_latency(
    dataset: Input[Dataset],
    bundles: Input[List[Model]],
    scorecards: Input[List[Artifact]],
    measured: Output[Artifact],
) -> None:
    """Time all candidates in interleaved rounds and add the times to their Scorecards."""
    from pathlib import Path

    from components.runtime import task
    from steelyard.bundle import ModelBundle, read_failure
    from steelyard.data.dataset import Dataset as PreparedDataset
    from steelyard.evaluation.latency import measure_times, with_times
    from steelyard.evaluation.memory import peak_memory_mib
    from steelyard.evaluation.scorecard import Scorecard

    with task() as runtime:
        cards = [Scorecard.read(Path(scorecard.path)) for scorecard in scorecards]
        opened = [ModelBundle(folder) for b in bundles if not read_failure(folder := Path(b.path))]
        alive = {bundle.index.candidate: bundle for bundle in opened}
        times = measure_times(alive, PreparedDataset(Path(dataset.path), runtime.store))
        for card in cards:
            name = card.candidate
            timed = name in times
            complete = with_times(card, times[name], peak_memory_mib(alive[name])) if timed else card
            complete.write(Path(measured.path) / name)
