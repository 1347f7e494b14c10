"""Claims: of equal trainings that begin at once, one is done, and the others wait for it.

MLflow can't compare and set, but it makes a registered model of a given name only once. So a claim is a registered
model, `training.RUN KEY.GENERATION`, made by whoever trains and removed at the end, with a tag that changes every few
seconds. Who waits measures by the own clock for how long the tag has not changed; after SILENT_AFTER_S the next
generation is made, again by one alone.
"""

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING

from steelyard.errors import TrackingAway
from steelyard.tracking.server import PROBE_TIMEOUT_S, Answer, TrackingServer

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

log = logging.getLogger(__name__)

SILENT_AFTER_S = 60.0
SECONDS_BETWEEN_BEATS = 5.0
SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_BETWEEN_LINES = 60.0

CANDIDATE, OWNER, CHECKPOINTS, BEAT = "candidate", "owner", "checkpoints", "beat"  # tags of a claim


class Claims:
    """All claims of one run key, as one who wants to train it sees them."""

    def __init__(
        self, client: "MlflowClient", server: TrackingServer, run_key: str, candidate: str, checkpoints: str
    ) -> None:
        """Name what is to be trained.

        Args:
            client: connected to the server.
            server: where claims lie.
            run_key: of the training.
            candidate: its name here.
            checkpoints: where it would leave them, for whoever takes over.
        """
        self._client, self._server, self._candidate = client, server, candidate
        self._prefix = f"training.{run_key}."
        owner = f"process {os.getpid()} on {socket.gethostname()}"
        self._tags = {CANDIDATE: candidate, OWNER: owner, CHECKPOINTS: checkpoints, BEAT: "0"}

    def claim(self) -> "Claim | None":
        """Claim the training, or wait until its owner has ended; then return None, as there may be a result.

        Raises:
            TrackingAway: the server does not answer.
        """
        newest = max(self.ask(self._all), key=self._generation, default=None)
        if newest is None:
            return self._make(1, "")
        if self._has_ended(newest):
            return None
        claim = self._make(self._generation(newest) + 1, newest.tags[CHECKPOINTS])
        if claim:
            log.warning("%s: %s has fallen silent, taking over", self._candidate, _who(newest))
        return claim

    def release(self, name: str) -> None:
        """Remove a claim and those before it, the oldest first, so that the newest stands as long as any."""
        generation = int(name.removeprefix(self._prefix))
        for model in sorted(self.ask(self._all), key=self._generation):
            if self._generation(model) <= generation:
                self._remove(model.name)

    def beat(self, name: str, number: int) -> None:
        """Show that the owner of a claim lives; where the server is away nobody can look either."""
        from mlflow.exceptions import MlflowException

        with contextlib.suppress(TrackingAway, MlflowException):
            self._server.ask(lambda: self._client.set_registered_model_tag(name, BEAT, str(number)))

    def _make(self, generation: int, inherited: str) -> "Claim | None":
        """Return the claim of a generation; None if another was faster."""
        from mlflow.exceptions import MlflowException

        name, tags = f"{self._prefix}{generation}", self._tags | ({CHECKPOINTS: inherited} if inherited else {})
        about = f"Not a model: {tags[CANDIDATE]} is trained by {tags[OWNER]}, and this is removed when that ends."
        try:
            self.ask(lambda: self._client.create_registered_model(name, tags, about))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return None
        return Claim(self, name, inherited)

    def _has_ended(self, claim: "RegisteredModel") -> bool:
        """Wait until a claim is gone (True), or its owner has been silent for too long (False)."""
        heard, told, beat = time.monotonic(), float("-inf"), claim.tags[BEAT]
        while True:
            asked = time.monotonic()
            found = self.ask(lambda: self._beat_of(claim.name))
            now = time.monotonic()
            if found is None:
                return True
            if found != beat or now - asked > SECONDS_BETWEEN_BEATS:  # after an outage its owner has time anew
                heard, beat = now, found
            if now - heard >= SILENT_AFTER_S:
                return False
            if now - told >= SECONDS_BETWEEN_LINES:
                told = now
                log.info("%s: waiting for %s, which trains the same", self._candidate, _who(claim))
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _all(self) -> "list[RegisteredModel]":
        found = self._client.search_registered_models(f"name LIKE '{self._prefix}%'")
        return [model for model in found if BEAT in model.tags]  # else it is being removed right now

    def _generation(self, model: "RegisteredModel") -> int:
        return int(model.name.removeprefix(self._prefix))

    def _beat_of(self, name: str) -> str | None:
        from mlflow.exceptions import MlflowException

        try:
            tags: dict[str, str] = self._client.get_registered_model(name).tags
            return tags.get(BEAT)  # a model that is being removed loses its tags first
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def _remove(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.ask(lambda: self._client.delete_registered_model(name))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def ask(self, question: Callable[[], Answer]) -> Answer:
        """Return what the server answers; one that is away is waited for as long as a silent owner.

        Raises:
            TrackingAway: it does not answer.
        """
        return self._server.ask(question, patience_s=SILENT_AFTER_S)


class Claim:
    """The right to train, kept alive by a thread inside a `with` block and given up at its end."""

    def __init__(self, claims: Claims, name: str, checkpoints: str) -> None:
        self.checkpoints = checkpoints  # of an owner that fell silent; "" if there was none
        self._claims, self._name = claims, name
        self._released = threading.Event()
        self._beating = threading.Thread(target=self._beat, name=name, daemon=True)

    def __enter__(self) -> "Claim":
        self._beating.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._beating.join(PROBE_TIMEOUT_S)
        try:
            self._claims.release(self._name)
        except TrackingAway as error:
            log.warning("%s stays until somebody takes it over: %s", self._name, error)

    def _beat(self) -> None:
        for number in count(1):
            if self._released.wait(SECONDS_BETWEEN_BEATS):
                return
            self._claims.beat(self._name, number)


def _who(claim: "RegisteredModel") -> str:
    return f"{claim.tags[CANDIDATE]} ({claim.tags[OWNER]})"
