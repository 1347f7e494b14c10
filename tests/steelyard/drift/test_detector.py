import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from steelyard.drift.detector import DriftAlarm, DriftDetector
from steelyard.drift.profile import ReferenceProfile
from steelyard.drift.samples import Samples
from steelyard.errors import ArtifactError
from tests.steelyard.drift.conftest import World

Shift = Callable[[Samples], Samples]


def in_portions(detector: DriftDetector, samples: Samples, portion: int) -> list[DriftAlarm]:
    starts = range(0, len(samples.embedding_ND), portion)
    return [alarm for s in starts for alarm in detector.update(samples.rows(slice(s, s + portion)))]


@pytest.fixture(scope="module")
def eventful(world: World, shifted: Shift) -> Samples:
    """Clean, shifted, clean for long, one class only."""
    parts = [world.draw(130, 4)[0], shifted(world.draw(95, 5)[0]), world.draw(500, 6)[0], world.draw(250, 7, (1,))[0]]
    return Samples(*(np.concatenate(column) for column in zip(*parts, strict=True)))


@pytest.mark.parametrize("portion", [1, 7, 80, 333])
def test_portions_make_no_difference(profile: ReferenceProfile, eventful: Samples, portion: int) -> None:
    whole, portioned = DriftDetector(profile), DriftDetector(profile)
    expected, found = whole.update(eventful), in_portions(portioned, eventful, portion)
    assert [(a.reading.detector, a.samples_seen) for a in found] == [
        (a.reading.detector, a.samples_seen) for a in expected
    ]
    assert len(expected) >= 2
    for one, other in zip(portioned.report().readings, whole.report().readings, strict=True):
        assert one.statistic == pytest.approx(other.statistic, rel=1e-5, abs=1e-5)


def test_a_clean_stream_is_ok(profile: ReferenceProfile, world: World) -> None:
    detector = DriftDetector(profile)
    assert detector.update(world.draw(400, 4)[0]) == []
    report = detector.report()
    assert (report.state, report.alarms, report.samples_seen) == ("OK", 0, 400)
    assert all(reading.statistic <= reading.threshold for reading in report.readings)


def test_a_shift_alarms_within_a_few_samples_and_once(profile: ReferenceProfile, world: World, shifted: Shift) -> None:
    detector = DriftDetector(profile)
    detector.update(world.draw(100, 4)[0])
    (alarm,) = detector.update(shifted(world.draw(600, 5)[0]))
    assert 100 < alarm.samples_seen < 130
    assert alarm.reading.level == "DRIFT"
    assert alarm.reading.statistic > alarm.reading.threshold
    assert detector.state == "DRIFT"


def test_the_state_clears_after_three_clean_windows_and_the_next_shift_alarms_again(
    profile: ReferenceProfile, world: World, shifted: Shift
) -> None:
    detector = DriftDetector(profile)
    detector.update(shifted(world.draw(80, 5)[0]))
    clear_after = profile.index.clear_after
    assert clear_after == 3 * 80
    detector.update(world.draw(clear_after - 1, 6)[0])
    assert detector.state == "DRIFT"
    detector.update(world.draw(80, 7)[0])
    assert detector.state == "OK"
    assert len(detector.update(shifted(world.draw(80, 8)[0]))) == 1
    assert detector.report().alarms == 2


def test_a_change_of_the_classes_alone_warns_and_no_more(profile: ReferenceProfile, world: World) -> None:
    detector = DriftDetector(profile)
    samples, _ = world.draw(2_000, 4)
    predicted_N = samples.probabilities_NC.argmax(axis=1)
    rows = np.concatenate([np.flatnonzero(predicted_N == c)[:n] for c, n in ((0, 42), (1, 30), (2, 8))])
    alarms = detector.update(samples.rows(np.random.default_rng(0).permutation(rows)))
    assert [alarm.reading.level for alarm in alarms] == ["WARN"]
    assert detector.state == "WARN"


def test_before_the_first_window_there_are_no_window_numbers(profile: ReferenceProfile, world: World) -> None:
    detector = DriftDetector(profile)
    detector.update(world.draw(79, 4)[0])
    report = detector.report()
    assert report.divergences is None
    assert report.estimated_accuracy is None
    assert all(reading.window is None and reading.p_value is None for reading in report.readings)


def test_the_report_is_of_the_latest_full_window(profile: ReferenceProfile, world: World) -> None:
    detector = DriftDetector(profile)
    samples, labels_N = world.draw(120, 4)
    detector.update(samples)
    report = detector.report()
    tests = {reading.detector: reading for reading in report.readings if reading.window == 80}
    assert set(tests) == {"t2", "bbsds", "label"}
    assert all(0 < reading.p_value <= 1 for reading in tests.values() if reading.p_value is not None)
    assert report.divergences is not None
    assert tests["label"].statistic == pytest.approx(report.divergences.kl)
    accuracy = (samples.probabilities_NC.argmax(axis=1) == labels_N)[:80].mean()
    assert report.estimated_accuracy == pytest.approx(accuracy, abs=0.1)


def test_without_windows_the_charts_alarm_and_the_numbers_are_still_reported(
    tiny_profile: ReferenceProfile, world: World, shifted: Shift
) -> None:
    detector = DriftDetector(tiny_profile)
    (alarm,) = detector.update(shifted(world.draw(60, 5)[0]))
    assert alarm.reading.window is None
    assert detector.report().divergences is not None
    detector.update(world.draw(tiny_profile.index.clear_after, 6)[0])
    assert detector.state == "OK"


def test_answers_that_are_no_numbers_alarm(profile: ReferenceProfile, world: World) -> None:
    samples, _ = world.draw(200, 4)
    detector = DriftDetector(profile)
    assert detector.update(Samples(*(column * np.float32(np.nan) for column in samples)))
    assert detector.report().estimated_accuracy == 0


def test_no_samples_change_nothing(profile: ReferenceProfile, world: World) -> None:
    detector = DriftDetector(profile)
    assert detector.update(world.draw(0, 4)[0]) == []
    assert detector.report().samples_seen == 0


@pytest.mark.parametrize("cut", [50, 200, 700])
def test_a_restored_detector_goes_on_as_if_nothing_had_happened(
    profile: ReferenceProfile, eventful: Samples, cut: int
) -> None:
    first, second = DriftDetector(profile), DriftDetector(profile)
    first.update(eventful.rows(slice(cut)))
    second.restore(first.snapshot())
    assert second.report() == first.report()
    assert second.update(eventful.rows(slice(cut, None))) == first.update(eventful.rows(slice(cut, None)))
    assert second.report() == first.report()


def test_a_broken_snapshot_or_one_of_another_profile_is_refused_and_changes_nothing(
    profile: ReferenceProfile, tiny_profile: ReferenceProfile, world: World
) -> None:
    detector = DriftDetector(profile)
    detector.update(world.draw(90, 4)[0])
    before = detector.report()
    with pytest.raises(ArtifactError, match="another reference profile"):
        detector.restore(DriftDetector(tiny_profile).snapshot())
    for broken in (b"", b"garbage", detector.snapshot()[:500]):
        with pytest.raises(ArtifactError, match="not a snapshot"):
            detector.restore(broken)
    assert detector.report() == before


def test_the_detector_needs_numpy_and_pydantic_only() -> None:
    heavy = "{'scipy', 'sklearn', 'torch', 'onnxruntime', 'pandas', 'evidently', 'PIL'}"
    code = f"import sys, steelyard.drift.detector; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
