"""What happened, kept in MLflow: each training with its curves and bundle, each choice, each registered model.

The compute code knows nothing of this: trainings are watched through a callback, results are recorded from their
artifacts.
"""

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.artifact import new_folder
from steelyard.bundle import Epoch, ModelBundle
from steelyard.errors import ArtifactError, CandidateFailed, InputError
from steelyard.params import Candidate
from steelyard.selection.selection import Selection
from steelyard.smoke_test import SMOKE_FILE, SmokeTest
from steelyard.tracking.measurements import log_measurements
from steelyard.tracking.memory import Memory

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from steelyard.training.live import Live

log = logging.getLogger(__name__)

EXPERIMENT = "steelyard"
SQLITE = "sqlite:///"
STORAGE_URI, DEPLOYMENT = "storage_uri", "deployment"  # tags of a version
LONGEST_TAG = 500


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
class RegisteredModel:
    """A version in the registry that a cluster can serve."""

    client: str
    version: int
    storage_uri: str
    run_id: str


class TrainingRun:
    """One training as it goes on."""

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self._client, self._run_id = client, run_id

    def observe(self, epoch: Epoch) -> None:
        """Record one epoch's figures as points of the training curves."""
        self._log(epoch.model_dump(exclude={"epoch"}, exclude_none=True), epoch.epoch)

    def live(self, point: "Live") -> None:
        """Record figures from inside an epoch as points of curves over the steps."""
        self._log({f"live/{name}": value for name, value in point.figures().items()}, point.step)

    def keep(self, bundle: ModelBundle) -> None:
        """Record the bundle, from which the training will be remembered."""
        self._client.log_artifacts(self._run_id, str(bundle.folder), "bundle")

    def attach(self, folder: Path) -> None:
        """Record a folder beside the bundle, under its own name."""
        self._client.log_artifacts(self._run_id, str(folder), folder.name)

    def _log(self, figures: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        points = [Metric(name, value, now_ms, step) for name, value in figures.items()]
        self._client.log_batch(self._run_id, metrics=points)


class Tracking:
    """A tracking server, or the sqlite file that stands for one on a laptop."""

    def __init__(self, uri: str) -> None:
        """Connect.

        Args:
            uri: http://... of a server, or sqlite:///FILE, beside which artifacts are kept in `mlartifacts`.
        """
        from mlflow import MlflowClient

        self.uri = uri
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._local = uri.startswith(SQLITE)
        self._experiment = _experiment(self._client, uri)

    def recall(self, run_key: str, candidate: str, folder: Path) -> ModelBundle | None:
        """Fetch a bundle that was trained before into `folder`, under the name it has now; None if there is none."""
        run_id = self._training_run(run_key)
        if run_id is None:
            return None
        with tempfile.TemporaryDirectory() as temporary:
            try:
                remembered = self._download_bundle(run_id, Path(temporary))
            except ArtifactError as error:
                log.warning("%s: the remembered training is damaged, training anew: %s", candidate, error)
                return None
            with new_folder(folder) as partial:
                copy = remembered.copy_to(partial)
                index = copy.index.model_copy(update={"candidate": candidate, "remembered": True})
                index.write(partial / "bundle.json")
        return ModelBundle(folder)

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
    def training(self, run_key: str, candidate: Candidate) -> Iterator[TrainingRun]:
        """Record a training from its first epoch to its bundle or its failure."""
        with self._run(candidate.name, {"stage": "training", "run_key": run_key}) as run_id:
            self._log_params(run_id, candidate.training.model_dump() | {"model": candidate.model_spec()})
            try:
                yield TrainingRun(self._client, run_id)
            except CandidateFailed as error:
                self._client.set_tag(run_id, "failure", str(error)[:LONGEST_TAG])
                raise

    def memory(self, cache: Path | None = None) -> Memory:
        """Return the memory of all that was measured.

        Args:
            cache: keeps what was fetched from a server; artifacts of a sqlite file's are used where they lie.
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
        from mlflow.exceptions import MlflowException

        try:
            self._client.download_artifacts(run_id, "bundle", str(folder))
        except MlflowException as error:
            if not self._local:  # a server that does not answer is no reason to train again
                raise
            raise ArtifactError(f"the files of run {run_id} are gone") from error
        bundle = ModelBundle(folder / "bundle")
        bundle.verify()
        return bundle

    def _training_run(self, run_key: str) -> str | None:
        found = self._client.search_runs(
            [self._experiment],
            f"tags.run_key = '{run_key}' and tags.stage = 'training' and attributes.status = 'FINISHED'",
            max_results=1,
        )
        return str(found[0].info.run_id) if found else None

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
