import numpy as np
import pytest
from numpy.typing import NDArray

from steelyard.drift.corruptions import CORRUPTIONS, corrupt
from steelyard.drift.samples import image_statistics


def images_of(channels: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(40, 216, (4, 12, 10, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_changes_a_copy_and_repeats_with_its_seed(name: str, channels: int) -> None:
    images_NHWC = images_of(channels)
    before_NHWC = images_NHWC.copy()
    corrupted_NHWC = corrupt(images_NHWC, name, 3, seed=1)
    assert corrupted_NHWC.dtype == np.uint8
    assert corrupted_NHWC.shape == images_NHWC.shape
    assert (corrupted_NHWC != images_NHWC).any()
    np.testing.assert_array_equal(images_NHWC, before_NHWC)
    np.testing.assert_array_equal(corrupted_NHWC, corrupt(images_NHWC, name, 3, seed=1))


@pytest.mark.parametrize(
    ("name", "statistic", "sign"),
    [("gaussian_noise", 2, 1), ("gaussian_blur", 2, -1), ("brightness", 0, 1), ("contrast", 1, -1)],
)
def test_severity_moves_the_statistic_that_it_should(name: str, statistic: int, sign: int) -> None:
    means = [image_statistics(corrupt(images_of(3), name, s, seed=1)).mean(axis=0)[statistic] for s in range(1, 6)]
    assert (sign * np.diff(means) > 0).all()


def test_a_rotation_keeps_the_centre_of_an_image_in_place() -> None:
    image_NHWC = np.zeros((1, 9, 9, 1), np.uint8)
    image_NHWC[0, 4, 4] = 255
    assert corrupt(image_NHWC, "rotate", 5, seed=0)[0, 4, 4, 0] == 255


def test_a_rotation_by_30_degrees_moves_a_point_on_the_axis_where_it_should_be() -> None:
    image_NHWC = np.zeros((1, 21, 21, 1), np.uint8)
    image_NHWC[0, 9:12, 17:20] = 255  # 8 pixels right of the centre
    found_rows, found_columns = np.nonzero(corrupt(image_NHWC, "rotate", 5, seed=0)[0, :, :, 0])
    assert abs(found_rows.mean() - 10) == pytest.approx(4, abs=0.6)  # 8 sin 30
    assert found_columns.mean() - 10 == pytest.approx(6.9, abs=0.6)  # 8 cos 30
