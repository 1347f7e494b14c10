"""Scorecards that are damaged, foreign or incomplete: refused in one clear sentence, or handled."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from steelyard.contract import Contract
from steelyard.errors import ArtifactError, InputError, InvalidFile, MetricNotMeasured
from steelyard.evaluation.answers import MaskCounts
from steelyard.evaluation.measurement import Measurement
from steelyard.evaluation.scorecard import Scorecard, ScorecardIndex
from steelyard.evaluation.times import Times
from steelyard.report.outcome import write_outcome
from steelyard.selection.publish import choose
from steelyard.selection.select import read_scorecards, select
from tests.steelyard.selection.selection_kit import DATA, card, changed, contract, with_answers, written

NAMES = ("first", "second", "third")


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Three scorecards on disk, the first clearly the best."""
    for seed, (name, hit_rate) in enumerate(zip(NAMES, (0.95, 0.8, 0.7), strict=True)):
        with_answers(name, hit_rate, seed).write(tmp_path / name)
    return {name: tmp_path / name for name in NAMES}


def answer(folders: dict[str, Path], wanted: Contract | None = None) -> str | None:
    return choose(read_scorecards(folders.values()), wanted or contract()).winner


def complaint(folders: dict[str, Path], wanted: Contract | None = None) -> str:
    with pytest.raises(InputError) as caught:
        answer(folders, wanted)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _arrays(file: Path, **change: np.ndarray) -> None:
    with np.load(file) as arrays:
        kept = dict(arrays)
    np.savez(file, **{**kept, **change})


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def _garbage(file: Path) -> None:
    file.write_bytes(b"garbage")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_cut, "is damaged: File is not a zip file"),
        (_garbage, "is damaged: "),
        (lambda file: file.write_bytes(b""), "is damaged: "),
        (lambda file: _arrays(file, probabilities=np.full((400, 2), np.nan)), "must be numbers from 0 to 1"),
        (lambda file: _arrays(file, probabilities=np.full((400, 2), 1.01)), "must be numbers from 0 to 1"),
        (lambda file: _arrays(file, labels=np.full(400, 2)), "labels must be indices of classes"),
        (lambda file: _arrays(file, labels=np.zeros(3, int)), "not (3 labels, 2 classes)"),
        (lambda file: np.savez(file, counts=np.ones((400, 2, 2), int)), "holds no probabilities"),
    ],
)
def test_damaged_answers_are_refused_by_file(
    folders: dict[str, Path], damage: Callable[[Path], None], said: str
) -> None:
    damage(folders["second"] / "validation.npz")
    found = complaint(folders)
    assert found.startswith(f"{folders['second'] / 'validation.npz'}: ")
    assert said in found


def test_damaged_times_are_refused_by_file(folders: dict[str, Path]) -> None:
    _cut(folders["third"] / "times.npz")
    assert complaint(folders).startswith(f"{folders['third'] / 'times.npz'}: is damaged")


