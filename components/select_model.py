"""select_model: Scorecards + contract -> Selection with its report, and the winner's bundle."""

from typing import List

from kfp import dsl
from kfp.dsl import HTML, Artifact, Input, Markdown, Model, Output

from components import images


@dsl.component(base_image=images.BASE, install_kfp_package=False)
def select_model(
    bundles: Input[List[Model]],
    measured: Input[Artifact],
    contract: str,
    selection: Output[Artifact],
    winner: Output[Model],
    report: Output[HTML],
    summary: Output[Markdown],
) -> str:
    """Name the candidate that serves this client best, or 'none'.

    Args:
        bundles: of all candidates.
        measured: their Scorecards.
        contract: evaluation_metrics.yaml as text, or its s3:// address.
        selection: what `write_outcome` writes.
        winner: the winner's bundle; empty where nobody is eligible.
        report: the report for the Kubeflow UI.
        summary: the same in short.
    """
    import shutil
    from pathlib import Path

    from components.runtime import task
    from steelyard.bundle import ModelBundle, read_failure
    from steelyard.contract import Contract
    from steelyard.selection.outcome import write_outcome
    from steelyard.selection.publish import choose
    from steelyard.selection.select import read_scorecards
    from steelyard.store import read_text

    with task() as runtime:
        scorecards = read_scorecards(Path(measured.path).iterdir())
        chosen = choose(scorecards, Contract.from_yaml(read_text(contract, runtime.store)))
        write_outcome(chosen, scorecards, Path(selection.path))
        for name, page in (("report.html", report), ("summary.md", summary)):
            shutil.copyfile(Path(selection.path) / name, page.path)
        runtime.tracking.record_selection(chosen, scorecards, Path(selection.path))
        Path(winner.path).mkdir(parents=True)
        for folder in (Path(bundle.path) for bundle in bundles):
            if not read_failure(folder) and ModelBundle(folder).index.candidate == chosen.winner:
                shutil.copytree(folder, winner.path, dirs_exist_ok=True)
        runtime.conclude(chosen.why)
        return chosen.winner or "none"
