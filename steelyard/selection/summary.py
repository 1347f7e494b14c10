"""Selection -> a page of Markdown, for where a whole report is too much."""

from steelyard.selection.selection import Selection
from steelyard.selection.why import value


def summary(selection: Selection) -> str:
    """Return the answer, the ranking, who was rejected and why, and the winner's figures on test."""
    parts = [f"# {selection.client}: {selection.winner or 'nobody'}", selection.why]
    if selection.ranking:
        metrics = list(selection.weights)
        rows = [
            [ranked.candidate, f"{ranked.utility:.3f}", *(value(name, ranked.measured[name].value) for name in metrics)]
            for ranked in selection.ranking
        ]
        parts.append(_table(["candidate", "utility", *metrics], rows))
    parts += [f"- **{one.candidate}** is out: {one.reason}" for one in selection.rejected]
    if selection.test:
        rows = [[name, value(name, m.value), value(name, m.bound)] for name, m in selection.test.items()]
        parts += ["The winner on the test split:", _table(["metric", "value", "95 % bound"], rows)]
    return "\n\n".join(parts) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
