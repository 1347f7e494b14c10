"""Watch: a DriftDetector, once there is a profile for it, with its alarms and its snapshot."""

import json
import logging
import os
import threading
import time
from collections import Counter, deque
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steelyard.drift.detector import DriftAlarm, DriftDetector, DriftReport
from steelyard.drift.profile import INDEX_FILE, ReferenceProfile
from steelyard.drift.samples import Samples
from steelyard.drift.wire import WireError
from steelyard.errors import SteelyardError

ALARMS_KEPT = 100

log = logging.getLogger("serving.drift_detector")


class Watch:
    """What the worker knows. Samples come from one thread, questions from others."""

    def __init__(self, model_dir: Path, snapshot: Path | None) -> None:
        self.model_dir, self.reason = model_dir, ""
        self.samples = 0  # since this process began
        self.alarms: deque[dict[str, Any]] = deque(maxlen=ALARMS_KEPT)
        self.alarm_counts: Counter[str] = Counter()
        self.detector: DriftDetector | None = None
        self._snapshot, self._lock = snapshot, threading.Lock()
        self._complaint = ""
        self.look_for_profile()

    def look_for_profile(self) -> None:
        """Begin to judge as soon as there is something to judge by; it may come after the first samples."""
        if self.detector is not None:
            return
        try:
            profile = ReferenceProfile.read(self.model_dir)
        except SteelyardError as error:
            if str(error) != self.reason:
                log.warning("no drift is detected: %s", error)
                self.reason = str(error)
            return
        detector = DriftDetector(profile)
        self._restore(detector)
        log.info("judging by %s, profile %s", self.model_dir / INDEX_FILE, profile.digest[:12])
        self.detector = detector

    def take(self, samples: Samples) -> None:
        """Judge samples, in order of arrival.

        Raises:
            WireError: they are not of the model that the profile describes.
        """
        self.samples += len(samples.probabilities_NC)
        if self.detector is None:
            return
        index = self.detector.profile.index
        expected = (len(index.classes), index.embedding_size, samples.statistics_NS.shape[1])
        found = tuple(column.shape[1] for column in samples)
        if found != expected:
            raise WireError(f"samples are of widths {found}, the profile is for {expected}")
        with self._lock:
            for alarm in self.detector.update(samples):
                self._tell(alarm)

    def report(self) -> tuple[DriftReport | None, dict[str, Any]]:
        """Return the detector's report, if there is a detector, and the page that people and programs read."""
        with self._lock:
            alarms, report = list(self.alarms), self.detector.report() if self.detector else None
        if report is None:
            empty: dict[str, Any] = {"alarms": [], "statistics": []}
            return None, {"state": "NO_PROFILE", "reason": self.reason, "samples": self.samples} | empty
        content = asdict(report)
        page = {
            "state": report.state,
            "samples": report.samples_seen,
            "alarms": alarms,
            "alarms_total": report.alarms,
            "statistics": content["readings"],
            "window": report.window,
            "divergences": content["divergences"],
            "estimated_accuracy": report.estimated_accuracy,
            "profile": self.detector.profile.digest if self.detector else "",
        }
        return report, page

    def write_snapshot(self) -> None:
        """Save the state: a line of alarms, then the detector's own bytes."""
        if self._snapshot is None or self.detector is None:
            return
        with self._lock:
            line = json.dumps({"alarms": list(self.alarms), "counts": self.alarm_counts})
            content = line.encode() + b"\n" + self.detector.snapshot()
        partial = self._snapshot.with_name(f".{self._snapshot.name}.partial")
        try:
            partial.write_bytes(content)
            os.replace(partial, self._snapshot)
        except OSError as error:
            self.complain(f"no snapshot can be written: {error}")

    def complain(self, text: str) -> None:
        """Log a mishap that will come back every second only once."""
        if text != self._complaint:
            log.warning("%s", text)
            self._complaint = text

    def _restore(self, detector: DriftDetector) -> None:
        if self._snapshot is None or not self._snapshot.exists():
            return
        try:
            line, content = self._snapshot.read_bytes().split(b"\n", 1)
            known = json.loads(line)
            detector.restore(content)
            self.alarms.extend(known["alarms"])
            self.alarm_counts.update(known["counts"])
        except Exception as error:  # whatever is wrong with it, a fresh start is better than none
            log.warning("%s is not used: %s", self._snapshot, error)
        else:
            log.info("going on from %s, after %d samples", self._snapshot, detector.report().samples_seen)

    def _tell(self, alarm: DriftAlarm) -> None:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        content = asdict(alarm.reading) | {"after_samples": alarm.samples_seen, "at": at}
        self.alarms.append(content)
        self.alarm_counts[alarm.reading.level] += 1
        print(json.dumps({"event": "drift_alarm"} | content), flush=True)
