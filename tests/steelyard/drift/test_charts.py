import numpy as np
import pytest

from steelyard.drift.charts import CHARTS, MEMORIES, SHIFTS, Charts

ROWS = 900  # raises the reference values by 3 / sqrt(900) = 0.1


def test_the_charts_follow_the_textbook() -> None:
    z_TF = np.random.default_rng(0).normal(0.2, 1, (60, 3))
    statistics_TJ = Charts(1, 3, ROWS).run(z_TF[:, None])[:, 0]
    up_KF, down_KF, averages_LF = np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((3, 3))
    for z_F, statistics_J in zip(z_TF, statistics_TJ, strict=True):
        expected = []
        for k, shift in enumerate(SHIFTS):
            up_KF[k] = np.maximum(0, up_KF[k] + z_F - shift - 0.1)
            down_KF[k] = np.maximum(0, down_KF[k] - z_F - shift - 0.1)
            expected.append(max(up_KF[k].max(), down_KF[k].max()))
        for i, weight in enumerate(MEMORIES):
            averages_LF[i] = (1 - weight) * averages_LF[i] + weight * z_F
            expected.append((averages_LF[i] ** 2).sum() * (2 - weight) / weight)
        np.testing.assert_allclose(statistics_J, expected)


def test_portions_make_no_difference_at_all() -> None:
    z_TSF = np.random.default_rng(0).normal(size=(50, 2, 3))
    whole, portioned = Charts(2, 3, ROWS), Charts(2, 3, ROWS)
    parts = [portioned.run(z_TSF[start : start + 7]) for start in range(0, 50, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole.run(z_TSF))


def test_streams_do_not_touch_each_other() -> None:
    z_TSF = np.random.default_rng(0).normal(size=(50, 2, 3))
    np.testing.assert_array_equal(Charts(2, 3, ROWS).run(z_TSF)[:, 1], Charts(1, 3, ROWS).run(z_TSF[:, 1:])[:, 0])


def test_a_reset_forgets_everything() -> None:
    z_TSF = np.random.default_rng(0).normal(size=(20, 1, 3))
    charts = Charts(1, 3, ROWS)
    first = charts.run(z_TSF)
    charts.reset()
    np.testing.assert_array_equal(charts.run(z_TSF), first)


@pytest.mark.parametrize("chart", range(2, 5))
def test_without_a_shift_each_mewma_settles_at_the_number_of_features(chart: int) -> None:
    statistics_TSJ = Charts(300, 5, ROWS).run(np.random.default_rng(0).normal(size=(600, 300, 5)))
    assert CHARTS[chart].startswith("mewma")
    assert statistics_TSJ[-1, :, chart].mean() == pytest.approx(5, rel=0.15)


def test_a_shift_within_the_error_of_the_reference_never_adds_up() -> None:
    z_TSF = np.random.default_rng(0).normal(0.5, 1, (3_000, 1, 1))
    poor, good = (Charts(1, 1, rows).run(z_TSF)[-1, 0, 0] for rows in (30, 10_000))
    assert poor < 20
    assert good > 400  # (0.5 - 0.28) * 3,000 = 660
