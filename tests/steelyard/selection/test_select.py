"""The choice, over scorecards written for the purpose."""

from collections.abc import Mapping

import numpy as np
import pytest

from steelyard.contract import Contract
from steelyard.data.dataset import DatasetRef
from steelyard.errors import InputError, MetricNotMeasured
from steelyard.evaluation.scorecard import Hardware, Measurement, Scorecard, ScorecardIndex, SplitOutputs, Times
from steelyard.metrics import metric
from steelyard.selection.select import select

DATA = DatasetRef(content_digest="c", split_digest="s")


def card(name: str, *, failure: str | None = None, test: float = 0.9, **values: float) -> Scorecard:
    measured = {key: Measurement(value=value, bound=value, unit=metric(key).unit) for key, value in values.items()}
    quality = {key: m for key, m in measured.items() if key in ("accuracy", "macro_recall")}
    index = ScorecardIndex(
        candidate=name,
        task="classification",
        dataset=DATA,
        failure=failure,
        validation=quality,
        test={key: Measurement(value=test, bound=test, unit="fraction") for key in quality},
        model={key: m for key, m in measured.items() if key not in quality},
        hardware=Hardware(hardware_class="cpu", rounds=30, images_per_round=20),
    )
    return Scorecard(index=index, outputs={})


def contract(epsilon: float = 0.01, **must: str) -> Contract:
    metrics: dict[str, dict[str, object]] = {
        "accuracy": {"weight": 3, "worst": 0.5, "ideal": 1.0},
        "latency_p50_ms": {"weight": 1, "worst": 100, "ideal": 1},
    }
    for name, limit in must.items():
        metrics[name]["must"] = limit
    return Contract.model_validate({"client": "acme", "epsilon": epsilon, "metrics": metrics})


SMALL = card("small", accuracy=0.90, latency_p50_ms=2)
LARGE = card("large", accuracy=0.95, latency_p50_ms=10)


@pytest.mark.parametrize(("limit", "winner"), [("<= 5", "small"), ("<= 50", "large")])
def test_the_latency_limit_decides(limit: str, winner: str) -> None:
    wanted = Contract.model_validate(
        {
            **contract(latency_p50_ms=limit).model_dump(),
            "metrics": {
                "accuracy": {"weight": 9, "worst": 0.5, "ideal": 1.0},
                "latency_p50_ms": {"weight": 1, "worst": 100, "ideal": 1, "must": limit},
            },
        }
    )
    assert select([SMALL, LARGE], wanted).winner == winner


def test_utility_is_the_weighted_mean_of_what_values_are_worth_to_the_client() -> None:
    ranked = {r.candidate: r for r in select([SMALL, LARGE], contract()).ranking}
    worth = {"accuracy": (0.90 - 0.5) / 0.5, "latency_p50_ms": np.log(100 / 2) / np.log(100)}
    assert ranked["small"].desirability == pytest.approx(worth)
    assert ranked["small"].utility == pytest.approx(0.75 * worth["accuracy"] + 0.25 * worth["latency_p50_ms"])


def test_a_limit_holds_for_the_bound_rather_than_the_value() -> None:
    lucky = card("lucky", accuracy=0.93, latency_p50_ms=2)
    unsure = lucky.index.validation["accuracy"].model_copy(update={"bound": 0.89})
    lucky.index.validation["accuracy"] = unsure
    selection = select([lucky], contract(accuracy=">= 0.9"))
    assert selection.winner is None
    assert selection.rejected[0].violations[0].bound == 0.89
    assert "accuracy must be >= 0.9" in selection.why


def test_nobody_is_a_valid_answer() -> None:
    selection = select([SMALL, LARGE, card("bad", failure="training: nan")], contract(accuracy=">= 0.99"))
    assert (selection.winner, selection.utility, selection.ranking, selection.test) == (None, None, (), {})
    assert {one.candidate for one in selection.rejected} == {"small", "large", "bad"}
    assert "2 of 3 candidates miss a hard limit and 1 failed" in selection.why


def test_a_failed_candidate_is_rejected_with_its_reason_and_the_rest_compete() -> None:
    selection = select([SMALL, card("bad", failure="training: the loss became nan")], contract())
    assert selection.winner == "small"
    assert [(r.candidate, r.reason) for r in selection.rejected] == [("bad", "training: the loss became nan")]


def test_among_the_tied_the_cheapest_wins() -> None:
    dear, cheap = card("dear", accuracy=0.905, latency_p50_ms=3.0), card("cheap", accuracy=0.900, latency_p50_ms=2.9)
    selection = select([dear, cheap], contract(epsilon=0.02))
    assert selection.winner == "cheap"
    assert all(ranked.tied for ranked in selection.ranking)
    assert "cheapest" in selection.why
    assert select([dear, cheap], contract(epsilon=0.0)).winner == "dear"


def test_a_candidate_outside_the_tie_set_changes_nothing() -> None:
    junk = card("junk", accuracy=0.02, latency_p50_ms=0.005)
    before, after = select([SMALL, LARGE], contract()), select([SMALL, junk, LARGE], contract())
    assert (before.winner, before.utility) == (after.winner, after.utility)
    assert [r for r in after.ranking if r.candidate != "junk"] == list(before.ranking)


