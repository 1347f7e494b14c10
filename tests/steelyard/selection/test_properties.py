"""What holds of every ranking, whoever the candidates are and whatever the client wants."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from steelyard.contract import Contract
from steelyard.evaluation.scorecard import Scorecard
from steelyard.metrics import metric
from steelyard.selection.decision import pareto_front
from steelyard.selection.select import select
from steelyard.selection.selection import Ranked, Selection
from tests.steelyard.selection.selection_kit import card, written

SCALES = {  # worst, ideal; the last two are costs too
    "accuracy": (0.5, 1.0),
    "macro_false_positive_rate": (0.4, 0.0),
    "log_loss": (2.0, 0.1),
    "latency_p95_ms": (100.0, 1.0),
    "parameters": (1e7, 1e3),
    "latency_p50_ms": (50.0, 0.5),
    "model_size_mib": (100.0, 0.1),
}


@dataclass(frozen=True)
class Field:
    """Candidates, by name and metric, and what the client wants."""

    values: dict[str, dict[str, float]]
    contract: Contract

    @property
    def cards(self) -> list[Scorecard]:
        return [card(name, **values) for name, values in self.values.items()]

    def select(self, champion: str | None = None) -> Selection:
        return select(self.cards, self.contract, serving=champion and f"key of {champion}")

    def having(self, name: str, **values: float) -> "Field":
        """Return the same with a candidate that is new or changed."""
        return Field({**self.values, name: {**self.values.get(name, {}), **values}}, self.contract)


def value_of(name: str, worth: float) -> float:
    """Return the value of a metric that is worth this much; below 0 and above 1 lie beyond worst and ideal."""
    worst, ideal = SCALES[name]
    if metric(name).scale == "log":
        return float(worst * (ideal / worst) ** worth)
    value = worst + worth * (ideal - worst)
    return float(np.clip(value, 0, 1)) if metric(name).unit == "fraction" else max(float(value), 0.0)


def worths(coarse: bool) -> st.SearchStrategy[float]:
    """Draw worths: coarse ones make ties."""
    return st.integers(-1, 11).map(lambda tenth: tenth / 10) if coarse else st.floats(-0.2, 1.2)


@st.composite
def candidate_values(draw: st.DrawFn, names: list[str], coarse: bool) -> dict[str, float]:
    return {name: value_of(name, draw(worths(coarse))) for name in names}


@st.composite
def fields(draw: st.DrawFn, least: int = 1, most: int = 6) -> Field:
    names = draw(st.lists(st.sampled_from(sorted(SCALES)), min_size=1, max_size=4, unique=True))
    coarse = draw(st.booleans())
    weights = draw(st.lists(st.integers(0, 5), min_size=len(names), max_size=len(names)).filter(any))
    metrics = {
        name: {"weight": weight, "worst": SCALES[name][0], "ideal": SCALES[name][1]}
        for name, weight in zip(names, weights, strict=True)
    }
    contract = written(
        metrics,
        epsilon=draw(st.sampled_from([0.0, 0.01, 0.05, 0.2])),
        switching_margin=draw(st.sampled_from([0.0, 0.01, 0.1])),
    )
    count = draw(st.integers(least, most))
    values = {f"c{number}": draw(candidate_values(names, coarse)) for number in range(count)}
    return Field(values, contract)


def order(selection: Selection, without: str = "") -> list[str]:
    return [ranked.candidate for ranked in selection.ranking if ranked.candidate != without]


def by_name(selection: Selection) -> dict[str, Ranked]:
    return {ranked.candidate: ranked for ranked in selection.ranking}


FAST = settings(max_examples=60)


@given(fields(), st.data())
@FAST
def test_a_better_value_never_costs_utility_or_rank(field: Field, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(field.values)))
    measure = data.draw(st.sampled_from(sorted(field.contract.metrics)))
    best = value_of(measure, data.draw(st.floats(0, 1.2)))
    if (best > field.values[name][measure]) != metric(measure).higher_is_better:
        best = field.values[name][measure]
    before, after = field.select(), field.having(name, **{measure: best}).select()
    assert by_name(after)[name].utility >= by_name(before)[name].utility
    assert order(after).index(name) <= order(before).index(name)
    if before.winner == name:
        assert after.winner == name


@given(fields(), st.randoms(use_true_random=False))
@FAST
def test_the_order_of_the_scorecards_means_nothing(field: Field, random: "np.random.RandomState") -> None:
    cards = field.cards
    random.shuffle(cards)
    assert select(cards, field.contract) == field.select()


@given(fields(), st.data())
@FAST
def test_the_unit_of_a_metric_means_nothing(field: Field, data: st.DataObject) -> None:
    """Milliseconds or seconds: values, worst and ideal are rescaled together."""
    measure = data.draw(st.sampled_from(sorted(field.contract.metrics)))
    factor = data.draw(st.sampled_from([0.5, 0.1] if metric(measure).unit == "fraction" else [1e-3, 0.1, 7.0, 1e3]))
    metrics = field.contract.model_dump()["metrics"]
    for key in ("worst", "ideal"):
        metrics[measure][key] *= factor
    scaled = Field(
        {name: {**values, measure: values[measure] * factor} for name, values in field.values.items()},
        Contract.model_validate({**field.contract.model_dump(), "metrics": metrics}),
    )
    before, after = by_name(field.select()), by_name(scaled.select())
    assert {name: r.utility for name, r in after.items()} == pytest.approx(
        {name: r.utility for name, r in before.items()}, abs=1e-9
    )


@given(fields(), st.data())
@FAST
def test_the_unit_of_the_weights_means_nothing(field: Field, data: st.DataObject) -> None:
    factor = data.draw(st.sampled_from([0.25, 2.0, 1024.0]))
    metrics = field.contract.model_dump()["metrics"]
    for preference in metrics.values():
        preference["weight"] *= factor
    scaled = Field(field.values, Contract.model_validate({**field.contract.model_dump(), "metrics": metrics}))
    assert scaled.select().ranking == field.select().ranking
    assert scaled.select().winner == field.select().winner


@given(fields(), st.data())
@FAST
def test_no_other_candidate_changes_a_utility_or_the_order_of_the_rest(field: Field, data: st.DataObject) -> None:
    extra = data.draw(candidate_values(list(field.contract.metrics), data.draw(st.booleans())))
    before, after = field.select(), field.having("extra", **extra).select()
    assert order(after, without="extra") == order(before)
    for name, ranked in by_name(before).items():
        assert by_name(after)[name].utility == ranked.utility
        assert by_name(after)[name].contribution == ranked.contribution


@given(fields(), st.data())
@FAST
def test_a_candidate_outside_the_tie_set_changes_nothing_at_all(field: Field, data: st.DataObject) -> None:
    extra = data.draw(candidate_values(list(field.contract.metrics), data.draw(st.booleans())))
    champion = data.draw(st.sampled_from([None, *sorted(field.values)]))
    before, after = field.select(champion), field.having("extra", **extra).select(champion)
    assume(not by_name(after)["extra"].tied)
    assert (after.winner, after.utility) == (before.winner, before.utility)
    assert order(after, without="extra") == order(before)
    assert {n: r.tied for n, r in by_name(after).items() if n != "extra"} == {
        n: r.tied for n, r in by_name(before).items()
    }


@given(fields(), st.data())
@FAST
def test_the_winner_is_the_cheapest_of_the_tied_or_the_champion(field: Field, data: st.DataObject) -> None:
    champion = data.draw(st.sampled_from([None, "gone", *sorted(field.values)]))
    selection = field.select(champion)
    ranked = by_name(selection)
    best = max(r.utility for r in ranked.values())
    assert {n for n, r in ranked.items() if r.tied} == {
        n for n, r in ranked.items() if r.utility >= best - field.contract.epsilon - 1e-12
    }
    cheapest = min((r for r in ranked.values() if r.tied), key=lambda r: r.cost.order(r.candidate))
    if selection.winner != cheapest.candidate:
        assert selection.winner == champion
        assert cheapest.utility <= ranked[str(champion)].utility + field.contract.switching_margin + 1e-12
    elif champion in ranked and champion != selection.winner:
        assert cheapest.utility > ranked[champion].utility + field.contract.switching_margin


@given(fields(least=1, most=8))
@FAST
def test_the_pareto_front_is_that_of_every_pair_compared(field: Field) -> None:
    named = [name for name, preference in field.contract.metrics.items() if preference.weight]

    def beats(one: dict[str, float], other: dict[str, float]) -> bool:
        gains = [(one[n] - other[n]) * (1 if metric(n).higher_is_better else -1) for n in named]
        return min(gains) >= 0 and max(gains) > 0

    on_front = {
        name
        for name, values in field.values.items()
        if not any(beats(other, values) for other in field.values.values())
    }
    assert {r.candidate for r in field.select().ranking if r.pareto} == on_front


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 10_000))
@FAST
def test_somebody_is_always_on_the_pareto_front_and_equals_are_together(count: int, metrics: int, seed: int) -> None:
    values_KM = np.random.default_rng(seed).integers(0, 4, (count, metrics)).astype(float)
    front_K = pareto_front(values_KM)
    assert front_K.any()
    for k in range(count):
        assert len(set(front_K[(values_KM == values_KM[k]).all(1)])) == 1
