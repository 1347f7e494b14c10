"""Memory: every model that was ever measured, to be chosen for another client without training again.

What was measured lies with the run of the training: `scorecard/` with all that does not depend on hardware, and for
each hardware class `timed/CLASS/`. Models compete if they do the same task, tell the same classes apart and answered
for the same images. None of them has learnt from these: its own Dataset kept every copy of an image in one split.
"""

import hashlib
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from steelyard.artifact import new_folder
from steelyard.errors import ArtifactError, InputError
from steelyard.evaluation.scorecard import Scorecard
from steelyard.metrics import is_known, metric
from steelyard.tracking.measurements import log_measurements
from steelyard.tracking.training_run import DAMAGED

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

FIELD, DATASET_URI, TEST_READ = "field", "dataset_uri", "test_read"  # tags of a training's run
MOST_RUNS = 1000


class Field(NamedTuple):
    """Models that may be compared: a digest of what they agree in, and how many they are."""

    digest: str
    models: int
    dataset_uri: str  # where the newest's data lie
    hardware_classes: tuple[str, ...]  # on which some were timed
    newest: datetime  # when its training began


class Memory:
    """The Scorecards in a tracking server."""

    def __init__(self, client: "MlflowClient", experiment: str, cache: Path | None = None) -> None:
        """Open the memory.

        Args:
            client: connected to the tracking server.
            experiment: whose runs are looked at.
            cache: gets the Scorecards that are fetched, which are read from there; None where artifacts are local
                files, or nothing is fetched.
        """
        self._client, self._experiment, self._cache = client, experiment, cache

    def keep(self, scorecard: Scorecard) -> None:
        """Record what was measured of a training; what is known already is left as it is.

        A failure is not recorded: a training that ended well may have the same run key.
        """
        if scorecard.index.failure:
            return
        run = self._run_of(scorecard.index.run_key)
        if run is None:  # it was trained elsewhere, or nobody recorded its end
            return
        index = scorecard.index
        if FIELD not in run.data.tags:
            self._log(run, _untimed(scorecard), "scorecard")
            log_measurements(self._client, run.info.run_id, "validation", index.validation)
            self._client.set_tag(run.info.run_id, FIELD, field_of(scorecard))
        if "://" in index.dataset_uri or DATASET_URI not in run.data.tags:  # a folder is known to one machine only
            self._client.set_tag(run.info.run_id, DATASET_URI, index.dataset_uri)
        place = _place(index.hardware.hardware_class) if index.hardware else ""
        if index.hardware and _tag(place) not in run.data.tags:
            self._log(run, replace(scorecard, answers={}, mistakes=None, folder=None), place)
            log_measurements(self._client, run.info.run_id, "model", index.model)
            self._client.set_tag(run.info.run_id, _tag(place), index.hardware.hardware_class)

    def recall(self, field: str, hardware_class: str | None, besides: Sequence[Scorecard] = ()) -> list[Scorecard]:
        """Return the Scorecards of a field, with the times of a hardware class where they are known.

        Args:
            field: its digest.
            hardware_class: None for no times.
            besides: what is at hand: unless it failed it is not returned again, and no name of theirs is used twice.
        """
        at_hand = {card.index.run_key for card in besides if not card.index.failure}
        cards = []
        for run in self._runs(f"tags.{FIELD} = '{field}'"):
            run_key = run.data.tags["run_key"]
            if run_key in at_hand:  # or trained twice: the newest counts
                continue
            at_hand.add(run_key)
            try:
                cards.append(self._scorecard(run, hardware_class))
            except ArtifactError as error:
                log.warning("a remembered model is left out: %s", error)
        return _named_apart(cards, {card.candidate for card in besides})

    def times(self, scorecard: Scorecard, hardware_class: str) -> Scorecard:
        """Return a Scorecard with its times on a hardware class, if it was timed there before and they are not lost."""
        run = self._run_of(scorecard.index.run_key)
        try:
            return self._timed(scorecard, run, hardware_class) if run else scorecard
        except ArtifactError as error:
            log.warning("%s is timed anew: %s", scorecard.candidate, error)
            return scorecard

    def fields(self) -> list[Field]:
        """Return what there is to choose among, the newest first."""
        found: dict[str, list[Run]] = {}
        for run in self._runs(f"tags.{FIELD} LIKE '%'"):
            found.setdefault(run.data.tags[FIELD], []).append(run)
        return [_field(digest, runs) for digest, runs in found.items()]

    def note_test_reading(self, run_key: str, client: str) -> None:
        """Note that a model's test split was looked at; the more often, the less it proves."""
        run = self._run_of(run_key)
        if run is None:
            return
        before = sum(name.startswith(TEST_READ) for name in run.data.tags)
        self._client.set_tag(run.info.run_id, f"{TEST_READ}.{datetime.now(UTC):%Y%m%dT%H%M%S.%f}", client)
        if before:
            log.info("earlier readings of the test split of %s: %d", run.info.run_name, before)

    def _scorecard(self, run: "Run", hardware_class: str | None) -> Scorecard:
        card = Scorecard.read(_whole(self._fetched(run, "scorecard")))
        card = replace(card, index=card.index.model_copy(update={"remembered": True}))
        return self._timed(card, run, hardware_class) if hardware_class else card

    def _timed(self, card: Scorecard, run: "Run", hardware_class: str) -> Scorecard:
        place = _place(hardware_class)
        if _tag(place) not in run.data.tags:
            return card
        timed = Scorecard.read(self._fetched(run, place))
        update = {"model": {**card.index.model, **timed.index.model}, "hardware": timed.index.hardware}
        return replace(card, index=card.index.model_copy(update=update), times=timed.times)

    def _fetched(self, run: "Run", place: str) -> Path:
        """Return a folder of a run: in place where artifacts are local files, else a copy in the cache."""
        if self._cache is None:
            from mlflow.utils.file_utils import local_file_uri_to_path

            lies = Path(local_file_uri_to_path(run.info.artifact_uri)) / place
            return lies if lies.exists() else self._downloaded(run, place)
        kept = self._cache / run.info.run_id / place
        if not kept.exists():
            with new_folder(kept) as partial, tempfile.TemporaryDirectory() as temporary:
                shutil.copytree(self._downloaded(run, place, temporary), partial, dirs_exist_ok=True)
        return Path(kept)

    def _downloaded(self, run: "Run", place: str, folder: str | None = None) -> Path:
        from mlflow.exceptions import MlflowException

        try:
            return Path(str(self._client.download_artifacts(run.info.run_id, place, folder)))
        except (MlflowException, OSError) as error:
            if self._client.list_artifacts(run.info.run_id, place):  # an error of its own where the server is away
                raise
            raise ArtifactError(f"{run.info.run_name}: its Scorecard can't be fetched: {error}") from error

    def _log(self, run: "Run", scorecard: Scorecard, place: str) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            scorecard.write(Path(temporary) / "scorecard")
            self._client.log_artifacts(run.info.run_id, str(Path(temporary) / "scorecard"), place)

    def _run_of(self, run_key: str) -> "Run | None":
        return next(iter(self._runs(f"tags.run_key = '{run_key}'")), None)

    def _runs(self, condition: str) -> "list[Run]":
        """Return finished trainings whose bundle is whole, as far as anybody knows, the newest first."""
        conditions = f"tags.stage = 'training' and attributes.status = 'FINISHED' and {condition}"
        runs: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs([self._experiment], conditions, max_results=MOST_RUNS, page_token=token)
            runs += page
            token = page.token
            if not token:
                return [run for run in runs if DAMAGED not in run.data.tags]


