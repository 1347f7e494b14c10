import numpy as np
import pytest

from steelyard.drift.calibration import build_profile
from steelyard.drift.detector import DriftDetector
from steelyard.drift.profile import ReferenceProfile
from tests.steelyard.drift.conftest import World


def test_equal_inputs_and_seed_give_an_equal_profile(world: World) -> None:
    first, again, other = (world.profile(train=60, held_out=100, arl0=500, seed=seed).digest for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize(("held_out", "windows"), [(99, ()), (400, (80,)), (900, (40, 160)), (2_100, (80, 320))])
def test_no_window_is_larger_than_a_fifth_of_the_reference(
    world: World, held_out: int, windows: tuple[int, ...]
) -> None:
    index = world.profile(train=100, held_out=held_out, arl0=500).index
    assert index.windows == windows
    assert index.held_out_rows == min(held_out, 2_000)


def test_a_tiny_reference_has_charts_only(tiny_profile: ReferenceProfile) -> None:
    assert all(detector.window is None for detector in tiny_profile.index.detectors)


def test_the_simulated_rate_keeps_the_promise(profile: ReferenceProfile) -> None:
    promised = 1 / profile.index.arl0
    assert 0.4 * promised < profile.index.false_alarms.per_image < 1.6 * promised


def test_unseen_images_keep_the_promise(profile: ReferenceProfile, world: World) -> None:
    detector = DriftDetector(profile)
    alarms = sum(len(detector.update(world.draw(5_000, seed)[0])) for seed in range(10, 16))
    assert alarms <= 8  # 3 were promised in 30,000; more than 8 have a chance of 0.4 %


def test_a_stricter_promise_raises_every_threshold(world: World) -> None:
    loose, strict = (world.profile(train=100, held_out=120, arl0=arl0).index for arl0 in (500, 5_000))
    assert all(a.threshold < b.threshold for a, b in zip(loose.detectors, strict.detectors, strict=True))


def test_a_model_that_fits_its_training_images_far_too_well_keeps_the_promise(world: World) -> None:
    train, labels_N = world.draw(300, 1)
    centers_CD = np.stack([train.embedding_ND[labels_N == c].mean(axis=0) for c in range(3)])
    overfitted = train._replace(
        probabilities_NC=np.eye(3, dtype=np.float32)[labels_N],
        embedding_ND=centers_CD[labels_N] + (train.embedding_ND - centers_CD[labels_N]) / 10,
    )
    profile = build_profile(
        overfitted, labels_N, *world.draw(400, 2), classes=("a", "b", "c"), model_sha256="00", seed=0, arl0=5_000
    )
    detector = DriftDetector(profile)
    # 1.2 are promised in 6,000; without held-out data there is one in every episode, 25 in all.
    assert len(detector.update(world.draw(6_000, 3)[0])) <= 5


def test_the_accuracy_estimated_on_the_reference_is_its_own(world: World, profile: ReferenceProfile) -> None:
    held_out, labels_N = world.draw(400, 2)
    accuracy = (held_out.probabilities_NC.argmax(axis=1) == labels_N).mean()
    sure = (held_out.probabilities_NC.max(axis=1) >= profile.index.confidence_threshold).mean()
    assert profile.index.held_out_accuracy == accuracy
    assert sure == pytest.approx(accuracy, abs=0.01)


@pytest.mark.parametrize(("classes", "size"), [(2, 1), (2, 40), (100, 30)])
def test_any_number_of_classes_and_dimensions_can_be_judged(classes: int, size: int) -> None:
    world = World(classes, size)
    profile = world.profile(train=300, held_out=150, arl0=500)
    assert len(profile.index.features) == min(size, 24) + 5
    samples, _ = world.draw(100, seed=3)
    dark = samples._replace(statistics_NS=samples.statistics_NS - np.float32(0.5))
    assert DriftDetector(profile).update(dark)


def test_constant_features_are_silent_until_they_change(world: World) -> None:
    (train, labels_N), (held_out, held_out_labels_N), (stream, _) = (world.draw(n, n) for n in (100, 120, 40))
    train, held_out, stream = (
        part._replace(embedding_ND=np.ones_like(part.embedding_ND), statistics_NS=np.ones_like(part.statistics_NS))
        for part in (train, held_out, stream)
    )
    profile = build_profile(
        train, labels_N, held_out, held_out_labels_N, classes=("a", "b", "c"), model_sha256="00", seed=0, arl0=500
    )
    assert DriftDetector(profile).update(stream) == []
    changed = stream._replace(statistics_NS=stream.statistics_NS - np.float32(0.1))
    assert DriftDetector(profile).update(changed)


def test_a_class_absent_from_the_reference_is_no_error_and_warns_when_it_comes(world: World) -> None:
    train, held_out = world.draw(300, 1), world.draw(400, 2, labels=(0, 1))
    profile = build_profile(*train, *held_out, classes=("a", "b", "c"), model_sha256="00", seed=0, arl0=2_000)
    assert DriftDetector(profile).update(world.draw(80, 3, labels=(0, 1))[0]) == []
    detector = DriftDetector(profile)
    assert detector.update(world.draw(80, 3, labels=(2,))[0])
    assert detector.report().divergences.kl > 1  # type: ignore[union-attr]
