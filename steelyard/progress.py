"""Progress of long work: a bar in a terminal, a line every ten seconds elsewhere."""

import logging
import sys
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_FACTS = 1.0  # beside the bar


class Progress:
    """Counts what was done and says so, with the rate and the time left."""

    def __init__(self, doing: str, total: int, unit: str, done: int = 0, facts: Callable[[], str] = lambda: "") -> None:
        """Begin.

        Args:
            doing: what.
            total: how much there is to do.
            unit: of it.
            done: how much of it was done before.
            facts: asked for more to say, no more often than it is said.
        """
        self._doing, self._total, self._unit, self._facts = doing, total, unit, facts
        self._before = self._done = done
        self._started = self._told = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(desc=doing, total=total, initial=done, unit=f" {unit}", file=sys.stderr, leave=False)

    def advance(self, by: int = 1) -> None:
        """Count `by` more."""
        self._done += by
        now = time.monotonic()
        if self._bar is not None:
            if now - self._told >= SECONDS_BETWEEN_FACTS:
                self._told = now
                self._bar.set_postfix_str(self._facts(), refresh=False)
            self._bar.update(by)
        elif now - self._told >= SECONDS_BETWEEN_LINES:
            self._told = now
            log.info("%s", self._line(now))

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def _line(self, now: float) -> str:
        rate = (self._done - self._before) / (now - self._started)
        left_s = (self._total - self._done) / rate
        line = f"{self._doing}: {self._done} of {self._total} {self._unit}, {rate:.0f}/s, {left_s:.0f} s left"
        return ", ".join(part for part in (line, self._facts()) if part)
