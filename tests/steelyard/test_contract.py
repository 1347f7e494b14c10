import pytest

from steelyard.contract import Contract
from steelyard.errors import InvalidFile

GOOD = """
client: acme
metrics:
  accuracy: {weight: 5, worst: 0.9, ideal: 0.995, must: ">= 0.92"}
  recall[cat]: {weight: 1, worst: 0.5, ideal: 1}
  latency_p95_ms: {weight: 2, worst: 20, ideal: 0.5, must: "<= 25"}
"""


def test_limits_are_read_in_the_metric_s_unit() -> None:
    metrics = Contract.from_yaml(GOOD).metrics
    assert (metrics["accuracy"].limit, metrics["latency_p95_ms"].limit, metrics["recall[cat]"].limit) == (
        0.92,
        25,
        None,
    )


@pytest.mark.parametrize(
    ("wrong", "right", "complaint"),
    [
        ("accuracy:", "acuracy:", r"metrics\.acuracy: unknown metric; did you mean 'accuracy'\?"),
        ("recall[cat]", "recal[cat]", r"metrics\.recal\[cat\]: unknown metric"),
        ("weight: 5", "wieght: 5", r"metrics\.accuracy\.wieght: unknown key; did you mean 'weight'\?"),
        ("weight: 5", "weight: -5", r"metrics\.accuracy\.weight: .*greater than or equal to 0"),
        ("weight: 5", "weight: .nan", r"metrics\.accuracy\.weight: .*finite"),
        ("worst: 20, ideal: 0.5", "worst: 5, ideal: 5", r"metrics\.latency_p95_ms: worst and ideal are equal"),
        ("worst: 20, ideal: 0.5", "worst: 5, ideal: 20", r"lower is better, so ideal must be lower than worst"),
        ("worst: 20, ideal: 0.5", "worst: 20, ideal: 0", r"worst and ideal must be above 0"),
        ('">= 0.92"', '"<= 0.92"', r"metrics\.accuracy\.must: use >= for this metric"),
        ('">= 0.92"', '"about 0.9"', r"metrics\.accuracy\.must: .*'about 0\.9'"),
        ('">= 0.92"', '">= -3"', r"metrics\.accuracy\.must: must be a finite number of at least 0"),
        ('">= 0.92"', '">= 1e999"', r"metrics\.accuracy\.must: must be a finite number"),
        ("worst: 0.9, ideal: 0.995", "worst: 90, ideal: 99.5", r"metrics\.accuracy: is a fraction"),
        ("client: acme", "client: Acme Corp", r"client: must be a DNS label"),
        ('must: "<= 25"', "must: 25", r"metrics\.latency_p95_ms\.must: must say on which side the limit is: '>= 25'"),
        (
            "ideal: 0.5",
            "ideal: 19.999999999999996",
            r"metrics\.latency_p95_ms: worst and ideal are equal, or nearly so",
        ),
        ("<= 25", "<= 1e308", r"metrics\.latency_p95_ms: worst, ideal and must are from 1e-12 to 1e12"),
        ("client: acme", "", r"client: is missing"),
    ],
)
def test_a_mistake_is_named_with_its_key(wrong: str, right: str, complaint: str) -> None:
    with pytest.raises(InvalidFile, match=rf"^c\.yaml: .*{complaint}") as caught:
        Contract.from_yaml(GOOD.replace(wrong, right), "c.yaml")
    assert "\n" not in str(caught.value)


def test_weights_that_are_all_zero_are_refused() -> None:
    with pytest.raises(InvalidFile, match="at least one weight must be above 0"):
        Contract.from_yaml("client: a\nmetrics: {accuracy: {weight: 0, worst: 0, ideal: 1}}")


def test_a_contract_is_held_against_the_task_and_the_classes() -> None:
    wanted = Contract.from_yaml(GOOD)
    wanted.check_task("classification")
    wanted.check_classes(["cat", "dog"])
    with pytest.raises(InvalidFile, match=r"metrics\.recall\[cat\]: there is no class 'cat'; did you mean 'cats'\?"):
        wanted.check_classes(["cats", "dogs"])
    with pytest.raises(InvalidFile, match="is a metric of classification, and the task is segmentation"):
        wanted.check_task("segmentation")


@pytest.mark.parametrize(("classes", "right"), [(6, True), (5, False), (3, False)])
def test_a_rank_that_every_answer_reaches_is_refused(classes: int, right: bool) -> None:
    wanted = Contract.from_yaml(GOOD.replace("accuracy:", "top_5_accuracy:").replace("recall[cat]", "macro_f1"))
    labels = [str(c) for c in range(classes)]
    if right:
        wanted.check_classes(labels)
    else:
        with pytest.raises(InvalidFile, match=rf"top_5_accuracy: is always 1, as there are {classes} classes"):
            wanted.check_classes(labels)


@pytest.mark.parametrize(
    "name", ["top_1_accuracy", "top_0_accuracy", "top_K_accuracy", "top_x_accuracy", "iou", "recall"]
)
def test_names_that_only_look_like_metrics_are_unknown(name: str) -> None:
    with pytest.raises(InvalidFile, match="unknown metric"):
        Contract.from_yaml(GOOD.replace("accuracy:", f"{name}:"))


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        ("price_per_hour: 0", "price_per_hour: .*greater than 0"),
        ("price_per_hour: -1", "price_per_hour: .*greater than 0"),
        ("price_per_hour: 1.0e-320", "price_per_hour: must be from 1e-12 to 1e12"),
        ("switching_margin: 1", "switching_margin: .*less than 1"),
        ("epsilon: -0.1", "epsilon: .*greater than or equal to 0"),
        ("hardware_klass: cpu", "hardware_klass: unknown key; did you mean 'hardware_class'"),
        ("metrics: {}", "key 'metrics' stands twice"),
    ],
)
def test_a_mistake_beside_the_metrics_is_named_too(extra: str, complaint: str) -> None:
    with pytest.raises(InvalidFile, match=complaint):
        Contract.from_yaml(f"{GOOD}{extra}\n")
