import numpy as np
import pytest

from steelyard.drift.samples import Samples, image_statistics


def test_the_statistics_of_a_small_image_are_those_computed_by_hand() -> None:
    image_NHWC = np.array([[0, 255], [0, 255]], np.uint8).reshape(1, 2, 2, 1)
    # Half the pixels are 1: mean 1/2, deviation 1/2, steps of 1 along rows and of 0 along columns, mean square 1/2.
    np.testing.assert_allclose(image_statistics(image_NHWC), [[0.5, 0.5, 0.5, np.sqrt(0.5)]], rtol=1e-6)


def test_a_grey_image_has_the_same_statistics_with_one_channel_or_three() -> None:
    grey_NHWC = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 1), dtype=np.uint8)
    colour_NHWC = np.repeat(grey_NHWC, 3, axis=3)
    np.testing.assert_allclose(image_statistics(colour_NHWC), image_statistics(grey_NHWC), rtol=1e-4)


def test_only_the_rms_sees_colour() -> None:
    grey_NHWC, red_NHWC = np.full((1, 4, 4, 3), 85, np.uint8), np.zeros((1, 4, 4, 3), np.uint8)
    red_NHWC[..., 0] = 255
    difference_S = (image_statistics(red_NHWC) - image_statistics(grey_NHWC))[0]
    np.testing.assert_allclose(difference_S[:3], 0, atol=1e-3)
    assert difference_S[3] > 0.2


def test_an_image_does_not_depend_on_its_neighbours_in_the_batch() -> None:
    images_NHWC = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    one_by_one_NS = np.concatenate([image_statistics(image_HWC[None]) for image_HWC in images_NHWC])
    np.testing.assert_allclose(image_statistics(images_NHWC), one_by_one_NS, rtol=1e-5)


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (2, 1, 1, 1), (2, 1, 5, 3)])
def test_images_without_neighbouring_pixels_have_no_sharpness_rather_than_nan(shape: tuple[int, ...]) -> None:
    statistics_NS = image_statistics(np.full(shape, 7, np.uint8))
    assert statistics_NS.shape == (shape[0], 4)
    assert statistics_NS.dtype == np.float32
    assert np.isfinite(statistics_NS).all()
    assert (statistics_NS[:, 2] == 0).all()


def test_rows_are_chosen_from_every_column() -> None:
    samples = Samples(*(np.arange(6, dtype=np.float32).reshape(3, 2) for _ in range(3)))
    assert [column.tolist() for column in samples.rows(slice(1, 2))] == [[[2, 3]]] * 3
