"""The report tells the facts of a selection, whatever the scorecards hold, and loads nothing."""

import base64
import io
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steelyard.bundle import Epoch
from steelyard.contract import Contract
from steelyard.data.dataset import DatasetRef
from steelyard.evaluation.answers import MaskCounts, Split, SplitOutputs
from steelyard.evaluation.bounds import measure_quality
from steelyard.evaluation.measurement import Measurement
from steelyard.evaluation.mistakes import Mistakes
from steelyard.evaluation.scorecard import Hardware, Scorecard, ScorecardIndex
from steelyard.evaluation.times import Times
from steelyard.metrics import metric
from steelyard.report.charts import LEFT, RIGHT, TOP, Panel, confusion_matrix, panel, reliability, training_curves
from steelyard.report.report import write_report
from steelyard.selection.publish import choose
from steelyard.selection.select import read_scorecards
from steelyard.selection.selection import Selection
from steelyard.selection.why import percent as narrow_percent

ACME = """
client: acme
metrics:
  accuracy: {weight: 3, worst: 0.8, ideal: 1.0, must: ">= 0.9"}
  latency_p95_ms: {weight: 1, worst: 20, ideal: 0.1, must: "<= 10"}
"""
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VOID = {"meta", "link", "br", "img", "input"}
FALLEN = 0.02  # accuracy that is lost from validation to test


