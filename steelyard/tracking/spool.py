"""Spool: records on their way to the tracking server. Who records never waits, whether it answers or not."""

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from steelyard.errors import TrackingAway
from steelyard.tracking.server import SECONDS_BETWEEN_TRIES, TrackingServer

log = logging.getLogger(__name__)


class Spool:
    """Sends records in their order from a thread of its own, each again until it has arrived."""

    def __init__(self, server: TrackingServer, name: str) -> None:
        """Begin.

        Args:
            server: where records go.
            name: of what they are about.
        """
        self._server, self._name = server, name
        self._records: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._refused: Exception | None = None
        self._away_since: float | None = None
        self._given_up = threading.Event()
        self._sender = threading.Thread(target=self._send, name=f"spool of {name}", daemon=True)
        self._sender.start()

    def put(self, record: Callable[[], object]) -> None:
        """Hand over what records something; as it may be called again, it must record the same once more."""
        self._records.put(record)

    def settle(self, patience_s: float) -> bool:
        """Wait until what was put so far has arrived, or for `patience_s`; return whether it has."""
        arrived = threading.Event()
        self._records.put(arrived.set)
        return arrived.wait(patience_s)

    def close(self, patience_s: float) -> bool:
        """Wait until all has arrived.

        Args:
            patience_s: how long the server may be away before this gives up.

        Returns:
            Whether all has arrived; False if the server stayed away.

        Raises:
            Exception: the first with which the server refused a record.
        """
        self._records.put(None)
        closing = time.monotonic()
        while self._sender.is_alive():
            self._sender.join(0.05)
            away_since = self._away_since
            if away_since is not None and time.monotonic() - max(closing, away_since) >= patience_s:
                self._given_up.set()
                return False
        if self._refused is not None:
            raise self._refused
        return True

    def _send(self) -> None:
        while (record := self._records.get()) is not None:
            try:
                self._deliver(record)
            except Exception as error:  # raised where the spool is closed; what comes after is sent all the same
                self._refused = self._refused or error

    def _deliver(self, record: Callable[[], object]) -> None:
        while not self._given_up.is_set():
            try:
                self._server.ask(record)
            except TrackingAway as error:
                if self._away_since is None:
                    self._away_since = time.monotonic()
                    log.warning("%s: goes on without the tracking server, which does not answer: %s", self._name, error)
                self._given_up.wait(SECONDS_BETWEEN_TRIES)
            else:
                if self._away_since is not None:
                    log.warning("%s: the tracking server answers again", self._name)
                    self._away_since = None
                return
