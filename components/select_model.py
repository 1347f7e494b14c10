"""select_model: Scorecards + contract -> Selection with its report, and the winner's bundle."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, ClassificationMetrics, Input, Markdown, Metrics, Model, Output

from components import images


@dsl.component(base_image=images.BASE, install_kfp_package=False)
def select_model(
    measured: Input[Artifact],
    contract: str,
    selection: Output[Artifact],
    winner: Output[Model],
    report: Output[HTML],
    summary: Output[Markdown],
    metrics: Output[Metrics],
    classification: Output[ClassificationMetrics],
) -> str:
    """Name the candidate that serves this client best, or 'none'.

    Args:
        measured: Scorecards of all that compete.
        contract: evaluation_metrics.yaml as text, or its s3:// address.
        selection: what `write_outcome` writes.
        winner: the winner's bundle; empty where nobody is eligible.
        report: the report for the Kubeflow UI.
        summary: the same in short.
        metrics: of the winner, and utility and P(best) of all.
        classification: the winner's confusion matrix and ROC.
    """
    import shutil
    from pathlib import Path

    from components.runtime import task
    from components.user_interface import show_choice
    from steelyard.contract import Contract
    from steelyard.report.outcome import write_outcome
    from steelyard.selection.publish import choose
    from steelyard.selection.select import read_scorecards
    from steelyard.store import read_text

    with task() as runtime:
        scorecards = read_scorecards([Path(measured.path)])
        wanted = Contract.from_yaml(read_text(contract, runtime.store))
        chosen = choose(scorecards, wanted, serving=runtime.tracking.champion(wanted.client))
        write_outcome(chosen, scorecards, Path(selection.path))
        for name, page in (("report.html", report), ("summary.md", summary)):
            shutil.copyfile(Path(selection.path) / name, page.path)
        show_choice(chosen, scorecards, metrics, classification)
        runtime.tracking.record_selection(chosen, Path(selection.path))
        runtime.conclude(chosen.why)
        if chosen.winner is None or chosen.winner_run_key is None:
            Path(winner.path).mkdir(parents=True)
            return "none"
        runtime.tracking.fetch(chosen.winner_run_key, chosen.winner, Path(winner.path))
        return chosen.winner
