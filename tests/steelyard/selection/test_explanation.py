"""A contract in words says what the selector does."""

import numpy as np
import pytest

from steelyard.contract import Contract, Preference
from steelyard.evaluation.answers import SplitOutputs
from steelyard.evaluation.bounds import measure_quality
from steelyard.metrics import known_names, metric
from steelyard.selection.explanation import explain, images_needed, unprovable
from steelyard.selection.utility import desirability
from tests.steelyard.selection.selection_kit import written

ACME = """
client: acme
metrics:
  accuracy: {weight: 5, worst: 0.90, ideal: 0.995, must: ">= 0.98"}
  recall[cat]: {weight: 2, worst: 0.85, ideal: 0.99, must: ">= 0.9"}
  latency_p95_ms: {weight: 2, worst: 20, ideal: 0.5, must: "<= 25"}
  model_size_mib: {weight: 0, worst: 50, ideal: 0.2, must: "<= 40"}
  throughput_images_per_s: {weight: 1, worst: 10, ideal: 1000}
epsilon: 0.01
switching_margin: 0.02
price_per_hour: 0.5
hardware_class: "one Xeon core"
"""


def test_every_part_of_a_contract_is_told() -> None:
    text = explain(Contract.from_yaml(ACME))
    for said in (
        "What acme needs",
        "accuracy: 50 % of all weight",
        "must be at least 0.98, with 95 % certainty",
        "fewer than 149 validation images can't show that, even without an error",
        "worth nothing at 0.9 and below, and all of its 50 points at 0.995 and above",
        "between the two 0.01 more is worth 5.26 points",
        "fewer than 29 validation images of 'cat' can't show that",
        "must be at most 25 ms, with 95 % certainty",
        "worth nothing at 20 ms and above, and all of its 20 points at 0.5 ms and below",
        "between the two halving it is worth 3.76 points",
        "model_size_mib: no weight, only a limit\n  must be at most 40 MiB; whoever misses that is out\n\n",
        "between the two doubling it is worth 1.51 points",
        "at most 1 point below the best (epsilon 0.01), which is as much as 0.0019 of accuracy alone",
        "gives way only to what is better by more than 2 points (switching margin 0.02)",
        "by dollars per image at $0.5 per hour, then milliseconds per image, then MiB, then name",
        "Times are those of one Xeon core.",
    ):
        assert said in text


def test_what_is_left_out_is_told_too() -> None:
    metrics = {"accuracy": {"weight": 1, "worst": 0, "ideal": 1}, "parameters": {"weight": 0, "worst": 9, "ideal": 1}}
    text = explain(written(metrics, epsilon=0, switching_margin=0))
    assert "parameters: no weight and no limit, it counts for nothing" in text
    assert "Only candidates of equal utility are equals (epsilon 0)." in text
    assert "gives way to anything better" in text
    assert "Times" not in text


@pytest.mark.parametrize("name", [n.replace("CLASS", "a").replace("top_K", "top_3") for n in known_names()])
def test_every_metric_can_be_told_with_a_limit(name: str) -> None:
    better = metric(name).higher_is_better
    scale = {"worst": 0.2, "ideal": 0.9, "must": ">= 0.5"} if better else {"worst": 0.9, "ideal": 0.2, "must": "<= 0.5"}
    text = explain(written({name: {"weight": 1, **scale}}, price_per_hour=1.0))
    assert f"{name}: 100 % of all weight" in text
    assert "0.5" in text
    assert "nan" not in text


def test_a_step_is_worth_what_the_selector_gives_for_it() -> None:
    accuracy = Preference(weight=1, worst=0.90, ideal=0.995)
    gained = desirability("accuracy", [0.95, 0.96], accuracy)
    assert f"0.01 more is worth {100 * (gained[1] - gained[0]):.3g} points" in explain(written({"accuracy": accuracy}))
    latency = Preference(weight=1, worst=20, ideal=0.5)
    gained = desirability("latency_p95_ms", [8, 4], latency)
    told = explain(written({"latency_p95_ms": latency}))
    assert f"halving it is worth {100 * (gained[1] - gained[0]):.3g} points" in told


