"""The choice, over scorecards written for the purpose."""

from collections.abc import Mapping

import numpy as np
import pytest

from steelyard.errors import InputError, MetricNotMeasured
from steelyard.evaluation.scorecard import Hardware
from steelyard.selection.publish import choose
from steelyard.selection.select import select
from tests.steelyard.selection.selection_kit import DATA, card, changed, contract, reweighted, with_answers, written

SMALL = card("small", accuracy=0.90, latency_p50_ms=2)
LARGE = card("large", accuracy=0.95, latency_p50_ms=10)


@pytest.mark.parametrize(("limit", "winner"), [("<= 5", "small"), ("<= 50", "large")])
def test_the_latency_limit_decides(limit: str, winner: str) -> None:
    wanted = reweighted(contract(latency_p50_ms=limit), {"accuracy": 9, "latency_p50_ms": 1})
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


def test_the_price_decides_between_the_tied_where_the_contract_gives_one() -> None:
    """A batch may be answered faster by what answers a single image more slowly."""
    quick = card("quick", accuracy=0.9, latency_p50_ms=1.0, throughput_images_per_s=100.0, model_size_mib=1.0)
    thrifty = card("thrifty", accuracy=0.9, latency_p50_ms=1.1, throughput_images_per_s=900.0, model_size_mib=9.0)
    free, priced = contract(epsilon=0.02), written(contract().model_dump()["metrics"], epsilon=0.02, price_per_hour=3.6)
    assert select([quick, thrifty], free).winner == "quick"
    answer = select([quick, thrifty], priced)
    assert answer.winner == "thrifty"
    assert {r.candidate: r.cost.dollars_per_million for r in answer.ranking} == pytest.approx(
        {"quick": 10.0, "thrifty": 1e6 * 3.6 / 3600 / 900}
    )
    assert "the cheapest of them ($1.11 per million images)" in answer.why


def test_between_equals_in_price_and_time_the_smaller_wins_and_then_the_first_by_name() -> None:
    same = {"accuracy": 0.9, "latency_p50_ms": 2.0}
    big, small = card("a", model_size_mib=2.0, **same), card("b", model_size_mib=1.0, **same)
    assert select([big, small], contract()).winner == "b"
    assert select([card("b", **same), card("a", **same)], contract()).winner == "a"
    assert select([card("a", **same), small], contract()).winner == "b", "a known size is less than an unknown one"


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


def test_the_test_split_is_published_for_the_winner_with_the_optimism() -> None:
    selection = choose([card("only", accuracy=0.95, test=0.93, latency_p50_ms=2)], contract())
    assert selection.test["accuracy"].value == 0.93
    assert selection.optimism == {"accuracy": pytest.approx(0.02)}


