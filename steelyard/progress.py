"""Progress of long work: a line every few seconds, in a terminal and in a pod alike."""

import logging
import time

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts what was done and says so at most every ten seconds, with the rate and the time left."""

    def __init__(self, doing: str, total: int, unit: str) -> None:
        self._doing, self._total, self._unit = doing, total, unit
        self._done = 0
        self._started = self._told = time.monotonic()

    def advance(self, by: int = 1) -> None:
        """Count `by` more."""
        self._done += by
        now = time.monotonic()
        if now - self._told >= SECONDS_BETWEEN_LINES:
            self._told = now
            rate = self._done / (now - self._started)
            left = (self._total - self._done) / rate
            log.info(
                "%s: %d of %d %s, %.0f/s, %.0f s left", self._doing, self._done, self._total, self._unit, rate, left
            )
