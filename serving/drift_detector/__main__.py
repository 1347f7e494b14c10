"""python -m serving.drift_detector: a supervisor that never exits by itself, and its worker.

A container that ends makes its Pod not ready, so a crash-looping detector would cost the predictor its requests. Here a
worker that crashes or grows beyond its memory is started again; the predictor notices nothing.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from serving.drift_detector import options

BACKOFF_S = (1.0, 30.0)  # doubles from the first to the second
HEALTHY_S = 60.0  # a worker that lived as long starts over with the first
LAST_CHANCE_S = 1.5  # to end after SIGTERM, before it is killed

log = logging.getLogger("serving.drift_detector")


class Supervisor:
    """Keeps one worker alive, until it is told to stop."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._worker: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()

    def run(self) -> None:
        """Start the worker, again and again."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        backoff_s = BACKOFF_S[0]
        # One thread is enough for matrices this small; each further one would reserve memory.
        env = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        while not self._stopping.is_set():
            start = time.monotonic()
            self._worker = subprocess.Popen(self._command, env=env)
            if self._stopping.is_set():  # told while the worker was starting
                self._worker.terminate()
            code = self._worker.wait()
            if self._stopping.is_set():
                return
            if time.monotonic() - start > HEALTHY_S:
                backoff_s = BACKOFF_S[0]
            log.error("the worker ended with %d; starting it again in %g s", code, backoff_s)
            self._stopping.wait(backoff_s)
            backoff_s = min(2 * backoff_s, BACKOFF_S[1])

    def _stop(self, *_: object) -> None:
        self._stopping.set()
        if self._worker is not None:
            self._worker.terminate()
            last_chance = threading.Timer(LAST_CHANCE_S, self._worker.kill)
            last_chance.daemon = True
            last_chance.start()


def main() -> None:
    """Refuse wrong flags at once; then supervise."""
    options.parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    Supervisor([sys.executable, "-m", "serving.drift_detector.worker", *sys.argv[1:]]).run()


if __name__ == "__main__":
    main()
