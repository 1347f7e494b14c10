"""Progress of long work: a bar in a terminal, a line every ten seconds elsewhere."""

import logging
import sys
import time

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts what was done and says so, with the rate and the time left."""

    def __init__(self, doing: str, total: int, unit: str) -> None:
        self._doing, self._total, self._unit = doing, total, unit
        self._done = 0
        self._started = self._told = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(desc=doing, total=total, unit=f" {unit}", file=sys.stderr, leave=False)

    def advance(self, by: int = 1) -> None:
        """Count `by` more."""
        self._done += by
        if self._bar is not None:
            self._bar.update(by)
            return
        now = time.monotonic()
        if now - self._told >= SECONDS_BETWEEN_LINES:
            self._told = now
            rate = self._done / (now - self._started)
            left = (self._total - self._done) / rate
            log.info(
                "%s: %d of %d %s, %.0f/s, %.0f s left", self._doing, self._done, self._total, self._unit, rate, left
            )

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
