"""The folder that a selection is written to: selection.json, report.html, summary.md and the Scorecards behind them."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from steelyard.artifact import new_folder
from steelyard.contract import Contract
from steelyard.evaluation.scorecard import Scorecard
from steelyard.report.report import write_report
from steelyard.report.summary import summary
from steelyard.selection.publish import choose
from steelyard.selection.select import read_scorecards
from steelyard.selection.selection import Selection


def write_outcome(selection: Selection, scorecards: Sequence[Scorecard], folder: Path) -> None:
    """Write a selection so that its report can be made anew from the folder alone."""
    with new_folder(folder) as partial:
        selection.write(partial / "selection.json")
        write_report(selection, scorecards, partial / "report.html")
        (partial / "summary.md").write_text(summary(selection), encoding="utf-8")
        for scorecard in scorecards:
            scorecard.write(partial / "scorecards" / scorecard.candidate)


def replay(folder: Path) -> list[str]:
    """Decide again from the Scorecards, contract and seed in a folder; return what came out differently, if anything.

    Raises:
        ArtifactError: the folder holds no selection or no scorecards.
    """
    before = Selection.read(folder / "selection.json")
    scorecards = read_scorecards([folder / "scorecards"])
    again = choose(scorecards, Contract.model_validate(before.contract), before.seed, before.serving)
    return list(_differences("", before.model_dump(mode="json"), again.model_dump(mode="json")))


def _differences(where: str, before: object, again: object) -> Iterator[str]:
    """Yield where two JSON values differ; numbers by more than rounding."""
    if isinstance(before, dict) and isinstance(again, dict):
        for key in before.keys() | again.keys():
            yield from _differences(f"{where}.{key}".lstrip("."), before.get(key), again.get(key))
    elif isinstance(before, list) and isinstance(again, list) and len(before) == len(again):
        for number, (one, other) in enumerate(zip(before, again, strict=True)):
            yield from _differences(f"{where}[{number}]", one, other)
    elif isinstance(before, float) and isinstance(again, float):
        if not math.isclose(before, again, rel_tol=1e-6, abs_tol=1e-9):
            yield f"{where}: {before:g} before, {again:g} now"
    elif before != again:
        yield f"{where}: {before!r} before, {again!r} now"


def renew_report(folder: Path) -> Path:
    """Write report.html anew and return its path.

    Raises:
        ArtifactError: the folder holds no selection or no scorecards.
    """
    selection = Selection.read(folder / "selection.json")
    scorecards = read_scorecards([folder / "scorecards"])
    write_report(selection, scorecards, folder / "report.html")
    return folder / "report.html"