def test_times_of_different_hardware_never_decide_between_the_tied() -> None:
    wanted = Contract.model_validate({"client": "a", "metrics": {"accuracy": {"weight": 1, "worst": 0, "ideal": 1}}})
    fast = card("fast", accuracy=0.9, latency_p50_ms=0.1, model_size_mib=9.0)
    other = card("other", accuracy=0.9, latency_p50_ms=9.0, model_size_mib=1.0)
    assert select([fast, other], wanted).winner == "fast"
    elsewhere = other.index.hardware.model_copy(update={"hardware_class": "gpu"})  # type: ignore[union-attr]
    moved = Scorecard(index=other.index.model_copy(update={"hardware": elsewhere}), outputs={})
    selection = select([fast, moved], wanted)
    assert selection.winner == "other"
    assert "ms per image" not in selection.why


def test_the_order_of_the_scorecards_does_not_matter() -> None:
    assert select([SMALL, LARGE], contract()) == select([LARGE, SMALL], contract())


@pytest.mark.parametrize("name", ["accuracy", "latency_p50_ms"])
def test_a_better_value_never_lowers_a_rank(name: str) -> None:
    best_last = {"accuracy": np.linspace(0.5, 1, 21), "latency_p50_ms": np.geomspace(100, 1, 21)}[name]
    ranks = []
    for value in best_last:
        other = card("x", **{"accuracy": 0.9, "latency_p50_ms": 5.0, name: float(value)})
        ranks.append([r.candidate for r in select([SMALL, LARGE, other], contract()).ranking].index("x"))
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[0] == 2 > ranks[-1]


def test_the_smallest_flip_really_flips() -> None:
    selection = select([SMALL, LARGE], contract(epsilon=0.0))
    assert selection.flip is not None
    assert sum(selection.flip.weights.values()) == pytest.approx(1)
    moved = Contract.model_validate(
        {
            "client": "acme",
            "epsilon": 0,
            "metrics": {
                name: {**preference.model_dump(), "weight": selection.flip.weights[name]}
                for name, preference in contract().metrics.items()
            },
        }
    )
    assert select([SMALL, LARGE], moved).winner == selection.flip.to != selection.winner
    half = {name: (selection.flip.weights[name] + selection.weights[name]) / 2 for name in selection.weights}
    between = Contract.model_validate(
        {
            "client": "acme",
            "epsilon": 0,
            "metrics": {
                name: {**preference.model_dump(), "weight": half[name]}
                for name, preference in contract().metrics.items()
            },
        }
    )
    assert select([SMALL, LARGE], between).winner == selection.winner


def test_a_candidate_that_is_better_in_everything_can_t_be_flipped() -> None:
    worse = card("worse", accuracy=0.7, latency_p50_ms=50)
    assert select([SMALL, worse], contract()).flip is None


def test_the_test_split_is_published_for_the_winner_with_the_optimism() -> None:
    selection = select([card("only", accuracy=0.95, test=0.93, latency_p50_ms=2)], contract())
    assert selection.test["accuracy"].value == 0.93
    assert selection.optimism == {"accuracy": pytest.approx(0.02)}


def test_a_metric_that_was_not_measured_is_named_with_what_there_is() -> None:
    with pytest.raises(MetricNotMeasured, match="'small' has no 'latency_p50_ms'; it has: accuracy"):
        select([card("small", accuracy=0.9)], contract())


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": DATA.model_copy(update={"split_digest": "other"})},
        {"hardware": Hardware(hardware_class="gpu", rounds=1, images_per_round=1)},
        {"candidate": "small"},
    ],
)
def test_what_can_t_be_compared_is_refused(change: Mapping[str, object]) -> None:
    other = Scorecard(index=LARGE.index.model_copy(update=dict(change)), outputs={})
    with pytest.raises(InputError):
        select([SMALL, other], contract())


def _with_answers(name: str, hit_rate: float, seed: int, images: int = 400) -> Scorecard:
    random = np.random.default_rng(seed)
    labels_N = np.arange(images) % 2
    answered_N = np.where(random.random(images) < hit_rate, labels_N, 1 - labels_N)
    outputs = SplitOutputs(probabilities_NC=np.eye(2, dtype=np.float32)[answered_N], labels_N=labels_N)
    plain = card(name, accuracy=float((answered_N == labels_N).mean()), latency_p50_ms=2)
    index = plain.index.model_copy(update={"classes": ("a", "b")})
    times = Times(np.full((30, 20), 2.0), np.full(30, 100.0))
    return Scorecard(index=index, outputs={"validation": outputs, "test": outputs}, times=times)


def test_the_chance_of_being_best_is_sure_where_the_gap_is_wide_and_even_where_there_is_none() -> None:
    wide = select([_with_answers("good", 0.95, 0), _with_answers("bad", 0.7, 1)], contract())
    assert {r.candidate: r.p_best for r in wide.ranking} == pytest.approx({"good": 1, "bad": 0}, abs=0.01)
    same = [_with_answers(name, 0.9, seed) for seed, name in enumerate(("a", "b", "c"))]
    chances = [r.p_best for r in select(same, contract()).ranking]
    assert sum(c for c in chances if c is not None) == pytest.approx(1)
    assert all(c is not None and 0.1 < c < 0.75 for c in chances)


def test_without_the_answers_behind_a_scorecard_no_chance_is_claimed() -> None:
    assert [r.p_best for r in select([SMALL, LARGE], contract()).ranking] == [None, None]
