"""Selection -> a page of Markdown, for where a whole report is too much."""

from collections.abc import Sequence

from steelyard.contract import Contract
from steelyard.evaluation.measurement import Measurement
from steelyard.metrics import metric
from steelyard.report.reasons import formulas
from steelyard.selection.selection import Cost, Selection
from steelyard.selection.why import chance, sensitivity, value


def summary(selection: Selection) -> str:
    """Return the answer, the ranking, what would change it, who was rejected, and the winner's figures on test."""
    parts = [f"# {selection.client}: {selection.winner or 'nobody'}", selection.why]
    if selection.ranking:
        parts.append(_leaderboard(selection))
    if selection.test:
        parts += ["The winner on the test split:", published(selection)]
    parts += [
        "\n".join(f"- {sentence}" for sentence in sentences)
        for sentences in (
            sensitivity(selection),
            [f"**{one.candidate}** is out: {one.reason}" for one in selection.rejected],
        )
        if sentences
    ]
    if others := "; ".join(f"{formula.name}: {formula.chosen}" for formula in formulas(selection)):
        parts.append(
            f"Other formulas, under which a losing candidate can change who wins, would have chosen: {others}."
        )
    return "\n\n".join(parts) + "\n"


def published(selection: Selection) -> str:
    """Return the winner's figures on test, with how much validation flatters it and whether hard limits hold."""
    contract = Contract.model_validate(selection.contract)
    rows = []
    for name, found in selection.test.items():
        preference, optimism = contract.metrics.get(name), selection.optimism.get(name)
        holds = ""
        if preference and preference.must:
            holds = f"{preference.must} {'holds' if preference.met_by(found.bound) else 'does not hold for certain'}"
        rows.append([name, *_written(name, found), f"{optimism:+.4f}" if optimism is not None else "", holds])
    return table(["metric", "value", "95 % bound", "validation flatters by", "hard limit"], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; names may hold what divides its cells."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (head, *rows)]
    lines.insert(1, ["---"] * len(head))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _leaderboard(selection: Selection) -> str:
    rows, tied = [], sum(ranked.tied for ranked in selection.ranking)
    for ranked in selection.ranking:
        marks = (
            ("winner", ranked.candidate == selection.winner),
            ("serves now", ranked.candidate == selection.champion),
            ("tied", ranked.tied and tied > 1),
            ("Pareto front", ranked.pareto),
        )
        rows.append(
            [
                ranked.candidate,
                f"{ranked.utility:.3f}",
                "" if ranked.p_best is None else chance(ranked.p_best),
                *("{} ({})".format(*_written(name, ranked.measured[name])) for name in selection.weights),
                _cost(ranked.cost),
                ", ".join(mark for mark, holds in marks if holds),
            ]
        )
    return table(
        ["candidate", "utility", "P(best)", *(f"{n} (95 % bound)" for n in selection.weights), "cost", ""], rows
    )


def _cost(cost: Cost) -> str:
    if cost.dollars_per_million is not None:
        return f"${cost.dollars_per_million:.3g} per million images"
    if cost.ms_per_image is not None:
        return f"{cost.ms_per_image:.3g} ms per image"
    return "" if cost.model_size_mib is None else f"{cost.model_size_mib:.3g} MiB"


def _written(name: str, found: Measurement) -> tuple[str, str]:
    side = "≥" if metric(name).higher_is_better else "≤"
    return value(name, found.value), f"{side} {value(name, found.bound)}"