def test_epsilon_is_as_much_of_one_metric_as_is_told() -> None:
    latency = Preference(weight=1, worst=20, ideal=0.5)
    assert "as much as 3.76 % of latency_p95_ms alone" in explain(written({"latency_p95_ms": latency}, epsilon=0.01))
    one, other = desirability("latency_p95_ms", [2, 2 * 1.0376], latency)
    assert one - other == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "must", "images"),
    [
        ("accuracy", ">= 0.98", 149),
        ("accuracy", ">= 0.5", 5),
        ("accuracy", ">= 0", 1),
        ("accuracy", ">= 1", 0),
        ("top_5_accuracy", ">= 0.999", 2995),
        ("worst_class_recall", ">= 0.9", 29),
        ("recall[a]", ">= 0.9", 29),
        ("precision[a]", ">= 0.9", 29),
        ("f1[a]", ">= 0.9", 36),
        ("false_positive_rate[a]", "<= 0.02", 149),
        ("false_positive_rate[a]", "<= 0", 0),
        ("roc_auc", ">= 0.9", None),
        ("mean_iou", ">= 0.9", None),
        ("latency_p95_ms", "<= 3", None),
        ("accuracy", None, None),
    ],
)
def test_the_images_that_a_limit_takes(name: str, must: str | None, images: int | None) -> None:
    assert images_needed(name, Preference(weight=1, worst=0, ideal=1, must=must)) == images


@pytest.mark.parametrize("name", ["accuracy", "recall[a]", "precision[a]", "f1[a]", "false_positive_rate[b]"])
@pytest.mark.parametrize("limit", [0.6, 0.9, 0.97, 0.985])
def test_with_one_image_fewer_the_shipped_bound_misses_the_limit(name: str, limit: float) -> None:
    """All images that count are of class a, and none is answered wrongly."""
    must = f"<= {1 - limit:g}" if name.startswith("false") else f">= {limit:g}"
    preference = Preference(weight=1, worst=0, ideal=1, must=must)
    images = images_needed(name, preference)
    assert images
    for count, met in ((images, True), (images - 1, False)):
        labels_N = np.zeros(count, np.int64) if "b" in name or name == "accuracy" else np.r_[np.zeros(count, int), 1]
        answers = SplitOutputs(probabilities_NC=np.eye(2, dtype=np.float32)[labels_N], labels_N=labels_N)
        assert preference.met_by(measure_quality(answers, "ab", [name])[name].bound) == met


def test_a_split_that_is_too_small_for_a_limit_is_named_with_the_bound_it_allows() -> None:
    wanted = written(
        {
            "accuracy": {"weight": 1, "worst": 0.5, "ideal": 1, "must": ">= 0.98"},
            "recall[b]": {"weight": 1, "worst": 0.5, "ideal": 1, "must": ">= 0.9"},
            "log_loss": {"weight": 1, "worst": 1, "ideal": 0.1},
        }
    )
    found = unprovable(wanted, "classification", "ab", {"a": 140, "b": 28}, 168)
    assert list(found) == ["recall[b]"]
    assert "168 images can't show" in found["recall[b]"]
    assert "only at least 0.8985" in found["recall[b]"]
    assert unprovable(wanted, "classification", "ab", {"a": 140, "b": 29}, 169) == {}
    assert list(unprovable(wanted, "classification", "ab", {"a": 100, "b": 48}, 148)) == ["accuracy"]


def test_masks_are_counted_by_images() -> None:
    wanted = written({"mean_iou": {"weight": 1, "worst": 0.5, "ideal": 1, "must": ">= 0.9"}})
    assert list(unprovable(wanted, "segmentation", "ab", {"a": 10_000, "b": 5_000}, 20)) == ["mean_iou"]
    assert unprovable(wanted, "segmentation", "ab", {"a": 10_000, "b": 5_000}, 200) == {}


def test_what_is_too_large_to_look_at_is_not_called_enough() -> None:
    wanted = written({"accuracy": {"weight": 1, "worst": 0.5, "ideal": 1, "must": ">= 0.9"}})
    assert unprovable(wanted, "classification", [str(c) for c in range(1000)], {}, 1_000_000) is None