def the_field(fields: Sequence[Field], wanted: str = "") -> Field:
    """Return the field to choose in.

    Args:
        fields: what there is.
        wanted: the beginning of its digest; may be "" where there is one field only.

    Raises:
        InputError: there is none, or more than one.
    """
    fitting = [field for field in fields if field.digest.startswith(wanted)]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise InputError("no model is remembered" + (f" that was measured on {wanted!r}" if wanted else ""))
    listed = ", ".join(
        f"{one.digest[:12]} ({one.models} models, the last of {one.newest:%Y-%m-%d %H:%M})" for one in fitting
    )
    raise InputError(f"models are remembered that were measured on different data; --field says on which: {listed}")


def _field(digest: str, runs: "Sequence[Run]") -> Field:
    tags = [run.data.tags for run in runs]
    timed = {value for one in tags for name, value in one.items() if name.startswith("timed.")}
    addresses = [uri for one in tags if (uri := one.get(DATASET_URI))]
    dataset_uri = next((uri for uri in addresses if "://" in uri), next(iter(addresses), ""))
    newest = datetime.fromtimestamp(max(run.info.start_time for run in runs) / 1000)
    return Field(digest, len(runs), dataset_uri, tuple(sorted(timed)), newest)


def field_of(scorecard: Scorecard) -> str:
    """Return a digest of what two Scorecards must agree in to be compared: task, classes and images."""
    index = scorecard.index
    agreed = "\n".join([index.task, index.dataset.evaluated_on, *index.classes])
    return hashlib.sha256(agreed.encode()).hexdigest()


def _named_apart(cards: Sequence[Scorecard], taken: Collection[str]) -> list[Scorecard]:
    """Return Scorecards of which no two have one name: the beginning of the run key tells equal ones apart."""
    names = [*taken, *(card.candidate for card in cards)]
    return [_with_key(card) if names.count(card.candidate) > 1 else card for card in cards]


def _with_key(card: Scorecard) -> Scorecard:
    name = f"{card.candidate[:50]}-{card.index.run_key[:8]}"
    return replace(card, index=card.index.model_copy(update={"candidate": name}))


def _whole(folder: Path) -> Path:
    """Refuse what was cut short now, as answers are read only once others were chosen among."""
    for file in folder.glob("*.npz"):
        if not zipfile.is_zipfile(file):
            raise ArtifactError(f"{file}: is damaged")
    return folder


def _untimed(scorecard: Scorecard) -> Scorecard:
    model = {name: m for name, m in scorecard.index.model.items() if not (is_known(name) and metric(name).timed)}
    return replace(scorecard, index=scorecard.index.model_copy(update={"model": model, "hardware": None}), times=None)


def _place(hardware_class: str) -> str:
    return f"timed/{hashlib.sha256(hardware_class.encode()).hexdigest()[:16]}"


def _tag(place: str) -> str:
    """Return the tag of a run that says on which hardware the model was timed."""
    return place.replace("/", ".")
