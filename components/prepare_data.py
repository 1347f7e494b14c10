"""prepare_data: labelled images -> Dataset, and the candidates to train on it."""

from typing import List

from kfp import dsl
from kfp.dsl import Dataset, Output

from components import images


@dsl.component(base_image=images.BASE, install_kfp_package=False)
def prepare_data(params: str, contract: str, data: str, dataset: Output[Dataset]) -> List[dict]:
    """Prepare the images that params.yaml names and return the candidates to train.

    Args:
        params: params.yaml as text, or its s3:// address.
        contract: evaluation_metrics.yaml likewise; only checked here, before hours of training depend on it.
        data: a source that takes the place of data.source, or "".
        dataset: the prepared images.
    """
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from components.runtime import task
    from steelyard.contract import Contract
    from steelyard.data.prepare import prepare
    from steelyard.params import Params
    from steelyard.store import local_copy, read_text

    with task() as runtime, TemporaryDirectory() as temporary:
        parsed = Params.from_yaml(read_text(params, runtime.store), "params").with_source(data)
        source = local_copy(parsed.data.source, Path(temporary), runtime.store)
        wanted = Contract.from_yaml(read_text(contract, runtime.store), "contract")
        prepared = prepare(parsed.data, parsed.task, Path(dataset.path), source)
        wanted.check_classes(prepared.index.classes)
        return [candidate.model_dump(mode="json", exclude_none=True) for candidate in parsed.candidates.values()]
