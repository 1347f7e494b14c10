"""The folder that a selection is written to: selection.json, report.html, summary.md and the Scorecards behind them."""

from collections.abc import Sequence
from pathlib import Path

from steelyard.artifact import new_folder
from steelyard.evaluation.scorecard import Scorecard
from steelyard.selection.report import write_report
from steelyard.selection.select import read_scorecards
from steelyard.selection.selection import Selection
from steelyard.selection.summary import summary


def write_outcome(selection: Selection, scorecards: Sequence[Scorecard], folder: Path) -> None:
    """Write a selection so that its report can be made anew from the folder alone."""
    with new_folder(folder) as partial:
        selection.write(partial / "selection.json")
        write_report(selection, scorecards, partial / "report.html")
        (partial / "summary.md").write_text(summary(selection), encoding="utf-8")
        for scorecard in scorecards:
            scorecard.write(partial / "scorecards" / scorecard.candidate)


def renew_report(folder: Path) -> Path:
    """Write report.html anew and return its path.

    Raises:
        ArtifactError: the folder holds no selection or no scorecards.
    """
    selection = Selection.read(folder / "selection.json")
    scorecards = read_scorecards(path.parent for path in (folder / "scorecards").glob("*/scorecard.json"))
    write_report(selection, scorecards, folder / "report.html")
    return folder / "report.html"
