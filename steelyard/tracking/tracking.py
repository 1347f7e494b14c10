"""What happened, kept in MLflow: each training with its curves and bundle, each choice, each registered model.

The compute code knows nothing of this: trainings are watched through a callback, results are recorded from their
artifacts.
"""

import functools
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.artifact import new_folder
from steelyard.bundle import ModelBundle
from steelyard.errors import ArtifactError, CandidateFailed, InputError, OutOfDeviceMemory, Stopped, TrackingAway
from steelyard.params import Candidate
from steelyard.selection.selection import Selection
from steelyard.smoke_test import SMOKE_FILE, SmokeTest
from steelyard.tracking.claims import Claim, Claims
from steelyard.tracking.measurements import log_measurements, log_values
from steelyard.tracking.memory import Memory
from steelyard.tracking.server import TrackingServer
from steelyard.tracking.training_run import LONGEST_TAG, TrainingRun, Trainings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)

EXPERIMENT = "steelyard"
SQLITE = "sqlite:///"
STORAGE_URI, DEPLOYMENT = "storage_uri", "deployment"  # tags of a version


def sqlite_uri(file: Path) -> str:
    """Return the tracking URI of a sqlite file.

    Raises:
        InputError: the path has a character that means something else in the URIs of SQLAlchemy and MLflow.
    """
    path = str(file.absolute())
    if refused := next((c for c in path if c in "%?#"), None):
        raise InputError(f"{path}: MLflow can't keep its database in a path with {refused!r}; choose another folder")
    return f"{SQLITE}{path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What a training finds when nobody else is at it."""

    bundle: ModelBundle | None  # there is nothing to train
    checkpoints: str  # left by an owner that fell silent; "" if there was none


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredModel:
    """A version in the registry that a cluster can serve."""

    client: str
    version: int
    storage_uri: str
    run_id: str


