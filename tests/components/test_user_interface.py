"""What the Kubeflow UI is given to draw."""

import numpy as np
import pytest
from kfp import dsl

from components.user_interface import show, show_choice
from steelyard.data.dataset import DatasetRef
from steelyard.evaluation.answers import Answers, MaskCounts, SplitOutputs
from steelyard.evaluation.bounds import measure_quality
from steelyard.evaluation.scorecard import Scorecard, ScorecardIndex
from steelyard.selection.publish import choose
from tests.steelyard.selection.selection_kit import contract, with_answers

CLASSES = ("land", "water")


def shown(
    task: str, answers: Answers | None, failure: str | None = None
) -> tuple[dsl.Metrics, dsl.ClassificationMetrics]:
    name = "accuracy" if task == "classification" else "mean_iou"
    index = ScorecardIndex(
        candidate="one",
        task=task,
        classes=CLASSES,
        dataset=DatasetRef(content_digest="c", split_digest="s"),
        failure=failure,
        validation=measure_quality(answers, CLASSES, [name]) if answers else {},
    )
    metrics, classification = dsl.Metrics(uri="m"), dsl.ClassificationMetrics(uri="c")
    show(Scorecard(index=index, answers={"validation": answers} if answers else {}), metrics, classification)
    return metrics, classification


def matrix(classification: dsl.ClassificationMetrics) -> list[list[int]]:
    return [row["row"] for row in classification.metadata["confusionMatrix"]["rows"]]


def test_images_are_drawn_as_matrix_and_roc_with_their_bounds() -> None:
    labels_N = np.array([0] * 10 + [1] * 10)
    said_N = np.where(np.arange(20) == 3, 1, labels_N)
    outputs = SplitOutputs(probabilities_NC=np.eye(2, dtype=np.float32)[said_N], labels_N=labels_N)
    metrics, classification = shown("classification", outputs)
    assert metrics.metadata["accuracy"] == pytest.approx(0.95)
    assert 0.7 < metrics.metadata["accuracy_bound_95"] < 0.95
    assert matrix(classification) == [[9, 1], [0, 10]]
    assert classification.metadata["confidenceMetrics"]


def test_masks_are_drawn_as_a_matrix_of_pixels_without_roc() -> None:
    counts_NCC = np.tile(np.array([[90, 10], [5, 95]]), (7, 1, 1))
    metrics, classification = shown("segmentation", MaskCounts(counts_NCC=counts_NCC))
    assert metrics.metadata["mean_iou"] == pytest.approx((90 / 105 + 95 / 110) / 2)
    assert matrix(classification) == [[630, 70], [35, 665]]
    assert "confidenceMetrics" not in classification.metadata


def test_a_failed_candidate_shows_why() -> None:
    metrics, classification = shown("classification", None, failure="training: diverged")
    assert metrics.metadata == {"failure": "training: diverged"}
    assert classification.metadata == {}


def test_a_choice_is_drawn_as_the_winner_with_utility_and_chance_of_all() -> None:
    cards = [with_answers("better", hit_rate=0.95, names=("accuracy",)), with_answers("worse", names=("accuracy",))]
    metrics, classification = dsl.Metrics(uri="m"), dsl.ClassificationMetrics(uri="c")
    show_choice(choose(cards, contract()), cards, metrics, classification)
    assert metrics.metadata["accuracy"] == cards[0].index.validation["accuracy"].value
    assert metrics.metadata["latency_p50_ms"] == 2.0
    assert metrics.metadata["utility[better]"] > metrics.metadata["utility[worse]"]
    assert metrics.metadata["p_best[better]"] + metrics.metadata["p_best[worse]"] == pytest.approx(1)
    assert "test_accuracy" in metrics.metadata
    assert sum(map(sum, matrix(classification))) == 400