@pytest.mark.parametrize("images", [np.arange(400) // 200, np.arange(300) % 2])
def test_answers_for_other_images_are_refused(images: np.ndarray, folders: dict[str, Path]) -> None:
    with_answers("second", 0.8, 1, labels_N=images).write(folders["second"])
    assert complaint(folders) == "'first' and 'second' answered for different images"


def test_masks_of_other_images_are_refused_though_they_are_as_many() -> None:
    """Masks have no labels: what shows is how many pixels each image has of each class."""

    def segmented(name: str, counts_NCC: np.ndarray) -> Scorecard:
        index = ScorecardIndex(candidate=name, task="segmentation", classes=("a", "b"), dataset=DATA)
        return Scorecard(index=index, answers={"validation": MaskCounts(counts_NCC=counts_NCC)})

    wanted = written({"mean_iou": {"weight": 1, "worst": 0, "ideal": 1}})
    one = np.random.default_rng(0).integers(1, 90, (20, 2, 2))
    better = np.stack([np.diag(image.sum(1)) for image in one])
    selection = choose([segmented("one", one), segmented("better", better)], wanted)
    assert (selection.winner, selection.test) == ("better", {})
    with pytest.raises(InputError, match="'elsewhere' and 'one' answered for different images"):
        select([segmented("one", one), segmented("elsewhere", one[::-1])], wanted)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_missing_file_of_answers_is_no_damage(split: str, folders: dict[str, Path]) -> None:
    (folders["first"] / f"{split}.npz").unlink()
    selection = choose(read_scorecards(folders.values()), contract())
    assert selection.winner == "first"
    assert (selection.test == {}) == (split == "test")
    assert (selection.ranking[0].p_best is None) == (split == "validation")
    assert ("How sure this is can't be told: first kept no answers." in selection.why) == (split == "validation")


def test_the_test_split_is_read_for_the_winner_alone_after_the_choice_and_each_time_noted(
    folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("second", "third"):
        _garbage(folders[name] / "test.npz")
    with caplog.at_level(logging.INFO):
        selection = choose(read_scorecards(folders.values()), contract())
    assert selection.winner == "first"
    assert selection.test["accuracy"].value > 0.9
    assert [record.getMessage() for record in caplog.records if "test split" in record.getMessage()] == [
        "test split read: first, for acme"
    ]
    _garbage(folders["first"] / "test.npz")
    assert select(read_scorecards(folders.values()), contract()).winner == "first", "the choice itself reads none"
    assert complaint(folders).startswith(str(folders["first"] / "test.npz"))


def test_where_nobody_is_eligible_no_test_split_is_read(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        _garbage(folder / "test.npz")
    assert answer(folders, contract(accuracy=">= 0.999")) is None


def test_accuracy_is_published_though_the_contract_names_no_quality(folders: dict[str, Path]) -> None:
    wanted = written({"latency_p50_ms": {"weight": 1, "worst": 100, "ideal": 1}})
    selection = choose(read_scorecards(folders.values()), wanted)
    assert list(selection.test) == ["accuracy"]
    assert selection.optimism == {}


def test_an_outcome_is_written_again_over_itself_and_keeps_damaged_answers_of_losers(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    _garbage(folders["third"] / "test.npz")
    cards = read_scorecards(folders.values())
    for _ in range(2):
        write_outcome(choose(cards, contract()), cards, tmp_path / "outcome")
    assert (tmp_path / "outcome" / "scorecards" / "third" / "test.npz").read_bytes() == b"garbage"


def test_a_metric_that_one_lacks_costs_that_one_its_place() -> None:
    cards = [card("whole", accuracy=0.8, latency_p50_ms=2), card("partial", accuracy=0.99)]
    selection = select(cards, contract())
    assert selection.winner == "whole"
    assert [(one.candidate, one.reason) for one in selection.rejected] == [
        ("partial", "'partial' has no 'latency_p50_ms'; it has: accuracy")
    ]


def test_a_metric_that_all_lack_is_a_mistake_in_the_contract() -> None:
    wanted = written({"latency_p95_ms": {"weight": 1, "worst": 100, "ideal": 1}})
    with pytest.raises(MetricNotMeasured, match="'a' has no 'latency_p95_ms'; it has: accuracy, latency_p50_ms"):
        select([card(name, accuracy=0.8, latency_p50_ms=2) for name in "ab"], wanted)


def test_what_was_not_measured_is_measured_from_the_answers() -> None:
    metrics = {name: {"weight": 1, "worst": 0, "ideal": 1} for name in ("recall[a]", "f1[b]", "roc_auc")}
    found = select([with_answers("one", names=["accuracy"])], written(metrics)).ranking[0].measured
    assert found.keys() == metrics.keys()
    assert all(0.8 < one.bound < one.value < 1 for one in found.values())


@pytest.mark.parametrize(
    ("metrics", "more", "said"),
    [
        ("mean_iou", {}, "metrics.mean_iou: is a metric of segmentation, and the task is classification"),
        ("iou[a]", {}, "metrics.iou[a]: is a metric of segmentation"),
        ("recall[elephant]", {}, "metrics.recall[elephant]: there is no class 'elephant'"),
        ("recall[A]", {}, "metrics.recall[A]: there is no class 'A'"),
        ("top_2_accuracy", {}, "metrics.top_2_accuracy: is always 1, as there are 2 classes"),
        ("latency_p50_ms", {"hardware_class": "gpu"}, "latency_p50_ms is wanted on 'gpu', and was measured on 'cpu'"),
    ],
)
def test_a_contract_that_does_not_fit_the_scorecards_is_refused(metrics: str, more: dict[str, str], said: str) -> None:
    scale = {"worst": 100, "ideal": 1} if "latency" in metrics else {"worst": 0, "ideal": 1}
    with pytest.raises(InputError) as caught:
        select([with_answers("one")], written({metrics: {"weight": 1, **scale}}, **more))
    assert said in str(caught.value)


def test_a_hardware_class_matters_only_where_a_time_is_wanted() -> None:
    metrics = {"accuracy": {"weight": 1, "worst": 0, "ideal": 1}}
    assert select([with_answers("one")], written(metrics, hardware_class="gpu")).winner == "one"


def test_too_few_rounds_for_a_tail_are_refused_saying_how_many_it_takes() -> None:
    times = Times(np.random.default_rng(0).lognormal(size=(5, 20)), np.ones(5))
    wanted = written({"latency_p99_ms": {"weight": 1, "worst": 100, "ideal": 1}})
    with pytest.raises(
        InputError, match=r"'one': latency_p99_ms: .* needs at least 299 independent samples; there are \d+$"
    ):
        select([replace(with_answers("one"), times=times)], wanted)


def test_images_per_dollar_need_a_price() -> None:
    metrics = {"images_per_dollar": {"weight": 1, "worst": 1e3, "ideal": 1e7}}
    with pytest.raises(InvalidFile, match=r"images_per_dollar: needs price_per_hour"):
        Contract.from_yaml("client: a\nmetrics: {images_per_dollar: {weight: 1, worst: 1000, ideal: 10000000}}")
    ranked = select([with_answers("one")], written(metrics, price_per_hour=0.36)).ranking[0]
    assert ranked.measured["images_per_dollar"].value == pytest.approx(500 * 3600 / 0.36)
    assert ranked.cost.dollars_per_million == pytest.approx(0.2)


def test_classes_are_compared_though_the_first_scorecard_does_not_tell_them() -> None:
    others = [changed(with_answers(name), classes=classes) for name, classes in (("y", ("a", "b")), ("z", ("b", "a")))]
    with pytest.raises(InputError, match="'y' and 'z' tell different classes apart"):
        select([card("by-hand", accuracy=0.9, latency_p50_ms=2), *others], contract())


def test_no_scorecard_is_no_choice() -> None:
    for ask in (lambda: select([], contract()), lambda: read_scorecards([])):
        with pytest.raises(InputError, match="there are no scorecards to choose from"):
            ask()


def _accuracy(**fields: object) -> str:
    return str({"value": 0.9, "bound": 0.8, "unit": "fraction", **fields}).replace("'", '"')


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (_accuracy(value=1.2), "validation.accuracy: 0.8 to 1.2 is out of range"),
        (_accuracy(value=-0.1, bound=-0.2), "out of range"),
        (_accuracy(bound=0.95), "the bound lies on the favourable side of the value"),
        (_accuracy(unit="percent"), "the unit must be 'fraction', not 'percent'"),
        (_accuracy(value="?").replace('"?"', "NaN"), "validation.accuracy.value: Input should be a finite number"),
        (_accuracy(value="?").replace('"?"', "1e999"), "validation.accuracy.value: Input should be a finite number"),
        (_accuracy(value="?").replace('"?"', "null"), "validation.accuracy.value: Input should be a valid number"),
    ],
)
def test_a_figure_that_can_t_be_is_refused_on_reading(wrong: str, said: str, tmp_path: Path) -> None:
    card("one", accuracy=0.9, latency_p50_ms=2).write(tmp_path / "one")
    file = tmp_path / "one" / "scorecard.json"
    text = file.read_text()
    start = text.index('"accuracy": {') + len('"accuracy": ')
    file.write_text(text[:start] + wrong + text[text.index("}", start) + 1 :])
    with pytest.raises(ArtifactError) as caught:
        Scorecard.read(tmp_path / "one")
    assert str(caught.value).startswith(f"{file}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize("task", ["detection", "", "segmentations"])
def test_an_unknown_task_is_refused_on_reading(task: str, tmp_path: Path) -> None:
    changed(card("one", accuracy=0.9), task=task).write(tmp_path / "one")
    with pytest.raises(ArtifactError, match="task: String should match pattern"):
        Scorecard.read(tmp_path / "one")


def test_a_bound_may_not_be_met_by_luck() -> None:
    """Thirty images without an error prove no accuracy of 0.95."""
    short = with_answers("short", 1.0, labels_N=np.arange(30) % 2)
    assert short.index.validation["accuracy"].value == 1
    selection = select([short], contract(accuracy=">= 0.95"))
    assert selection.winner is None
    assert "accuracy must be >= 0.95, but with 95 % certainty it is only at least 0.905 (measured 1)" in selection.why


def test_a_value_beyond_the_scale_is_worth_nothing_or_all_and_no_more() -> None:
    extremes = card("extremes", accuracy=0.1, latency_p50_ms=1e-9)
    assert select([extremes], contract()).ranking[0].desirability == {"accuracy": 0, "latency_p50_ms": 1}
    index = card("zero", accuracy=0.9).index
    zero = {"latency_p50_ms": Measurement(value=0.0, bound=0.0, unit="ms")}
    assert select([Scorecard(index=index.model_copy(update={"model": zero}))], contract()).utility == pytest.approx(
        0.75 * 0.8 + 0.25
    )
