"""Whether the tracking server is there: MLflow's own client tries for minutes before it says that it is not."""

import time
from collections.abc import Callable
from typing import TypeVar

from steelyard.errors import TrackingAway

Answer = TypeVar("Answer")

AWAY = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"}  # MLflow's codes of 500, 503, timeouts and refused connections
PROBE_TIMEOUT_S = 5.0
SECONDS_BETWEEN_TRIES = 2.0


class TrackingServer:
    """What is asked of a tracking server, or of the database that stands for one."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def ask(self, question: Callable[[], Answer], patience_s: float = 0) -> Answer:
        """Return what the server answers.

        Args:
            question: calls MLflow's client; asked again after an answer that was lost.
            patience_s: how long the server may be away before this gives up.

        Raises:
            TrackingAway: it does not answer.
        """
        started = time.monotonic()
        while True:
            try:
                return self._ask(question)
            except TrackingAway:
                if time.monotonic() - started >= patience_s:
                    raise
            time.sleep(SECONDS_BETWEEN_TRIES)

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        from mlflow.exceptions import MlflowException
        from requests import RequestException

        try:
            self._probe()
            return question()
        except RequestException as error:
            raise TrackingAway(f"{self.uri}: {error}") from error
        except MlflowException as error:
            if error.error_code not in AWAY:
                raise
            raise TrackingAway(f"{self.uri}: {error}") from error

    def _probe(self) -> None:
        """Ask once, with no second try, whether the server lives."""
        if not self.uri.startswith("http"):
            return
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        http_request(get_default_host_creds(self.uri), "/health", "GET", max_retries=0, timeout=PROBE_TIMEOUT_S)
