import numpy as np
import pytest

from steelyard.drift.nulls import Null, joint_thresholds


@pytest.mark.parametrize("rate", [0.3, 0.05, 0.005])
def test_a_threshold_is_exceeded_at_its_rate_by_fresh_draws(rate: float) -> None:
    generator = np.random.default_rng(0)
    null = Null.fit(generator.exponential(size=40_000))
    assert (generator.exponential(size=400_000) > null.threshold(rate)).mean() == pytest.approx(rate, rel=0.1)


@pytest.mark.parametrize("rate", [0.5, 0.05, 0.01, 1e-6])
def test_the_p_value_of_a_threshold_is_its_rate(rate: float) -> None:
    null = Null.fit(np.random.default_rng(0).normal(size=2_000))
    assert null.p_value(null.threshold(rate)) == pytest.approx(rate, rel=1e-6)


def test_p_values_never_rise_with_the_statistic() -> None:
    null = Null.fit(np.random.default_rng(0).integers(0, 9, 2_000).astype(np.float64))
    assert (np.diff(null.p_values(np.linspace(-1, 20, 500))) <= 0).all()


def test_a_constant_statistic_is_ordinary_and_anything_above_it_is_rare() -> None:
    null = Null.fit(np.ones(100))
    assert null.p_value(1.0) == 1
    assert null.p_value(1.1) < 1e-9
    assert null.threshold(0.001) == pytest.approx(1)


@pytest.mark.parametrize("correlation", [0.0, 0.95])
def test_joint_thresholds_are_crossed_at_the_promised_rate_whatever_the_dependence(correlation: float) -> None:
    generator = np.random.default_rng(0)
    root_JJ = np.linalg.cholesky(np.full((3, 3), correlation) + (1 - correlation) * np.eye(3))
    draws_BJ = generator.normal(size=(8_000, 3)) @ root_JJ.T
    thresholds = joint_thresholds([Null.fit(draws_B) for draws_B in draws_BJ.T], draws_BJ, 0.02)
    fresh_BJ = generator.normal(size=(200_000, 3)) @ root_JJ.T
    assert (fresh_BJ > thresholds).any(axis=1).mean() == pytest.approx(0.02, rel=0.25)


def test_a_copy_of_a_statistic_costs_nothing() -> None:
    draws_B = np.random.default_rng(0).normal(size=4_000)
    null = Null.fit(draws_B)
    twice = joint_thresholds([null, null], np.stack([draws_B, draws_B], axis=1), 0.02)
    assert twice == pytest.approx(joint_thresholds([null], draws_B[:, None], 0.02) * 2)
