"""register_model: the winner -> a packed ModelBundle, registered under the client's name."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from components import images


@dsl.component(base_image=images.BASE, install_kfp_package=False)
def register_model(
    winner: Input[Model], dataset: Input[Dataset], selection: Input[Artifact], model: Output[Model]
) -> int:
    """Pack the winner with its drift reference and model card, register it, and return the version."""
    from pathlib import Path

    from components.runtime import s3_address, task
    from steelyard.bundle import ModelBundle
    from steelyard.data.dataset import Dataset as PreparedDataset
    from steelyard.evaluation.scorecard import Scorecard
    from steelyard.packing import pack
    from steelyard.selection.selection import Selection

    with task() as runtime:
        chosen = Selection.read(Path(selection.path) / "selection.json")
        prepared = PreparedDataset(Path(dataset.path), runtime.store)
        measured = Scorecard.read(Path(selection.path) / "scorecards" / str(chosen.winner))
        packed = pack(ModelBundle(Path(winner.path)), prepared, chosen, Path(model.path), measured)
        tracking, store = runtime.tracking, runtime.store
        known = tracking.stored_at(chosen.client, packed)
        kept = known and store and store.holds(f"{known}/bundle.json")  # else its run was cleaned away
        return tracking.register(chosen.client, packed, known if kept else s3_address(model.uri))