class Page(HTMLParser):
    """What a reader would find in the file."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html = html
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []  # innermost tag, text
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", " ".join(data.split())))

    def all(self, tag: str) -> list[str]:
        return [text for inside, text in self.texts if inside == tag]

    @property
    def text(self) -> str:
        return " ".join(text for inside, text in self.texts if inside not in ("style", "script"))

    def with_class(self, name: str) -> Iterator[dict[str, str | None]]:
        return (attributes for _, attributes in self.tags if name in (attributes.get("class") or "").split())


def exactly(name: str, value: float, bound: float | None = None) -> Measurement:
    return Measurement(value=value, bound=value if bound is None else bound, unit=metric(name).unit)


def bare(name: str, accuracy: float = 0.95, latency_ms: float = 1.0, **more: object) -> Scorecard:
    """Return what a stranger would write by hand."""
    index = ScorecardIndex.model_validate(
        {
            "candidate": name,
            "run_key": f"key of {name}",
            "task": "classification",
            "dataset": DatasetRef(content_digest="c" * 64, split_digest="5" * 64),
            "validation": {"accuracy": exactly("accuracy", accuracy, accuracy - 0.01)},
            "model": {
                "latency_p95_ms": exactly("latency_p95_ms", latency_ms),
                "latency_p50_ms": exactly("latency_p50_ms", latency_ms),
            },
            **more,
        }
    )
    return Scorecard(index=index)


def answers(accuracy: float, classes: int) -> SplitOutputs:
    """Return 100 answers a class; the wrong ones are for the next class, and 80 % sure."""
    labels_N = np.repeat(np.arange(classes), 100)
    wrong_N = np.arange(len(labels_N)) % 100 >= round(100 * accuracy)
    probabilities_NC = np.full((len(labels_N), classes), 0.2 / (classes - 1), np.float32)
    probabilities_NC[np.arange(len(labels_N)), (labels_N + wrong_N) % classes] = 0.8
    return SplitOutputs(probabilities_NC=probabilities_NC, labels_N=labels_N)


def full(
    name: str,
    accuracy: float = 0.95,
    classes: tuple[str, ...] = DIGITS,
    epochs: int = 12,
    latency_ms: float = 1.0,
    mistakes: Mistakes | None = None,
) -> Scorecard:
    given: dict[Split, SplitOutputs] = {
        "validation": answers(accuracy, len(classes)),
        "test": answers(accuracy - FALLEN, len(classes)),
    }
    names = ["accuracy", "macro_recall", "macro_f1", "log_loss", "macro_false_positive_rate"]
    card = bare(
        name,
        latency_ms=latency_ms,
        classes=classes,
        validation=measure_quality(given["validation"], classes, names),
        hardware=Hardware(hardware_class="one thread", rounds=40, images_per_round=25),
        history=tuple(epoch(number + 1, loss=2.0 / (number + 1)) for number in range(epochs)),
        best_epoch=epochs - 2,
    )
    times = Times(np.full((40, 25), latency_ms), np.full(40, 1000 / latency_ms))
    return replace(card, answers=given, times=times, mistakes=mistakes)


def masks(name: str, wrong: int, latency_ms: float) -> Scorecard:
    """Return a segmentation of 20 images into land and water, `wrong` of 100 pixels of each class mistaken."""
    classes = ("land", "water")
    counts_NCC = np.tile(np.array([[100 - wrong, wrong], [wrong, 100 - wrong]]), (20, 1, 1))
    given: dict[Split, MaskCounts] = {split: MaskCounts(counts_NCC=counts_NCC) for split in ("validation", "test")}
    names = ["mean_iou", "mean_dice", "pixel_accuracy", "iou[water]"]
    card = bare(
        name,
        latency_ms=latency_ms,
        task="segmentation",
        classes=classes,
        validation=measure_quality(given["validation"], classes, names),
    )
    return replace(card, answers=given)


def epoch(number: int, loss: float) -> Epoch:
    return Epoch(
        epoch=number, train_loss=loss, validation_loss=loss * 1.1, train_accuracy=0.9, validation_accuracy=0.88,
        learning_rate=0.001, seconds=1.0,
    )  # fmt: skip


def choice(*scorecards: Scorecard, contract: str = ACME, champion: str | None = None) -> Selection:
    return choose(scorecards, Contract.from_yaml(contract), serving=champion and f"key of {champion}")


def report(folder: Path, *scorecards: Scorecard, contract: str = ACME, champion: str | None = None) -> Page:
    return written(folder, choice(*scorecards, contract=contract, champion=champion), scorecards)


def written(folder: Path, selection: Selection, scorecards: Sequence[Scorecard]) -> Page:
    file = folder / "report.html"
    write_report(selection, scorecards, file)
    return Page(file.read_text(encoding="utf-8"))


def percent(share: float) -> str:
    return " ".join(narrow_percent(share).split())  # as `Page` has it


def section(page: Page, heading: str) -> str:
    """Return the text from one second-level heading to the next."""
    headings = [text for text in page.all("h2") if text]
    start = page.text.index(heading, page.text.index(headings[0]))
    later = [page.text.index(other, start + len(heading)) for other in headings[headings.index(heading) + 1 :][:1]]
    return page.text[start : later[0] if later else None]


def mistaken(number: int) -> Mistakes:
    """Return images of grey ramps, all zeros that were taken for ones with 90 % confidence."""
    images_MHWC = (
        np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1) + 30 * np.arange(number, dtype=np.uint8)[:, None, None, None]
    )
    return Mistakes(images_MHWC, np.zeros(number, int), np.ones(number, int), np.full(number, 0.9, np.float32))


def test_it_leads_with_the_winner_and_why(tmp_path: Path) -> None:
    scorecards = [full("small", 0.95), full("large", 0.99)]
    page = report(tmp_path, *scorecards)
    assert page.all("h1") == ["large"]
    assert choice(*scorecards).why in page.text
    assert page.text.index("acme") < page.text.index("test accuracy 0.9700") < page.text.index("Leaderboard")


def test_it_loads_nothing_from_anywhere(tmp_path: Path) -> None:
    page = report(tmp_path, full("small"), full("large", 0.99, mistakes=mistaken(3)))
    assert "http:" not in page.html
    assert "https:" not in page.html
    loading = [a for _, a in page.tags if {"src", "href", "xlink:href", "action", "srcset"} & a.keys()]
    assert len(loading) == 3
    assert all(str(attributes["src"]).startswith("data:image/jpeg;base64,") for attributes in loading)
    style = " ".join(page.all("style"))
    assert "url(" not in style
    assert "@import" not in style
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base"}


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    name = "<blink>&\"'</script>"
    contract = ACME + f"  'recall[{name.replace(chr(39), chr(39) * 2)}]': {{weight: 1, worst: 0.5, ideal: 1}}\n"
    shown = mistaken(2)
    page = report(
        tmp_path, full("good", 0.99, (name, "other"), mistakes=shown), bare("rival", failure=f"{name} broke"),
        contract=contract,
    )  # fmt: skip
    assert "blink" not in {tag for tag, _ in page.tags}
    assert f"{name} broke" in page.text
    assert f"recall of {name}" in page.text
    assert any(title.startswith(f"{name} → other: 3 of 100") for title in page.all("title"))
    assert f"{name}, taken for other" in [a.get("alt") for tag, a in page.tags if tag == "img"]
    assert len(page.all("script")) <= 1


def test_nobody_eligible_is_a_full_report_that_leads_with_it(tmp_path: Path) -> None:
    page = report(tmp_path, full("weak", 0.85), bare("slow", 0.95, 12.0), bare("broken", failure="training: diverged"))
    assert page.all("h1") == ["Nobody is eligible"]
    headings = page.all("h2")
    assert headings[0] == "Not eligible"
    assert {"Leaderboard", "Trade-off", "Training", "Class by class", "Side by side", "Provenance"} <= set(headings)
    assert not {"What would flip the choice", "What the others lacked"} & set(headings)
    for fact in ("≥ 0.9", "≤ 12.0", "≤ 10", "a factor of 1.2", "training: diverged"):
        assert fact in page.text
    assert "weak on validation" in page.text, "test is published for a winner only"


def test_scorecards_written_by_hand_leave_out_what_they_lack(tmp_path: Path) -> None:
    page = report(tmp_path, bare("one", 0.95), bare("two", 0.99))
    assert page.all("h1") == ["two"]
    for missing in (
        "No scorecard tells the course of a training.",
        "The scorecards keep no answers, so there is no confusion matrix.",
        "The winner's scorecard has no test figures",
        "no stated hardware",
    ):
        assert missing in page.text
    assert not list(page.with_class("matrix"))
    assert not [heading for heading in page.all("h2") if heading.startswith(("Confidence", "Worst mistakes"))]


def test_every_rejection_is_listed_with_value_bound_limit_and_by_how_much(tmp_path: Path) -> None:
    page = report(tmp_path, bare("good", 0.99), bare("weak", 0.903), bare("broken", failure="build: does not fit"))
    row = section(page, "Not eligible")
    assert "weak accuracy 0.9030 ≥ 0.8930 ≥ 0.9 0.0070 the measured value meets it" in row
    assert row.index("weak") < row.index("Failed") < row.index("broken") < row.index("build: does not fit")


def test_only_the_winner_is_shown_on_test(tmp_path: Path) -> None:
    page = report(tmp_path, full("small", 0.95), full("large", 0.99))
    headings = [text for text in page.all("h3") if "images" in text]
    assert headings == [
        "large on test, 1 000 images",
        "large on validation, 1 000 images",
        "small on validation, 1 000 images",
    ]
    assert "0.9300" not in page.text, "the test accuracy of another than the winner"


def test_test_answers_of_others_are_not_even_read_and_the_winner_s_leave_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, accuracy in (("small", 0.95), ("large", 0.99)):
        full(name, accuracy).write(tmp_path / name)
    (tmp_path / "small" / "test.npz").write_bytes(b"unreadable")
    caplog.set_level(logging.INFO)
    report(tmp_path, *read_scorecards([tmp_path / "small", tmp_path / "large"]))
    read = [record.getMessage() for record in caplog.records if "test split read" in record.getMessage()]
    assert read == ["test split read: large, for acme", "test split read: large, for the report to acme"]


def test_the_winner_is_readable_without_javascript(tmp_path: Path) -> None:
    page = report(tmp_path, full("small", 0.95), full("large", 0.99))
    details = list(page.with_class("detail"))
    hidden = ["hidden" in detail for detail in details if "data-detail" in detail]
    assert hidden == [False, True, True]
    assert all("hidden" in attributes for tag, attributes in page.tags if tag == "label")


def test_a_limit_that_does_not_hold_on_test_is_told_at_the_top(tmp_path: Path) -> None:
    lucky, steady = report(tmp_path, full("lucky", 0.93)), report(tmp_path, full("steady", 0.99))
    assert "≥ 0.9 does not hold for certain" in lucky.text
    assert lucky.text.index("the hard limit on accuracy does not hold for certain") < lucky.text.index("Leaderboard")
    assert "≥ 0.9 holds" in steady.text
    assert steady.text.index("every hard limit on quality holds") < steady.text.index("Leaderboard")
    assert "+0.0200" in section(steady, "Chosen on validation, published on test")


def test_the_winner_need_not_have_the_highest_utility(tmp_path: Path) -> None:
    page = report(tmp_path, bare("cheap", 0.979, 1.0), bare("best", 0.98, 1.02))
    assert page.all("h1") == ["cheap"]
    board = section(page, "Leaderboard")
    assert "1 best tied" in board
    assert "2 cheap winner tied" in board
    assert "1.00 ms" in board


def test_a_champion_that_is_kept_is_marked_and_the_weights_are_said_to_prefer_another(tmp_path: Path) -> None:
    cards = (bare("serving", 0.95), bare("better", 0.97))
    page = report(tmp_path, *cards, contract=ACME + "switching_margin: 0.5", champion="serving")
    assert page.all("h1") == ["serving"]
    assert "serving winner serves now" in section(page, "Leaderboard")
    assert "leaves that right out: by the weights alone better would win" in section(page, "What would flip the choice")
    assert "over serving, which serves now" in section(page, "Provenance")


def test_one_candidate_alone_is_told_so(tmp_path: Path) -> None:
    page = report(tmp_path, full("alone", 0.99))
    assert "Only one candidate is eligible" in section(page, "What would flip the choice")
    assert "P(best) given the noise" not in page.text
    assert "What the others lacked" not in page.all("h2")


def test_the_leaderboard_tells_how_sure_it_is(tmp_path: Path) -> None:
    cards = [full("small", 0.95, latency_ms=0.2), full("large", 0.96), full("dominated", 0.94, latency_ms=2.0)]
    selection = choice(*cards)
    board = section(written(tmp_path, selection, cards), "Leaderboard")
    for ranked in selection.ranking[1:]:
        assert ranked.loss_bound is not None
        assert f"at most {max(ranked.loss_bound, 0):.3f} behind the best" in board
    assert board.count("front") == 2 + 1, "and in the note above"
    assert board.count("dominated dominated") == 0
    assert re.search(r"3 dominated .* dominated", board)


def test_sensitivity_in_words_has_the_figures_of_the_selection(tmp_path: Path) -> None:
    cards = [full("accurate", 0.98, latency_ms=8.0), full("fast", 0.94, latency_ms=0.2)]
    selection = choice(*cards, contract=ACME.replace("weight: 3", "weight: 9"))
    found, text = selection.robustness, section(written(tmp_path, selection, cards), "What would flip the choice")
    assert found is not None
    assert found.flip is not None
    assert (selection.winner, found.flip.to) == ("accurate", "fast")
    now, turn = (percent(share) for share in (selection.weights["latency_p95_ms"], found.ranges["latency_p95_ms"].high))
    assert f"The winner changes if latency_p95_ms weighs more than {turn} (now {now}), to fast." in text
    assert f"moves {percent(found.flip.change)} of the weight" in text
    assert f"accurate wins under {percent(found.all_weights['accurate'])} of all possible weights" in text


def test_a_selection_that_was_not_examined_is_told_so(tmp_path: Path) -> None:
    cards = [full("small"), full("large", 0.99)]
    page = written(tmp_path, choice(*cards).model_copy(update={"robustness": None}), cards)
    assert "does not say how robust" in section(page, "What would flip the choice")


def test_what_others_would_have_needed_makes_them_win(tmp_path: Path) -> None:
    cards = [bare("accurate", 0.98, 4.0), bare("fast", 0.96, 1.0), bare("hopeless", 0.92, 9.0)]
    selection = choice(*cards)
    assert selection.robustness is not None
    rival = next(
        ranked.candidate for ranked in selection.ranking if ranked.candidate not in (selection.winner, "hopeless")
    )
    needed = selection.robustness.needed[rival]["accuracy"]
    assert f"≥ {needed:.4f}" in section(written(tmp_path, selection, cards), "What the others lacked")
    improved = [
        bare(rival, needed + 0.002, 1.0 if rival == "fast" else 4.0),
        *(c for c in cards if c.candidate != rival),
    ]
    assert choice(*improved).winner == rival


def test_other_formulas_are_shown_with_whom_they_would_have_chosen(tmp_path: Path) -> None:
    cards = [bare("accurate", 0.98, 4.0), bare("fast", 0.97, 0.5)]
    selection = choice(*cards, contract=ACME.replace("weight: 1", "weight: 0.1"))
    row = section(written(tmp_path, selection, cards), "What other formulas would have chosen")
    for name, scores in (("min-max", "min_max"), ("TOPSIS", "topsis"), ("x / max x", "max_normalised")):
        best = max(selection.other_formulas[scores].items(), key=lambda item: item[1])
        assert re.search(rf"{name}.*? {best[0]} (the same )?{best[1]:.3f}", row)


def test_the_plot_marks_winner_front_dominated_and_ineligible_and_draws_both_limits(tmp_path: Path) -> None:
    cards = [bare("a", 0.99, 4.0), bare("b", 0.95, 0.5), bare("c", 0.94, 5.0), bare("d", 0.99, 40.0)]
    page = report(tmp_path, *cards)
    drawn = page.html[page.html.index('<svg class="pareto"') :]
    drawn = drawn[: drawn.index("</svg>")]
    kinds = dict(re.findall(r'<g class="(\w+)"><title>(\w+):', drawn))
    marks = {name: kind for kind, name in re.findall(r'<g class="(\w+)"><title>(\w+):', drawn)}
    assert len(kinds) == 4
    assert marks == {"a": "wins", "b": "front", "c": "dominated", "d": "out"}
    assert drawn.count('class="must"') == 2


def test_a_contract_of_one_metric_has_no_trade_off(tmp_path: Path) -> None:
    page = report(tmp_path, bare("a"), contract="client: acme\nmetrics: {accuracy: {weight: 1, worst: 0, ideal: 1}}")
    assert "Trade-off" not in page.all("h2")


def test_masks_are_counted_in_pixels(tmp_path: Path) -> None:
    contract = """
