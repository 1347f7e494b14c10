"""Resampling: the same figures as by the plain formula with explicit weights, in little memory."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.evaluation.answers import Answers, MaskCounts, SplitOutputs
from steelyard.evaluation.metrics import quality, quality_names
from steelyard.evaluation.times import THROUGHPUT, Times, time_metric
from steelyard.selection import resampling
from steelyard.selection.resampling import resample_quality, resample_times
from tests.steelyard.selection.selection_kit import contract, written


def _answers(task: str, images: int, classes: int, seed: int) -> Answers:
    random = np.random.default_rng(seed)
    if task == "segmentation":
        return MaskCounts(counts_NCC=random.integers(0, 50, (images, classes, classes)))
    labels_N = np.random.default_rng(0).integers(classes, size=images)  # the same for all candidates
    probabilities_NC = random.dirichlet(np.ones(classes), images) + 0.7 * np.eye(classes)[labels_N]
    return SplitOutputs(probabilities_NC=(probabilities_NC / 1.7).astype(np.float32), labels_N=labels_N)


@given(
    st.sampled_from(["classification", "segmentation"]),
    st.integers(2, 60),
    st.integers(2, 7),
    st.integers(1, 4),
    st.integers(0, 1000),
    st.booleans(),
)
@settings(max_examples=25)
def test_resampled_metrics_are_those_of_the_explicit_weights(
    task: str, images: int, classes: int, candidates: int, seed: int, narrow: bool
) -> None:
    names = quality_names(task, [str(c) for c in range(classes)])  # type: ignore[arg-type]
    labels = [str(c) for c in range(classes)]
    answers = [_answers(task, images, classes, seed + k) for k in range(candidates)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampling, "RESAMPLES", 200)
        if narrow:  # a candidate at a time, and few resamples at a time
            patch.setattr(resampling, "WIDEST", 1)
            patch.setattr(resampling, "CHUNK", 7 * images)
        drawn = resample_quality(iter(answers), labels, names, seed)
        weights_BN = np.concatenate(list(resampling._weights(images, seed)))
    assert weights_BN.shape == (200, images)
    weights_BN = weights_BN[:, np.argsort(np.argsort(answers[0].labels_N, kind="stable"))]  # drawn class by class
    for k, one in enumerate(answers):
        expected = quality(one, labels, weights_BN.astype(np.float64), names)
        for name in names:
            np.testing.assert_allclose(drawn[name][:, k], expected[name], atol=2e-4, err_msg=name)


def test_images_are_drawn_once_on_average_as_often_as_poisson_says() -> None:
    weights_BN = np.concatenate(list(resampling._weights(500, 0)))
    assert weights_BN.mean() == pytest.approx(1, abs=0.005)
    assert weights_BN.var() == pytest.approx(1, abs=0.01)
    assert (weights_BN == 0).mean() == pytest.approx(np.exp(-1), abs=0.003)


def test_the_draws_depend_on_the_images_and_the_seed_and_on_no_candidate() -> None:
    many = [_answers("classification", 80, 3, seed) for seed in range(5)]
    together = resample_quality(iter(many), "abc", ["accuracy", "roc_auc"], seed=4)
    for k, one in enumerate(many):
        alone = resample_quality(iter([one]), "abc", ["accuracy"], seed=4)
        np.testing.assert_allclose(alone["accuracy"][:, 0], together["accuracy"][:, k], atol=1e-6)
    other = resample_quality(iter(many), "abc", ["accuracy"], seed=5)
    assert not np.allclose(other["accuracy"], together["accuracy"])


def test_the_spread_of_the_resamples_is_the_standard_error() -> None:
    answers = _answers("classification", 1000, 3, 1)
    accuracy_B = resample_quality(iter([answers]), "abc", ["accuracy"], 0)["accuracy"][:, 0]
    rate = accuracy_B.mean()
    assert accuracy_B.std() == pytest.approx(np.sqrt(rate * (1 - rate) / 1000), rel=0.06)


def test_whole_rounds_are_drawn_and_the_same_ones_for_all() -> None:
    random = np.random.default_rng(0)
    paces_R = random.lognormal(0, 0.5, 30)
    times = [Times(factor * paces_R[:, None] * np.ones((30, 4)), 1 / (factor * paces_R)) for factor in (1.0, 3.0)]
    names = ["latency_p50_ms", "latency_p95_ms", THROUGHPUT]
    drawn = resample_times(times, names, contract(), seed=0)
    for name in names:
        one_B, other_B = drawn[name].T
        np.testing.assert_allclose(other_B, one_B / 3 if name == THROUGHPUT else 3 * one_B)
        assert set(one_B.round(9)) <= set((time_metric(name, times[0], np.eye(30))).round(9)), "a round's own figure"
        assert len(set(one_B)) > 1


def test_images_per_dollar_follow_the_throughput() -> None:
    times = [Times(np.ones((30, 2)), np.random.default_rng(0).lognormal(size=30))]
    metrics = {"images_per_dollar": {"weight": 1, "worst": 1, "ideal": 1e9}}
    drawn = resample_times(times, [THROUGHPUT, "images_per_dollar"], written(metrics, price_per_hour=0.5), seed=0)
    np.testing.assert_allclose(drawn["images_per_dollar"], drawn[THROUGHPUT] * 7200)


def test_many_images_are_resampled_in_little_memory() -> None:
    labels_N = np.arange(10_000) % 10
    perfect = SplitOutputs(probabilities_NC=np.eye(10, dtype=np.float32)[labels_N], labels_N=labels_N)
    tracemalloc.start()
    try:
        drawn = resample_quality(iter([perfect] * 20), "0123456789", ["accuracy", "macro_recall"], 0)
        peak_mib = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    assert {name: (values.shape, values.min()) for name, values in drawn.items()} == dict.fromkeys(
        drawn, ((2000, 20), 1)
    )
    assert peak_mib < 100
