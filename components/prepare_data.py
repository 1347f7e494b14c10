"""prepare_data: labelled images -> Dataset, and the candidates to train on it."""

from typing import List

from kfp import dsl
from kfp.dsl import HTML, Dataset, Output

from components import images


@dsl.component(base_image=images.BASE, install_kfp_package=False)
def prepare_data(params: str, contract: str, data: str, dataset: Output[Dataset], card: Output[HTML]) -> List[dict]:
    """Prepare the images that params.yaml names and return the candidates to train.

    Args:
        params: params.yaml as text, or its s3:// address.
        contract: evaluation_metrics.yaml likewise; only checked here, before hours of training depend on it.
        data: where the images lie, in place of data.source (of data.root, for a named source), or "".
        dataset: the prepared images.
        card: what they are: classes, splits, samples, duplicates, quarantine.
    """
    from pathlib import Path
    from shutil import copyfile

    from components.runtime import task
    from steelyard.contract import Contract
    from steelyard.data.prepare import prepare
    from steelyard.params import Params
    from steelyard.store import read_text

    with task() as runtime:
        parsed = Params.from_yaml(read_text(params, runtime.store), "params").at(data)
        parsed.check_trainable()
        wanted = Contract.from_yaml(read_text(contract, runtime.store), "contract")
        wanted.check_task(parsed.task)
        kept = runtime.beside(dataset.uri, "decoded")
        prepared = prepare(parsed.data, parsed.task, Path(dataset.path), runtime.store, kept_at=kept)
        copyfile(prepared.card, card.path)
        wanted.check_classes(prepared.index.classes)
        return [candidate.model_dump(mode="json", exclude_none=True) for candidate in parsed.candidates.values()]
