"""The summary tells in short what the report tells."""

from steelyard.contract import Contract
from steelyard.data.dataset import DatasetRef
from steelyard.evaluation.measurement import Measurement
from steelyard.evaluation.scorecard import Scorecard, ScorecardIndex
from steelyard.metrics import metric
from steelyard.report.summary import summary, table
from steelyard.selection.publish import choose
from steelyard.selection.selection import Selection

ACME = """
client: acme
epsilon: 0.02
switching_margin: 0.2
metrics:
  accuracy: {weight: 3, worst: 0.8, ideal: 1.0, must: ">= 0.9"}
  latency_p95_ms: {weight: 1, worst: 20, ideal: 0.1}
"""


def card(name: str, accuracy: float, latency_ms: float, test: float = 0.94) -> Scorecard:
    def exactly(name: str, value: float) -> Measurement:
        return Measurement(value=value, bound=value, unit=metric(name).unit)

    index = ScorecardIndex(
        candidate=name,
        run_key=f"key of {name}",
        task="classification",
        dataset=DatasetRef(content_digest="c", split_digest="s"),
        validation={"accuracy": exactly("accuracy", accuracy)},
        test={"accuracy": exactly("accuracy", test)},
        model={one: exactly(one, latency_ms) for one in ("latency_p50_ms", "latency_p95_ms")},
    )
    return Scorecard(index=index)


def chosen(*cards: Scorecard, champion: str | None = None) -> Selection:
    return choose(cards, Contract.from_yaml(ACME), serving=champion and f"key of {champion}")


def test_it_has_the_figures_of_the_report() -> None:
    selection = chosen(card("best", 0.98, 1.0), card("cheap", 0.979, 0.98), card("weak", 0.85, 0.1))
    told = summary(selection)
    assert told.startswith(f"# acme: cheap\n\n{selection.why}\n")
    assert (
        "| cheap | 0.814 |  | 0.979 (≥ 0.979) | 0.98 ms (≤ 0.98 ms) | 0.98 ms per image | winner, tied, Pareto front |"
        in told
    )
    assert "| accuracy | 0.94 | ≥ 0.94 | +0.0390 | >= 0.9 holds |" in told
    assert "- **weak** is out: accuracy must be >= 0.9" in told
    assert "No change of the weights makes another eligible candidate win." in told
    assert "min-max: " in told


def test_a_limit_that_does_not_hold_on_test_is_told() -> None:
    assert ">= 0.9 does not hold for certain" in summary(chosen(card("lucky", 0.98, 1.0, test=0.89)))


def test_nobody_is_an_answer() -> None:
    told = summary(chosen(card("weak", 0.85, 0.1)))
    assert told.startswith("# acme: nobody\n")
    assert "|" not in told


def test_a_champion_that_is_kept_is_marked() -> None:
    told = summary(chosen(card("serving", 0.95, 1.0), card("better", 0.99, 1.0), champion="serving"))
    assert "winner, serves now" in told
    assert "leaves that right out: by the weights alone better would win" in told


def test_a_champion_that_would_win_anyway_is_told_to_be_harder_to_replace_than_the_weights_say() -> None:
    told = summary(chosen(card("serving", 0.99, 1.0), card("worse", 0.95, 1.0), champion="serving"))
    assert "serving serves now, and stays unless another is better" in told
    assert "What follows leaves that right out." in told


def test_cells_may_hold_what_divides_them() -> None:
    assert table(["recall[a|b]"], [["1"]]) == "| recall[a\\|b] |\n| --- |\n| 1 |"