class Tracking:
    """A tracking server, or the sqlite file that stands for one on a laptop."""

    def __init__(self, uri: str) -> None:
        """Name the server; the first use connects.

        Args:
            uri: http://... of a server, or sqlite:///FILE, beside which artifacts are kept in `mlartifacts`.
        """
        from mlflow import MlflowClient

        self.uri = uri
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._server, self._local = TrackingServer(uri), uri.startswith(SQLITE)
        self._trainings = Trainings(self._client, self._server, lambda: self._experiment)

    @functools.cached_property
    def _experiment(self) -> str:
        return _experiment(self._client, self._server.uri)

    def connect(self) -> None:
        """Make what is missing on the server; it is made by the first use anyway."""
        _ = self._experiment

    def recall(self, run_key: str, candidate: str, folder: Path) -> ModelBundle | None:
        """Fetch a bundle that was trained before into `folder`, under the name it has now; None if there is none."""
        for run_id in self._server.ask(lambda: self._trainings.whole(run_key)):
            with tempfile.TemporaryDirectory() as temporary:
                try:
                    remembered = self._download_bundle(run_id, Path(temporary))
                except ArtifactError as error:
                    log.warning("%s: the remembered training is damaged, training anew: %s", candidate, error)
                    self._server.ask(functools.partial(self._trainings.set_aside, run_id))
                    continue
                with new_folder(folder) as partial:
                    copy = remembered.copy_to(partial)
                    index = copy.index.model_copy(update={"candidate": candidate, "remembered": True})
                    index.write(partial / "bundle.json")
            return ModelBundle(folder)
        return None

    def fetch(self, run_key: str, candidate: str, folder: Path) -> ModelBundle:
        """Fetch a remembered bundle that must be there.

        Raises:
            ArtifactError: it is gone, or damaged.
        """
        bundle = self.recall(run_key, candidate, folder)
        if bundle is None:
            raise ArtifactError(f"{candidate}: the model that was remembered is gone")
        return bundle

    @contextmanager
    def turn(self, run_key: str, candidate: str, folder: Path, checkpoints: str) -> Iterator[Turn]:
        """Wait until nobody else trains this, and let others wait until the block ends.

        Args:
            run_key: of the training.
            candidate: its name.
            folder: gets the bundle of whoever was first.
            checkpoints: where it would leave its own, for whoever may have to take over.

        Raises:
            CandidateFailed: the training that was waited for failed, by the candidate's own fault.
        """
        with ExitStack() as held:
            bundle, inherited = None, ""
            try:
                bundle, claim = self._result_or_claim(run_key, candidate, folder, checkpoints)
                if claim:
                    held.enter_context(claim)
                    self.end_lost(run_key)
                    inherited, bundle = claim.checkpoints, self.recall(run_key, candidate, folder)
            except TrackingAway as error:
                log.warning("%s: training without asking whether others do or did: %s", candidate, error)
            yield Turn(bundle=bundle, checkpoints=inherited)

    def training(self, run_key: str, candidate: Candidate) -> AbstractContextManager[TrainingRun]:
        """Record a training from its first epoch to its bundle or its failure, as soon as the server answers."""
        return self._trainings.begun(run_key, candidate)

    def end_lost(self, run_key: str, error: Exception | None = None) -> None:
        """End the runs of trainings whose process is gone; a candidate's own fault is told to those who wait for it.

        Raises:
            TrackingAway: the server does not answer.
        """
        told = isinstance(error, CandidateFailed) and not isinstance(error, Stopped | OutOfDeviceMemory)
        reason = str(error) if told else ""
        self._server.ask(lambda: self._trainings.end_lost(run_key, reason))

    def _result_or_claim(
        self, run_key: str, candidate: str, folder: Path, checkpoints: str
    ) -> tuple[ModelBundle | None, Claim | None]:
        claims = Claims(self._client, self._server, run_key, candidate, checkpoints)
        known = claims.ask(lambda: self._trainings.failures(run_key))
        while True:
            if bundle := self.recall(run_key, candidate, folder):
                return bundle, None
            if claim := claims.claim():
                return None, claim
            failures = claims.ask(lambda: self._trainings.failures(run_key))
            for run in failures.keys() - known.keys():
                raise CandidateFailed(failures[run])

    def memory(self, cache: Path | None = None) -> Memory:
        """Return the memory of all that was measured.

        Args:
            cache: gets the Scorecards that are fetched from a server, which are read from there; None if nothing is
                fetched. Those of a sqlite file are used where they lie.
        """
        return Memory(self._client, self._experiment, None if self._local else cache)

    def champion(self, client: str) -> str | None:
        """Return the run key of the model that serves a client now, if one does."""
        from mlflow.exceptions import MlflowException

        try:
            version = self._client.get_model_version_by_alias(client, "champion")
        except MlflowException as error:
            if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                raise
            return None
        return str(version.tags["run_key"])

    def record_selection(self, selection: Selection, folder: Path) -> None:
        """Record a choice with its report, and that the winner's test split was read.

        Args:
            selection: the choice.
            folder: where `write_outcome` wrote it.
        """
        if selection.test and selection.winner_run_key:
            self.memory().note_test_reading(selection.winner_run_key, selection.client)
        tags = {"stage": "selection", "client": selection.client, "winner": selection.winner or "none"}
        with self._run(f"select {selection.client}", tags) as run_id:
            self._log_params(run_id, {"contract": selection.contract})
            log_measurements(self._client, run_id, "test", selection.test)
            for group, values in selection.figures.items():
                log_values(self._client, run_id, group, values)
            if selection.utility is not None:
                self._client.log_metric(run_id, "utility", selection.utility)
            for name in ("selection.json", "report.html", "summary.md"):
                self._client.log_artifact(run_id, str(folder / name))

    def register(self, client: str, bundle: ModelBundle, storage_uri: str = "") -> int:
        """Register a packed bundle as a model named after the client, and point `challenger` at it.

        The registered model is a pyfunc that takes encoded images and carries the code that answers. Registering what
        serves alike for the same client again makes no second version.

        Args:
            client: names the model.
            bundle: what `pack` wrote.
            storage_uri: s3:// address from which a cluster can serve it, if it has one.

        Returns:
            The version.
        """
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(client)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        same = self._serving_alike(client, bundle)
        version = int(same.version) if same else self._new_version(client, bundle)
        if storage_uri:
            self._client.set_model_version_tag(client, str(version), STORAGE_URI, storage_uri)
        self._client.set_registered_model_alias(client, "challenger", str(version))
        return version

    def stored_at(self, client: str, bundle: ModelBundle) -> str:
        """Return the address of what was registered before and serves alike; "" if there is none."""
        same = self._serving_alike(client, bundle)
        return str(same.tags.get(STORAGE_URI, "")) if same else ""

    def registered(self, client: str, version: int | None = None) -> RegisteredModel:
        """Look a version up.

        Args:
            client: whose model.
            version: which; the challenger if None.

        Raises:
            InputError: there is none, or no cluster could fetch it.
        """
        from mlflow.exceptions import MlflowException

        try:
            found = (
                self._client.get_model_version(client, str(version))
                if version is not None
                else self._client.get_model_version_by_alias(client, "challenger")
            )
        except MlflowException as error:
            if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                raise
            raise InputError(
                f"no model {client!r} with {f'version {version}' if version else 'a challenger'}"
            ) from None
        uri = found.tags.get(STORAGE_URI, "")
        if not uri:
            raise InputError(f"model {client!r}, version {found.version}, has no s3:// address to be served from")
        return RegisteredModel(client=client, version=int(found.version), storage_uri=uri, run_id=str(found.run_id))

    def fetch_smoke_test(self, model: RegisteredModel) -> SmokeTest:
        """Download the smoke test that was packed with a registered model."""
        with tempfile.TemporaryDirectory() as temporary:
            (bundle,) = self._client.list_artifacts(model.run_id, "model/artifacts")
            file = self._client.download_artifacts(model.run_id, f"{bundle.path}/{SMOKE_FILE}", temporary)
            return SmokeTest.read(Path(file).parent)

    @contextmanager
    def deployment(self, model: RegisteredModel) -> Iterator[None]:
        """Record how putting a version into service ends; if well, it is the `champion`."""
        try:
            yield
        except Exception as error:
            self._tag(model.client, model.version, f"failed: {error}")
            raise
        if before := self._client.get_registered_model(model.client).aliases.get("champion"):
            self._tag(model.client, before, "replaced")
        self._tag(model.client, model.version, "serves")
        self._client.set_registered_model_alias(model.client, "champion", str(model.version))

    def _tag(self, client: str, version: int | str, deployment: str) -> None:
        self._client.set_model_version_tag(client, str(version), DEPLOYMENT, deployment[:LONGEST_TAG])

    def _origin(self, bundle: ModelBundle) -> dict[str, str]:
        """Return the tags by which a version is known to serve alike."""
        return {
            "run_key": bundle.index.run_key,
            "served": bundle.served_digest,
            "experiment": self._experiment,
        }

    def _serving_alike(self, client: str, bundle: ModelBundle) -> "ModelVersion | None":
        origin = self._origin(bundle)
        known = self._client.search_model_versions(f"name = '{client}'")
        return next((version for version in known if origin.items() <= version.tags.items()), None)

    def _new_version(self, client: str, bundle: ModelBundle) -> int:
        from steelyard.tracking.packaging import save_pyfunc

        candidate = bundle.index.candidate
        tags = {"stage": "registration", "client": client}
        with self._run(f"register {candidate}", tags) as run_id, tempfile.TemporaryDirectory() as temporary:
            save_pyfunc(bundle, Path(temporary) / "model")
            self._client.log_artifacts(run_id, str(Path(temporary) / "model"), "model")
            source = f"{self._client.get_run(run_id).info.artifact_uri}/model"
            tags = {**self._origin(bundle), "candidate": candidate}
            return int(self._client.create_model_version(client, source, run_id=run_id, tags=tags).version)

    def _download_bundle(self, run_id: str, folder: Path) -> ModelBundle:
        if not self._client.list_artifacts(run_id, "bundle"):  # a server that does not answer raises an error instead
            raise ArtifactError(f"the files of run {run_id} are gone")
        self._client.download_artifacts(run_id, "bundle", str(folder))
        bundle = ModelBundle(folder / "bundle")
        bundle.verify()
        return bundle

    @contextmanager
    def _run(self, name: str, tags: Mapping[str, str]) -> Iterator[str]:
        run_id = str(self._client.create_run(self._experiment, tags=dict(tags), run_name=name).info.run_id)
        try:
            yield run_id
        except BaseException:
            self._client.set_terminated(run_id, "FAILED")
            raise
        self._client.set_terminated(run_id, "FINISHED")

    def _log_params(self, run_id: str, values: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        params = [Param(name, str(value)) for name, value in values.items()]
        self._client.log_batch(run_id, params=params)


def _experiment(client: "MlflowClient", uri: str) -> str:
    from mlflow.exceptions import MlflowException

    name = EXPERIMENT
    known = client.get_experiment_by_name(name)
    beside = Path(uri.removeprefix(SQLITE)).resolve().parent / "mlartifacts" if uri.startswith(SQLITE) else None
    if known is not None and beside is not None and Path(known.artifact_location).resolve() != beside:
        # The folder was moved or copied. MLflow keeps absolute paths and can't change them.
        name = f"{EXPERIMENT} in {beside.parent}"
        known = client.get_experiment_by_name(name)
        if known is None:
            log.warning("%s was moved here: what it remembers is out of reach, training anew", beside.parent)
    if known is None:
        try:
            return str(client.create_experiment(name, artifact_location=str(beside) if beside else None))
        except MlflowException as error:  # another task was faster
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            known = client.get_experiment_by_name(name)
    return str(known.experiment_id)