def test_a_metric_that_was_not_measured_is_named_with_what_there_is() -> None:
    with pytest.raises(MetricNotMeasured, match="'small' has no 'latency_p50_ms'; it has: accuracy"):
        select([card("small", accuracy=0.9)], contract())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"dataset": DATA.model_copy(update={"evaluation_digest": "other"})}, "were measured on different data"),
        ({"hardware": Hardware(hardware_class="gpu", rounds=1, images_per_round=1)}, "times of different hardware"),
        ({"candidate": "small"}, "two scorecards are named 'small'"),
        ({"task": "segmentation"}, "are of different tasks: segmentation and classification"),
    ],
)
def test_what_can_t_be_compared_is_refused(change: Mapping[str, object], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        select([SMALL, changed(LARGE, **change)], contract())


def test_equal_validation_and_test_images_are_enough_to_be_compared() -> None:
    """Models of other training images compete: what they were judged on is what counts."""
    retrained = changed(LARGE, dataset=DATA.model_copy(update={"content_digest": "new", "split_digest": "new"}))
    assert {r.candidate for r in select([SMALL, retrained], contract()).ranking} == {"small", "large"}


def test_the_chance_of_being_best_is_sure_where_the_gap_is_wide_and_even_where_there_is_none() -> None:
    wide = select([with_answers("good", 0.95, 0), with_answers("bad", 0.7, 1)], contract())
    assert {r.candidate: r.p_best for r in wide.ranking} == pytest.approx({"good": 1, "bad": 0}, abs=0.01)
    same = [with_answers(name, 0.9, seed) for seed, name in enumerate(("a", "b", "c"))]
    chances = [r.p_best for r in select(same, contract()).ranking]
    assert sum(c for c in chances if c is not None) == pytest.approx(1)
    assert all(c is not None and 0.1 < c < 0.75 for c in chances)


def test_without_the_answers_behind_a_scorecard_no_chance_is_claimed() -> None:
    assert [r.p_best for r in select([SMALL, LARGE], contract()).ranking] == [None, None]
    assert [r.loss_bound for r in select([SMALL, LARGE], contract()).ranking] == [None, None]


def test_a_choice_is_the_same_each_time_and_its_seed_moves_chances_only() -> None:
    cards = [with_answers(name, 0.9, seed) for seed, name in enumerate(("a", "b", "c"))]
    assert choose(cards, contract(), seed=3) == choose(cards[::-1], contract(), seed=3)
    one, other = choose(cards, contract(), seed=3), choose(cards, contract(), seed=4)
    assert (one.winner, one.utility) == (other.winner, other.utility)
    assert [r.p_best for r in one.ranking] != [r.p_best for r in other.ranking]


@pytest.mark.parametrize(("margin", "winner"), [(0.05, "champion"), (0.0, "better")])
def test_a_champion_is_replaced_only_beyond_the_switching_margin(margin: float, winner: str) -> None:
    champion = card("champion", accuracy=0.90, latency_p50_ms=2)
    better = card("better", accuracy=0.92, latency_p50_ms=2)  # worth 0.03 more
    selection = select([champion, better], contract(epsilon=0.0, margin=margin), serving="key of champion")
    assert (selection.winner, selection.champion) == (winner, "champion")
    assert not {r.candidate: r.tied for r in selection.ranking}["champion"]
    if winner == "champion":
        assert "it serves now, and better, which would be chosen otherwise, is better by 0.030" in selection.why
        assert "switching margin of 0.05" in selection.why


def test_a_champion_that_leads_is_not_called_the_cheapest_where_it_is_not() -> None:
    champion = card("champion", accuracy=0.905, latency_p50_ms=3)
    thrifty = card("thrifty", accuracy=0.900, latency_p50_ms=2.9)
    selection = select([champion, thrifty], contract(epsilon=0.02), serving="key of champion")
    assert selection.winner == "champion"
    assert "cheapest" not in selection.why
    assert "thrifty, which would be chosen otherwise, is cheaper but no better" in selection.why


def test_a_champion_that_is_not_eligible_has_no_right_to_stay() -> None:
    champion = card("champion", accuracy=0.90, latency_p50_ms=2)
    better = card("better", accuracy=0.92, latency_p50_ms=2)
    for gone in (changed(champion, failure="training: nan"), champion):
        wanted = contract(margin=0.5, accuracy=">= 0.91")
        assert select([gone, better], wanted, serving="key of champion").winner == "better"


def test_a_model_that_serves_and_was_not_measured_here_is_spoken_of() -> None:
    better = card("better", accuracy=0.92, latency_p50_ms=2)
    selection = select([better], contract(margin=0.5), serving="key of long-gone")
    assert (selection.winner, selection.champion, selection.serving) == ("better", None, "key of long-gone")
    assert selection.why.endswith("is not among those measured on these images and took no part.")
    assert "took no part" not in select([better], contract()).why


def test_a_metric_without_weight_still_has_its_limit_and_counts_for_nothing() -> None:
    metrics = {
        "accuracy": {"weight": 1, "worst": 0.5, "ideal": 1},
        "latency_p50_ms": {"weight": 0, "worst": 100, "ideal": 1, "must": "<= 5"},
    }
    selection = select([SMALL, LARGE], written(metrics))
    assert selection.winner == "small"
    assert [one.candidate for one in selection.rejected] == ["large"]
    assert selection.weights == {"accuracy": 1.0, "latency_p50_ms": 0.0}
    assert selection.utility == pytest.approx(0.8)


def test_identical_candidates_share_everything_and_the_first_by_name_is_chosen() -> None:
    twins = [with_answers(name, 0.9, 5) for name in ("b", "a", "c")]
    selection = choose(twins, contract())
    assert selection.winner == "a"
    assert len({ranked.utility for ranked in selection.ranking}) == 1
    assert [r.p_best for r in selection.ranking] == pytest.approx([1 / 3] * 3, abs=0.03)
    assert [r.loss_bound for r in selection.ranking] == [0, 0, 0]
    assert all(r.tied and r.pareto for r in selection.ranking)
    assert selection.robustness is not None
    assert selection.robustness.all_weights["a"] == 1
    assert selection.robustness.flip is None


def test_one_candidate_is_chosen_if_it_may_be() -> None:
    selection = choose([with_answers("only")], contract())
    assert (selection.winner, selection.ranking[0].p_best, selection.ranking[0].loss_bound) == ("only", 1, 0)
    assert "no other candidate is eligible" in selection.why
    assert selection.robustness is not None
    assert selection.robustness.needed == {"only": {}}


def test_all_failed_is_an_answer() -> None:
    selection = choose([card("a", failure="training: nan"), card("b", failure="export: differs")], contract())
    assert (selection.winner, selection.robustness, selection.test) == (None, None, {})
    assert "0 of 2 candidates miss a hard limit and 2 failed" in selection.why


def test_of_those_that_miss_as_many_limits_the_nearest_is_the_one_that_misses_by_least() -> None:
    far, near = card("a-far", accuracy=0.5, latency_p50_ms=1), card("b-near", accuracy=0.8, latency_p50_ms=1)
    assert "the nearest is b-near: accuracy" in select([far, near], contract(accuracy=">= 0.9")).why
