"""measure_latency: all that compete, timed on one machine -> complete Scorecards."""

from typing import List

from kfp import dsl
from kfp.dsl import Artifact, Input, Model, Output

from components import images


@dsl.component(base_image=images.BASE, install_kfp_package=False)
def measure_latency(bundles: Input[List[Model]], scorecards: Input[List[Artifact]], measured: Output[Artifact]) -> None:
    """Time this run's candidates in interleaved rounds, and add what is remembered of others on the same images.

    Times that are remembered of this hardware are taken as they are.
    """
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from components.contenders import timed
    from components.runtime import task
    from steelyard.bundle import ModelBundle, read_failure
    from steelyard.evaluation.latency import hardware_class
    from steelyard.evaluation.scorecard import Scorecard
    from steelyard.tracking.memory import field_of

    with task() as runtime, TemporaryDirectory() as scratch:
        cards = [Scorecard.read(Path(scorecard.path)) for scorecard in scorecards]
        opened = [ModelBundle(folder) for b in bundles if not read_failure(folder := Path(b.path))]
        memory = runtime.tracking.memory(Path(scratch))
        others = memory.recall(field_of(cards[0]), hardware_class(), besides=cards)
        for card in timed([*cards, *others], {bundle.index.candidate: bundle for bundle in opened}, memory, runtime):
            card.write(Path(measured.path) / card.candidate)
