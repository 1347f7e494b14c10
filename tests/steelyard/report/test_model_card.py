"""The model card says what the bundle is and does, from the artifacts alone."""

import logging
import re

import pytest

from steelyard.bundle import ModelBundle
from steelyard.contract import Contract
from steelyard.data.dataset import Dataset
from steelyard.evaluation.evaluate import evaluate
from steelyard.evaluation.scorecard import Scorecard
from steelyard.report.model_card import model_card
from steelyard.selection.publish import choose
from steelyard.selection.selection import Selection

CONTRACT = """
client: acme
metrics:
  accuracy: {weight: 3, worst: 0.5, ideal: 1.0, must: ">= 0.6"}
  "recall[3]": {weight: 1, worst: 0.5, ideal: 1.0, must: ">= 0.3"}
"""


@pytest.fixture(scope="module")
def scorecard(bundle: ModelBundle, dataset: Dataset) -> Scorecard:
    return evaluate(bundle, dataset)


@pytest.fixture(scope="module")
def selection(scorecard: Scorecard) -> Selection:
    return choose([scorecard], Contract.from_yaml(CONTRACT))


def test_it_has_the_usual_sections(
    bundle: ModelBundle, dataset: Dataset, selection: Selection, scorecard: Scorecard
) -> None:
    card = model_card(bundle, dataset, selection, scorecard)
    assert re.findall(r"^#+ (.*)$", card, re.MULTILINE) == [
        "one-layer", "Model details", "Intended use", "Data", "Evaluation", "Results by class", "Limits and caveats",
        "How it was chosen", "Provenance",
    ]  # fmt: skip
    assert len(card.splitlines()) < 100
    for fact in (
        selection.why,
        bundle.index.run_key,
        dataset.ref.content_digest,
        "learning_rate 0.01",
        "897 train",
        f"| accuracy | {selection.test['accuracy'].value:.4g} | ≥ {selection.test['accuracy'].bound:.4g} |",
        ">= 0.6 holds",
        "drift detector",
    ):
        assert fact in card


def test_classes_come_weakest_first_and_the_reading_of_test_is_noted(
    bundle: ModelBundle,
    dataset: Dataset,
    selection: Selection,
    scorecard: Scorecard,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    card = model_card(bundle, dataset, selection, scorecard)
    table = card[card.index("Results by class") : card.index("Limits and caveats")]
    rows = re.findall(r"^\| (\d) \| ([\d.]+) \(≥ ([\d.]+)\)", table, re.MULTILINE)
    recalls = [float(recall) for _, recall, _ in rows]
    assert recalls == sorted(recalls)
    assert {name for name, _, _ in rows} == set(dataset.index.classes)
    assert all(float(bound) < float(recall) for _, recall, bound in rows)
    assert {name: recall for name, recall, _ in rows}["3"] == f"{selection.test['recall[3]'].value:.4f}"
    assert f"Weakest classes on test, by recall: {rows[0][0]} (" in card
    assert [r.getMessage() for r in caplog.records] == ["test split read: one-layer, for the model card to acme"]


def test_without_answers_it_says_that_there_are_no_results_by_class(
    bundle: ModelBundle, dataset: Dataset, selection: Selection
) -> None:
    card = model_card(bundle, dataset, selection)
    assert "The answers for the test split are not at hand" in card
    assert "Weakest classes" not in card
