"""The report tells the facts of a selection, whatever the scorecards hold, and loads nothing."""

from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from steelyard.bundle import Epoch
from steelyard.contract import Contract
from steelyard.data.dataset import DatasetRef
from steelyard.evaluation.scorecard import Hardware, Measurement, RocCurve, Scorecard, ScorecardIndex
from steelyard.selection.charts import LEFT, RIGHT, TOP, Panel, confusion_matrix, panel, training_curves
from steelyard.selection.report import write_report
from steelyard.selection.select import select

ACME = """
client: acme
metrics:
  accuracy: {weight: 3, worst: 0.8, ideal: 1.0, must: ">= 0.9"}
  latency_p95_ms: {weight: 1, worst: 20, ideal: 0.1, must: "<= 10"}
"""
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VOID = {"meta", "link", "br", "img", "input"}


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


def exactly(value: float, unit: str = "fraction", bound: float | None = None) -> Measurement:
    return Measurement(value=value, bound=value if bound is None else bound, unit=unit)


def bare(name: str, accuracy: float = 0.95, latency_ms: float = 1.0, **more: object) -> Scorecard:
    """Return what a stranger would write by hand."""
    index = ScorecardIndex.model_validate(
        {
            "candidate": name,
            "task": "classification",
            "dataset": DatasetRef(content_digest="c" * 64, split_digest="5" * 64),
            "validation": {"accuracy": exactly(accuracy, bound=accuracy - 0.01)},
            "model": {"latency_p95_ms": exactly(latency_ms, "ms")},
            **more,
        }
    )
    return Scorecard(index=index, outputs={})


def full(name: str, accuracy: float = 0.95, classes: tuple[str, ...] = DIGITS, epochs: int = 12) -> Scorecard:
    size = len(classes)
    rows = tuple(tuple(40 if r == c else int(c == (r + 1) % size) for c in range(size)) for r in range(size))
    line = tuple(i / 100 for i in range(101))
    return bare(
        name,
        accuracy,
        classes=classes,
        run_key="ab" * 32,
        test={"accuracy": exactly(accuracy - 0.02, bound=accuracy - 0.04)},
        hardware=Hardware(hardware_class="one thread", rounds=40, images_per_round=25),
        confusion={"validation": rows, "test": rows},
        roc={name: RocCurve(false_positive_rate=line, true_positive_rate=line, threshold=line) for name in classes},
        history=tuple(epoch(number + 1, loss=2.0 / (number + 1)) for number in range(epochs)),
        best_epoch=epochs - 2,
    )


def epoch(number: int, loss: float) -> Epoch:
    return Epoch(
        epoch=number, train_loss=loss, validation_loss=loss * 1.1, train_accuracy=0.9, validation_accuracy=0.88,
        learning_rate=0.001, seconds=1.0,
    )  # fmt: skip


def report(folder: Path, *scorecards: Scorecard, contract: str = ACME) -> Page:
    file = folder / "report.html"
    write_report(select(scorecards, Contract.from_yaml(contract)), scorecards, file)
    return Page(file.read_text(encoding="utf-8"))


def test_it_leads_with_the_winner_and_why(tmp_path: Path) -> None:
    scorecards = [full("small", 0.95), full("large", 0.99)]
    page = report(tmp_path, *scorecards)
    assert page.all("h1") == ["large"]
    assert select(scorecards, Contract.from_yaml(ACME)).why in page.text
    assert page.text.index("acme") < page.text.index("test accuracy 0.9700") < page.text.index("Leaderboard")


def test_it_loads_nothing_from_anywhere(tmp_path: Path) -> None:
    page = report(tmp_path, full("small"), full("large", 0.99))
    assert "http:" not in page.html
    assert "https:" not in page.html
    assert not [a for _, a in page.tags if {"src", "href", "xlink:href", "action", "srcset"} & a.keys()]
    style = " ".join(page.all("style"))
    assert "url(" not in style
    assert "@import" not in style
    assert not {tag for tag, _ in page.tags} & {"link", "img", "iframe", "object", "embed", "base"}


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    name = "<blink>&\"'</script>"
    page = report(tmp_path, full("good", 0.99, (name, "other")), bare("rival", failure=f"{name} broke"))
    assert "blink" not in {tag for tag, _ in page.tags}
    assert f"{name} broke" in page.text
    assert any(title.startswith(f"{name} → other: 1 of 41") for title in page.all("title"))
    assert len(page.all("script")) <= 1


def test_nobody_eligible_is_a_full_report_that_leads_with_it(tmp_path: Path) -> None:
    page = report(tmp_path, full("weak", 0.85), bare("slow", 0.95, 12.0), bare("broken", failure="training: diverged"))
    assert page.all("h1") == ["Nobody is eligible"]
    headings = page.all("h2")
    assert headings[0] == "Not eligible"
    assert {"Leaderboard", "Training", "Class by class", "Side by side", "Provenance"} <= set(headings)
    for fact in ("≥ 0.8400", "≥ 0.9", "≤ 12.0", "≤ 10", "training: diverged"):
        assert fact in page.text
    assert "weak on validation" in page.text, "test is published for a winner only"


def test_scorecards_written_by_hand_leave_out_what_they_lack(tmp_path: Path) -> None:
    page = report(tmp_path, bare("one", 0.95), bare("two", 0.99))
    assert page.all("h1") == ["two"]
    for missing in (
        "No scorecard tells the course of a training.",
        "The scorecards hold no confusion matrix.",
        "The winner's scorecard has no test figures",
        "no stated hardware",
    ):
        assert missing in page.text
    assert not list(page.with_class("matrix"))


