"""Times: quantiles by rounds, and the bounds that hard limits on latency are judged by."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.errors import ArtifactError
from steelyard.evaluation.latency import ROUNDS
from steelyard.evaluation.times import (
    QUANTILES,
    THROUGHPUT,
    Times,
    TooFewSamples,
    latency_bound,
    measure_time,
    quantile_bound,
    time_metric,
)


@st.composite
def counted_rounds(draw: st.DrawFn) -> tuple[Times, np.ndarray]:
    rounds, samples = draw(st.integers(1, 40)), draw(st.integers(1, 25))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    latency_ms_RS = random.lognormal(size=(rounds, samples))
    if draw(st.booleans()):  # a coarse clock: many times are equal
        latency_ms_RS = np.ceil(latency_ms_RS)
    counts_BR = np.stack([np.bincount(random.integers(rounds, size=rounds), minlength=rounds) for _ in range(5)])
    return Times(latency_ms_RS, random.lognormal(size=rounds)), counts_BR


@given(counted_rounds())
@settings(max_examples=150)
def test_a_resampled_quantile_is_that_of_the_rounds_repeated(case: tuple[Times, np.ndarray]) -> None:
    times, counts_BR = case
    for name in (*QUANTILES, THROUGHPUT):
        values_RS = times.throughput_R[:, None] if name == THROUGHPUT else times.latency_ms_RS
        expected = [
            np.quantile(np.repeat(values_RS, counts_R, axis=0), QUANTILES.get(name, 0.5), method="inverted_cdf")
            for counts_R in counts_BR
        ]
        assert time_metric(name, times, counts_BR).tolist() == expected


def test_the_bound_of_a_tail_quantile_needs_enough_samples() -> None:
    with pytest.raises(TooFewSamples, match="95 % quantile needs at least 59 independent samples; there are 58"):
        quantile_bound(np.arange(58.0), 0.95)
    assert quantile_bound(np.arange(59.0), 0.95) == 58
    with pytest.raises(TooFewSamples, match="99 % quantile needs at least 299 independent samples; there are 298"):
        quantile_bound(np.arange(298.0), 0.99)
    assert quantile_bound(np.arange(299.0), 0.99) == 298


def test_rounds_that_each_have_their_own_pace_are_worth_fewer_samples_than_they_hold() -> None:
    alike = Times(np.random.default_rng(0).lognormal(0, 0.05, (65, 20)), np.ones(65))
    paced = Times(alike.latency_ms_RS * np.geomspace(1, 3, 65)[:, None], np.ones(65))
    assert measure_time("latency_p99_ms", alike).value < measure_time("latency_p99_ms", alike).bound
    with pytest.raises(TooFewSamples, match=r"needs at least 299 independent samples; there are \d+$"):
        measure_time("latency_p99_ms", paced)


def test_the_bound_of_a_quantile_holds_as_often_as_it_promises() -> None:
    random = np.random.default_rng(0)
    held = np.mean([quantile_bound(random.exponential(size=200), 0.95) >= -np.log(0.05) for _ in range(2000)])
    assert 0.94 <= held <= 0.99


@pytest.mark.parametrize("between", [0.0, 0.1, 0.3])
@pytest.mark.parametrize(("quantile", "normal"), [(0.5, 0.0), (0.95, 1.645), (0.99, 2.326)])
def test_a_latency_is_rarely_bounded_too_low_where_rounds_differ(
    between: float, quantile: float, normal: float
) -> None:
    """Where there is no bound nothing is claimed, so that nothing passes a hard limit."""
    random = np.random.default_rng(0)
    truth = np.exp(normal * np.hypot(between, 0.1))
    wrong = refused = 0
    for _ in range(300):
        pace_R1 = random.normal(0, between, (ROUNDS, 1))
        try:
            wrong += latency_bound(np.exp(pace_R1 + random.normal(0, 0.1, (ROUNDS, 20))), quantile) < truth
        except TooFewSamples:
            refused += 1
    assert wrong <= 0.07 * 300
    assert refused == 0 or (quantile == 0.99 and between > 0)


def test_the_bound_of_the_throughput_lies_below_it_and_holds() -> None:
    random = np.random.default_rng(0)
    bounds = []
    for _ in range(500):
        measured = measure_time(THROUGHPUT, Times(np.ones((30, 1)), random.lognormal(0, 0.2, 30)))
        assert measured.bound <= measured.value
        bounds.append(measured.bound)
    assert np.mean(np.array(bounds) <= 1) >= 0.93


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"latency_ms": np.ones((2, 3))}, "throughput"),
        ({"latency_ms": np.ones(6), "throughput": np.ones(2)}, "latency_ms must be rounds x images"),
        ({"latency_ms": np.ones((2, 3)), "throughput": np.ones(3)}, "throughput one number a round"),
        ({"latency_ms": np.full((2, 3), np.nan), "throughput": np.ones(2)}, "must be finite and above 0"),
        ({"latency_ms": np.zeros((2, 3)), "throughput": np.ones(2)}, "must be finite and above 0"),
        ({"latency_ms": np.ones((0, 3)), "throughput": np.ones(0)}, "and at least one"),
        ({"latency_ms": np.array([["fast"]]), "throughput": np.ones(1)}, "could not convert string to float"),
    ],
)
def test_times_that_can_t_be_are_refused(arrays: dict[str, np.ndarray], complaint: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "times.npz", **arrays)
    with pytest.raises(ArtifactError, match=rf"times\.npz: .*{complaint}"):
        Times.read(tmp_path / "times.npz")
