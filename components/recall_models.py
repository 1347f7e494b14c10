"""recall_models: what is remembered -> Scorecards to choose among without training."""

from kfp import dsl
from kfp.dsl import Artifact, Output

from components import images


@dsl.component(base_image=images.BASE, install_kfp_package=False)
def recall_models(field: str, measured: Output[Artifact]) -> str:
    """Fetch every remembered model that answered for the same images; time those that this hardware has not seen.

    Args:
        field: the beginning of the digest of what they agree in; may be "" where all were measured on the same images.
        measured: their Scorecards.

    Returns:
        Where the prepared data lie.
    """
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from components.contenders import timed
    from components.runtime import task
    from steelyard.errors import InputError
    from steelyard.evaluation.latency import hardware_class
    from steelyard.tracking.memory import the_field

    with task() as runtime, TemporaryDirectory() as scratch:
        memory = runtime.tracking.memory(Path(scratch))
        chosen = the_field(memory.fields(), field)
        for card in timed(memory.recall(chosen.digest, hardware_class()), {}, memory, runtime):
            card.write(Path(measured.path) / card.candidate)
        if not chosen.dataset_uri:
            raise InputError("nobody remembers where the data lie that these models were measured on")
        return chosen.dataset_uri
