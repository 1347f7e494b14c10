"""DriftDetector: takes every answer, judges, and says so once per episode."""

import io
import json
from dataclasses import asdict, dataclass, replace
from typing import Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from steelyard.drift.charts import Charts
from steelyard.drift.profile import Detector, Level, ReferenceProfile
from steelyard.drift.samples import Samples
from steelyard.drift.windows import TESTS, Divergences, divergences, measure, slots, tally
from steelyard.errors import ArtifactError

State = Literal["OK", "WARN", "DRIFT"]

BLOCK = 32  # samples judged at once; those after a crossing are judged again, so not too many
MIX_CHANGED = 0.05  # p-value of the label test below which bbsds only warns: other classes have other probabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one detector shows; a window test shows its latest window, and nothing before the first."""

    detector: str
    window: int | None
    statistic: float
    threshold: float
    p_value: float | None  # window tests only
    level: Level


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftAlarm:
    """A crossed threshold that began an episode."""

    reading: Reading
    samples_seen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """The numbers of now. Divergences and accuracy are of the latest full window, None before the first."""

    samples_seen: int
    state: State
    alarms: int
    readings: tuple[Reading, ...]
    window: int
    divergences: Divergences | None
    estimated_accuracy: float | None


class DriftDetector:
    """Judges a stream of samples by a profile. Not thread-safe.

    An alarm of level DRIFT or WARN begins an episode, which ends after `clear_after` samples without a crossing of
    that level; within it there are no further alarms of that level or a lower one.
    """

    def __init__(self, profile: ReferenceProfile) -> None:
        index = profile.index
        self.profile = profile
        self._chart_detectors = [detector for detector in index.detectors if detector.window is None]
        self._chart_thresholds = np.array([detector.threshold for detector in self._chart_detectors])
        self._window = index.clear_after // 3
        self._pieces = sorted({*index.windows, self._window})
        self._charts = Charts(1, len(index.features), index.held_out_rows)
        self._chart_statistics = np.zeros(len(self._chart_detectors))
        self._z_WF = np.zeros((self._window, len(index.features)))
        self._probabilities_WC = np.zeros((self._window, len(index.classes)), np.float32)
        self._window_readings: dict[int, list[Reading]] = {}
        self._divergences: Divergences | None = None
        self._estimated_accuracy: float | None = None
        self._seen = self._alarms = 0
        self._latest_crossing: dict[Level, int] = {}

    @property
    def state(self) -> State:
        """DRIFT, WARN or OK: the gravest episode going on."""
        levels: tuple[Level, ...] = ("DRIFT", "WARN")
        return next((level for level in levels if self._in_episode(level)), "OK")

    def update(self, samples: Samples) -> list[DriftAlarm]:
        """Take any number of samples, in order of arrival; the same samples in other portions give the same alarms."""
        z_NF = self.profile.features(samples)
        alarms: list[DriftAlarm] = []
        start = 0
        while start < len(z_NF):
            filled = self._seen % self._window
            boundary = min(size - filled % size for size in self._pieces)
            end = min(start + boundary, len(z_NF))
            self._z_WF[filled : filled + end - start] = z_NF[start:end]
            self._probabilities_WC[filled : filled + end - start] = samples.probabilities_NC[start:end]
            alarms += self._judge_charts(z_NF[start:end])
            if end - start == boundary:
                alarms += self._judge_windows(filled + boundary)
            start = end
        return alarms

    def report(self) -> DriftReport:
        """Return the numbers of now."""
        charts = map(_reading, self._chart_detectors, self._chart_statistics)
        windows = (reading for size in sorted(self._window_readings) for reading in self._window_readings[size])
        return DriftReport(
            samples_seen=self._seen,
            state=self.state,
            alarms=self._alarms,
            readings=(*charts, *windows),
            window=self._window,
            divergences=self._divergences,
            estimated_accuracy=self._estimated_accuracy,
        )

    def snapshot(self) -> bytes:
        """Return the state, to go on from after a restart."""
        state = {
            "profile": self.profile.digest,
            "seen": self._seen,
            "alarms": self._alarms,
            "latest_crossing": self._latest_crossing,
            "window_readings": [[asdict(r) for r in readings] for readings in self._window_readings.values()],
            "divergences": asdict(self._divergences) if self._divergences else None,
            "estimated_accuracy": self._estimated_accuracy,
        }
        stream = io.BytesIO()
        np.savez(stream, state=np.array(json.dumps(state)), **self._arrays())  # type: ignore[arg-type]
        return stream.getvalue()

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot.

        Raises:
            ArtifactError: it is no snapshot, or one taken under another profile; the state is as before.
        """
        try:
            with np.load(io.BytesIO(snapshot), allow_pickle=False) as arrays:
                state = json.loads(str(arrays["state"]))
                restored = {name: arrays[name] for name in self._arrays()}
        except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
            raise ArtifactError(f"not a snapshot of a drift detector: {error}") from None
        if state["profile"] != self.profile.digest:
            raise ArtifactError("the snapshot was taken under another reference profile")
        for name, array in self._arrays().items():
            array[:] = restored[name]
        self._seen, self._alarms = state["seen"], state["alarms"]
        self._latest_crossing = state["latest_crossing"]
        readings = [[Reading(**reading) for reading in group] for group in state["window_readings"]]
        self._window_readings = {group[0].window: group for group in readings if group[0].window}
        self._divergences = Divergences(**state["divergences"]) if state["divergences"] else None
        self._estimated_accuracy = state["estimated_accuracy"]

    def _arrays(self) -> dict[str, NDArray[np.floating]]:
        """The arrays that change; each is only ever written in place."""
        return {
            "charts": self._charts.state_SX,
            "chart_statistics": self._chart_statistics,
            "z": self._z_WF,
            "probabilities": self._probabilities_WC,
        }

    def _judge_charts(self, z_NF: NDArray[np.float64]) -> list[DriftAlarm]:
        alarms: list[DriftAlarm] = []
        start = 0
        while start < len(z_NF):
            block_NJ = self._charts.run(z_NF[start : start + BLOCK, None])[:, 0]
            crossing_N = np.any(block_NJ > self._chart_thresholds, axis=1)
            taken = int(crossing_N.argmax()) + 1 if crossing_N.any() else len(block_NJ)
            self._chart_statistics[:] = block_NJ[taken - 1]
            self._seen += taken
            start += taken
            if crossing_N[taken - 1]:
                self._charts.reset()  # and judge the samples after the crossing anew
                worst = int((self._chart_statistics / self._chart_thresholds).argmax())
                alarms += self._cross(_reading(self._chart_detectors[worst], self._chart_statistics[worst]))
        return alarms

    def _judge_windows(self, filled: int) -> list[DriftAlarm]:
        """Judge every window that ends now."""
        alarms: list[DriftAlarm] = []
        for size in self.profile.index.windows:
            if filled % size == 0:
                self._window_readings[size] = self._test_window(slice(filled - size, filled), size)
                crossing = [r for r in self._window_readings[size] if r.statistic > r.threshold]
                for reading in sorted(crossing, key=lambda r: (r.level, r.p_value)):
                    alarms += self._cross(reading)
        if filled == self._window:
            self._describe_window()
        return alarms

    def _test_window(self, rows: slice, size: int) -> list[Reading]:
        probabilities_NC = np.nan_to_num(self._probabilities_WC[rows])
        slots_NC = slots(probabilities_NC, self.profile.arrays.edges_CG)
        window = tally(self._z_WF[rows], slots_NC, probabilities_NC.argmax(axis=1), self.profile.grid)
        statistics = dict(zip(TESTS, measure(window, self.profile.tally), strict=True))
        readings = {
            detector.name: _reading(detector, statistics[detector.name], self.profile)
            for detector in self.profile.index.detectors
            if detector.window == size
        }
        if (readings["label"].p_value or 0) < MIX_CHANGED:
            readings["bbsds"] = replace(readings["bbsds"], level="WARN")
        return list(readings.values())

    def _describe_window(self) -> None:
        index = self.profile.index
        predicted_C = np.bincount(self._probabilities_WC.argmax(axis=1), minlength=len(index.classes))
        self._divergences = divergences(predicted_C, self.profile.arrays.predicted_C)
        sure_W = self._probabilities_WC.max(axis=1) >= index.confidence_threshold
        self._estimated_accuracy = float(sure_W.mean())

    def _cross(self, reading: Reading) -> list[DriftAlarm]:
        """Begin an episode, or go on with the one there is."""
        silent = self._in_episode("DRIFT") or self._in_episode(reading.level)
        self._latest_crossing[reading.level] = self._seen
        if silent:
            return []
        self._alarms += 1
        return [DriftAlarm(reading=reading, samples_seen=self._seen)]

    def _in_episode(self, level: Level) -> bool:
        crossing = self._latest_crossing.get(level)
        return crossing is not None and self._seen - crossing < self.profile.index.clear_after


def _reading(detector: Detector, statistic: float, profile: ReferenceProfile | None = None) -> Reading:
    p_value = None
    if profile is not None and detector.window is not None:
        p_value = profile.null(detector.window, detector.name).p_value(statistic)
    return Reading(
        detector=detector.name,
        window=detector.window,
        statistic=float(statistic),
        threshold=detector.threshold,
        p_value=p_value,
        level=detector.level,
    )