def test_every_rejection_is_listed_with_value_bound_and_limit(tmp_path: Path) -> None:
    page = report(tmp_path, bare("good", 0.99), bare("weak", 0.905), bare("broken", failure="build: does not fit"))
    row = page.text[page.text.index("Not eligible") :]
    assert row.index("weak") < row.index("0.9050") < row.index("≥ 0.8950") < row.index("≥ 0.9 ")
    assert row.index("Failed") < row.index("broken") < row.index("build: does not fit")


def test_only_the_winner_is_shown_on_test(tmp_path: Path) -> None:
    page = report(tmp_path, full("small", 0.95), full("large", 0.99))
    headings = [text for text in page.all("h3") if "images" in text]
    assert headings == ["large on test, 410 images", "small on validation, 410 images"]
    assert "0.9300" not in page.text, "the test accuracy of another than the winner"


def test_the_winner_is_readable_without_javascript(tmp_path: Path) -> None:
    page = report(tmp_path, full("small", 0.95), full("large", 0.99))
    details = list(page.with_class("detail"))
    assert ["hidden" in detail for detail in details] == [False, True]
    assert all("hidden" in attributes for tag, attributes in page.tags if tag == "label")


def test_a_limit_that_does_not_hold_on_test_is_told(tmp_path: Path) -> None:
    assert "≥ 0.9 does not hold for certain" in report(tmp_path, full("lucky", 0.93)).text
    assert "≥ 0.9 holds" in report(tmp_path, full("steady", 0.99)).text


def test_the_winner_need_not_have_the_highest_utility(tmp_path: Path) -> None:
    cheap, best = bare("cheap", 0.979, 1.0), bare("best", 0.98, 1.0)
    cheap.index.model["latency_p50_ms"], best.index.model["latency_p50_ms"] = exactly(0.5, "ms"), exactly(0.9, "ms")
    page = report(tmp_path, cheap, best)
    assert page.all("h1") == ["cheap"]
    assert "tied" in page.text
    assert "runs in 0.500 ms" in page.text


def test_ten_candidates_of_ten_classes_stay_below_200_kb(tmp_path: Path) -> None:
    page = report(tmp_path, *(full(f"candidate-{i}", 0.95 + i / 1000, epochs=100) for i in range(10)))
    assert len(page.html.encode()) < 200_000
    assert len(list(page.with_class("curves"))) == 10


def test_a_hundred_classes_thin_their_labels_out(tmp_path: Path) -> None:
    classes = tuple(f"a class called {i}" for i in range(100))
    page = report(tmp_path, full("one", 0.95, classes), full("two", 0.99, classes))
    assert len(list(page.with_class("matrix"))) == 1
    assert 60 < page.html.count("a class calle…") <= 80
    assert len(page.html.encode()) < 400_000
    assert all(name in page.text for name in classes), "the table names them all"


def test_the_same_selection_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (report(tmp_path, full("small"), full("large", 0.99)).html for _ in range(2))
    assert first == second


def test_a_class_without_images_or_predictions_has_no_rates(tmp_path: Path) -> None:
    card = full("one", 0.95, ("seen", "unseen"))
    card = replace(card, index=card.index.model_copy(update={"confusion": {"test": ((9, 0), (0, 0))}}))
    page = report(tmp_path, card)
    unseen = page.text[page.text.index("weakest first") :]
    assert unseen[unseen.index("unseen") :].startswith("unseen 0 – – – 0.0000")


def test_cells_are_shaded_by_their_share_of_the_row() -> None:
    matrix = confusion_matrix([[100, 0], [25, 75]], ("a", "b"))
    assert [(cell.row, cell.column, cell.shade) for cell in matrix.cells] == [(0, 0, "b9"), (1, 0, "o5"), (1, 1, "b8")]
    assert matrix.mistaken == ["b → a: 25 of 100 (25.0 %)"]


def test_what_leaves_the_axes_of_a_training_is_drawn_at_the_edge() -> None:
    index = full("wild").index.model_copy(update={"history": (epoch(1, 1.0), epoch(2, 1e6), epoch(3, 0.1))})
    loss = training_curves([index])[0].charts[0]
    xy = [tuple(map(float, pair.split(","))) for pair in loss.train.split()]
    assert [x for x, _ in xy] == [LEFT, (LEFT + RIGHT) / 2, RIGHT]
    assert xy[1][1] == TOP


@pytest.mark.parametrize(
    ("name", "unit", "values", "scale", "low"),
    [
        ("accuracy", "fraction", (0.93, 1.0), "from here", 0.9),
        ("latency_p95_ms", "ms", (0.25, 12.0), "logarithmic", 0.2),
        ("log_loss", "nats", (0.0, 0.0), "from zero", 0.0),
    ],
)
def test_each_kind_of_metric_has_its_axis(
    name: str, unit: str, values: tuple[float, float], scale: str, low: float
) -> None:
    drawn: Panel = panel(name, {str(i): exactly(v, unit) for i, v in enumerate(values)}, None, "0")
    assert (drawn.scale, drawn.low) == (scale, low)
    assert all(0 <= mark.at <= 100 for mark in drawn.marks)