client: acme
metrics:
  mean_iou: {weight: 1, worst: 0, ideal: 1, must: ">= 0.5"}
  "iou[water]": {weight: 1, worst: 0, ideal: 1}
"""
    page = report(tmp_path, masks("coarse", 20, 1.0), masks("fine", 5, 2.0), contract=contract)
    assert page.all("h1") == ["fine"]
    assert "test mean IoU 0.9048" in page.text
    classes = section(page, "Class by class")
    assert "fine on test, 4 000 pixels" in classes
    assert "class pixels precision recall Dice IoU FPR" in classes
    assert "water 2 000 0.9500 0.9500 0.9500 0.9048 0.0500" in classes
    assert "95 5 5 95" in " ".join(text for tag, text in page.texts if tag == "text")
    assert "ROC" not in page.text


def test_the_worst_mistakes_are_shown_as_pictures(tmp_path: Path) -> None:
    shown = mistaken(3)
    page = report(tmp_path, full("good", 0.99, mistakes=shown), full("other", 0.95, mistakes=mistaken(5)))
    assert "zero → one 90 % sure" in section(page, "Worst mistakes of good")
    pictures = [str(attributes["src"]) for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 3, "those of the winner alone"
    for source, image_HWC in zip(pictures, shown.images_MHWC, strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
        assert np.abs(pixels.astype(int) - image_HWC[:, :, 0]).mean() < 4


def test_a_winner_without_mistakes_is_told_so(tmp_path: Path) -> None:
    page = report(tmp_path, full("good", 0.99, mistakes=mistaken(0)))
    assert "every image was recognised" in section(page, "Worst mistakes of good")


def test_thirty_candidates_stay_readable_and_below_a_megabyte(tmp_path: Path) -> None:
    cards = [full(f"candidate-{i:02}", 0.95 + i / 1000, epochs=100) for i in range(30)]
    page = report(tmp_path, *cards)
    assert len(page.html.encode()) < 1_000_000
    assert len(list(page.with_class("curves"))) == 30
    assert all(card.candidate in section(page, "Leaderboard") for card in cards)
    assert "The winner and the best others, 16 of 30" in page.text
    assert len(list(page.with_class("panel"))) == 8, "five qualities, one time, and two of sensitivity"


def test_the_matrices_of_many_candidates_and_classes_have_bounds(tmp_path: Path) -> None:
    classes = tuple(f"a class called {i}" for i in range(100))
    page = report(tmp_path, *(full(f"candidate-{i}", 0.95, classes) for i in range(12)))
    assert 2 <= len(list(page.with_class("matrix"))) < 12
    assert len(page.html.encode()) < 3_000_000
    assert page.html.count("a class…led 13") == 0, "of 100 labels every third is drawn"
    assert page.html.count(">a class…led 15<") == 2 * len(list(page.with_class("matrix")))
    assert all(name in page.text for name in classes), "the table names them all"


def test_the_same_selection_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (report(tmp_path, full("small"), full("large", 0.99)).html for _ in range(2))
    assert first == second


def test_a_class_without_images_or_predictions_has_no_rates(tmp_path: Path) -> None:
    card = full("one", 0.99, ("seen", "unseen"))
    sure = SplitOutputs(probabilities_NC=np.float32([[1, 0]] * 99), labels_N=np.zeros(99, np.int64))
    page = report(tmp_path, replace(card, answers={"validation": sure, "test": sure}))
    unseen = page.text[page.text.index("weakest first") :]
    assert unseen[unseen.index("unseen") :].startswith("unseen 0 – – – 0.0000")


def test_cells_are_shaded_by_their_share_of_the_row() -> None:
    matrix = confusion_matrix(np.array([[100, 0], [25, 75]]), ("a", "b"))
    assert [(cell.row, cell.column, cell.shade) for cell in matrix.cells] == [(0, 0, "b9"), (1, 0, "o5"), (1, 1, "b8")]
    assert matrix.mistaken == ["b → a: 25 of 100 (25.0 %)"]
    assert [cell.text for cell in confusion_matrix(np.array([[9999, 1], [1, 1]]), ("a", "b"), "pixels").cells] == [
        "100", "0", "50", "50",
    ]  # fmt: skip


def test_reliability_sets_confidence_against_how_often_it_was_right() -> None:
    found = reliability("one", "test", answers(0.95, 10))
    (point,) = found.points
    assert (point.x, point.y) == (160.0, 10.0), "80 % sure and 95 % right, in a square of 200 that counts downwards"
    assert point.reach[0] > point.y > point.reach[1]
    assert point.title == "1000 answers, 80.0 % sure, 95.0 % right"


def test_what_leaves_the_axes_of_a_training_is_drawn_at_the_edge() -> None:
    index = full("wild").index.model_copy(update={"history": (epoch(1, 1.0), epoch(2, 1e6), epoch(3, 0.1))})
    loss = training_curves([index])[0].charts[0]
    xy = [tuple(map(float, pair.split(","))) for pair in loss.train.split()]
    assert [x for x, _ in xy] == [LEFT, (LEFT + RIGHT) / 2, RIGHT]
    assert xy[1][1] == TOP


@pytest.mark.parametrize(
    ("name", "values", "scale", "low"),
    [
        ("accuracy", (0.93, 1.0), "from here", 0.9),
        ("latency_p95_ms", (0.25, 12.0), "logarithmic", 0.2),
        ("log_loss", (0.0, 0.0), "from zero", 0.0),
    ],
)
def test_each_kind_of_metric_has_its_axis(name: str, values: tuple[float, float], scale: str, low: float) -> None:
    drawn: Panel = panel(name, {str(i): exactly(name, v) for i, v in enumerate(values)}, None, "0")
    assert (drawn.scale, drawn.low) == (scale, low)
    assert all(0 <= mark.at <= 100 for mark in drawn.marks)
