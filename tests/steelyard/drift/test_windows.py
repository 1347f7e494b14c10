import numpy as np
import pytest

from steelyard.drift.windows import Tally, divergences, measure, slots, tally


def rows_of(rows: int, seed: int, classes: int = 3, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    probabilities_NC = generator.dirichlet(np.full(classes, 0.5), rows)
    return generator.normal(shift, 1, (rows, 4)), probabilities_NC, probabilities_NC.argmax(axis=1)


def tally_of(rows: int, seed: int, shift: float = 0.0) -> Tally:
    edges_CG = np.sort(np.random.default_rng(9).random((3, 20)), axis=1)
    z_NF, probabilities_NC, predicted_N = rows_of(rows, seed, shift=shift)
    return tally(z_NF, slots(probabilities_NC, edges_CG), predicted_N, 20)


def test_slots_count_the_edges_below_each_probability() -> None:
    edges_CG = np.array([[0.0, 0.5, 0.5, 1.0], [0.1, 0.2, 0.3, 0.4]])
    probabilities_NC = np.array([[0.0, 1.0], [0.5, 0.0], [0.6, 0.25], [1.0, 0.1]])
    expected_NC = [[(edge_G < p).sum() for edge_G, p in zip(edges_CG, row, strict=True)] for row in probabilities_NC]
    np.testing.assert_array_equal(slots(probabilities_NC, edges_CG), expected_NC)


def test_below_is_the_number_of_rows_at_or_under_each_edge() -> None:
    z_NF, probabilities_NC, predicted_N = rows_of(50, seed=1)
    edges_CG = np.sort(probabilities_NC[::5].T, axis=1)  # edges that some rows equal
    below_CG = tally(z_NF, slots(probabilities_NC, edges_CG), predicted_N, edges_CG.shape[1]).below_CG
    np.testing.assert_array_equal(below_CG, (probabilities_NC.T[:, None] <= edges_CG[:, :, None]).sum(axis=2))


def test_a_tally_without_a_part_is_the_tally_of_the_rest() -> None:
    z_NF, probabilities_NC, predicted_N = rows_of(50, seed=1)
    slots_NC = slots(probabilities_NC, np.sort(probabilities_NC.T, axis=1))
    whole, part, rest = (tally(z_NF[s], slots_NC[s], predicted_N[s], 50) for s in (slice(None), slice(9), slice(9, 50)))
    for difference, expected in zip(whole.without(part), rest, strict=True):
        np.testing.assert_allclose(difference, expected, atol=1e-12)


def test_a_window_equal_to_the_reference_measures_nothing() -> None:
    reference = tally_of(200, seed=1)
    np.testing.assert_allclose(measure(reference, reference), 0, atol=1e-9)


def test_t2_sees_shifted_features_and_nothing_else_does() -> None:
    reference, clean, shifted = tally_of(2_000, seed=1), tally_of(100, seed=2), tally_of(100, seed=2, shift=0.5)
    difference = measure(shifted, reference) - measure(clean, reference)
    assert difference[0] > 50  # 100 rows * 4 features * 0.5^2 = 100, give or take
    np.testing.assert_allclose(difference[1:], 0, atol=1e-9)


def test_a_feature_constant_in_the_reference_does_not_divide_by_zero() -> None:
    reference = tally_of(200, seed=1)._replace(sums_F=np.zeros(4), squares_F=np.zeros(4))
    assert np.isfinite(measure(tally_of(50, seed=2), reference)).all()


def test_equal_proportions_do_not_diverge() -> None:
    same = divergences(np.array([10, 10]), np.array([400, 400]))
    assert (same.kl, same.jensen_shannon, same.psi) == pytest.approx((0, 0, 0))
    assert same.cross_entropy == pytest.approx(np.log(2))


def test_divergences_are_those_computed_by_hand() -> None:
    found = divergences(window_C=np.array([1, 0]), reference_C=np.array([5, 5]))
    kl = (np.log(2 / 3) + np.log(2)) / 2  # reference 1/2, 1/2; window, with half a count added to each, 3/4, 1/4
    assert found.kl == pytest.approx(kl)
    assert found.cross_entropy == pytest.approx(np.log(2) + kl)
    assert found.psi == pytest.approx(np.log(3) / 4)
    half = (np.log(4 / 5) + np.log(4 / 3)) / 2
    other = 0.75 * np.log(6 / 5) + 0.25 * np.log(2 / 3)
    assert found.jensen_shannon == pytest.approx((half + other) / 2)


def test_a_class_that_vanished_or_is_new_stays_finite_and_diverges() -> None:
    for window_C, reference_C in [([50, 0], [50, 50]), ([50, 50], [100, 0])]:
        found = divergences(np.array(window_C), np.array(reference_C))
        assert 0.3 < found.kl < 5
        assert 0 < found.jensen_shannon <= np.log(2)
