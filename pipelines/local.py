"""The pipeline on this machine: the graph of the cluster under kfp.local, each task a process of its own."""

import contextlib
import io
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from components.runtime import LINE_PREFIX, UNEXPECTED, WRONG_INPUT
from pipelines.project import PARAMS_FILE, Project
from steelyard.bundle import ModelBundle, read_failure
from steelyard.data.dataset import Dataset
from steelyard.errors import InputError, InvalidFile, SteelyardError
from steelyard.selection.selection import Selection

AT_ONCE = 2  # tasks of a loop that kfp.local runs side by side


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Where a local run left its results."""

    selection_folder: Path
    dataset: Dataset
    model: ModelBundle | None
    seconds: dict[str, float]

    @property
    def selection(self) -> Selection:
        """The choice."""
        return Selection.read(self.selection_folder / "selection.json")


def run_locally(project: Project, output: Path, tracking_uri: str, tell: Callable[[str], None]) -> Outcome:
    """Run train_and_select on this machine, without deployment.

    Args:
        project: what to run.
        output: where results go: `selection/`, `trainings/` with a page for each, `model/` if somebody won, `run.log`,
            and the tasks' own folders under `pipeline/`, which each run clears first.
        tracking_uri: of MLflow.
        tell: gets each line of progress.

    Raises:
        InputError: a task found the input wrong.
        SteelyardError: a task failed; the text names the log.
    """
    root, error_file = output / "pipeline", output / "pipeline" / "error.txt"
    shutil.rmtree(root, ignore_errors=True)
    (root / "tmp").mkdir(parents=True)
    settings = {
        "MLFLOW_TRACKING_URI": tracking_uri,
        "STEELYARD_ERROR_FILE": str(error_file),
        "STEELYARD_CHECKPOINTS": str(output / "checkpoints"),
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // AT_ONCE)),
        "TMPDIR": str(root / "tmp"),  # the local runner leaves its generated programs behind
    }
    with (output / "run.log").open("w", encoding="utf-8") as file, _environment(settings):
        log = _Log(file, tell)
        try:
            _run(project, root, log)
        except RuntimeError as error:
            raise _reason(error_file, project, output / "run.log") from error
    finished = next(root.glob("train-and-select-*"))
    return _collect(finished, output, log.seconds)


def _run(project: Project, root: Path, log: "_Log") -> None:
    from kfp import local

    from pipelines.train_and_select import build
    from steelyard.tracking.tracking import Tracking

    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        Tracking(os.environ["MLFLOW_TRACKING_URI"]).connect()  # makes the database before two tasks could do so at once
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root))
        build()(
            params=project.params_text,
            contract=project.contract_text,
            data=project.source,
            deploy=False,
        )


def _collect(finished: Path, output: Path, seconds: dict[str, float]) -> Outcome:
    """Copy what outlives the next run out of the tasks' folders."""
    packed = finished / "register-model" / "model"
    for name, source in (("selection", finished / "select-model" / "selection"), ("model", packed)):
        shutil.rmtree(output / name, ignore_errors=True)
        if source.exists():
            shutil.copytree(source, output / name)
    _collect_pages(finished, output / "trainings")
    return Outcome(
        selection_folder=output / "selection",
        dataset=Dataset(finished / "prepare-data" / "dataset"),
        model=ModelBundle(output / "model") if packed.exists() else None,
        seconds=seconds,
    )


def _collect_pages(finished: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for task in finished.glob("*/train-candidate"):
        failure = read_failure(task / "bundle")
        name = failure.candidate if failure else ModelBundle(task / "bundle").index.candidate
        shutil.copyfile(task / "training", folder / f"{name}.html")


def _reason(error_file: Path, project: Project, log: Path) -> SteelyardError:
    """Return the failed task's own sentence, or where to look for one."""
    try:
        said = error_file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return SteelyardError(f"a task failed unexpectedly; its traceback is in {log}")
    if said.startswith(UNEXPECTED):
        return SteelyardError(f"a task failed: {said}; its traceback is in {log}")
    if not said.startswith(WRONG_INPUT):
        return SteelyardError(said)
    problem = said.removeprefix(WRONG_INPUT)
    about_the_images = problem.startswith("data.")
    return InvalidFile(project.folder / PARAMS_FILE, problem) if about_the_images else InputError(problem)


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclass(slots=True)
class _Span:
    started: float
    ended: float


@dataclass
class _Log(io.TextIOBase):
    """Keeps all that the local runner prints, passes on the tasks' own lines, and times the stages."""

    file: io.TextIOWrapper
    pass_on: Callable[[str], None]
    _spans: dict[str, _Span] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pending: dict[int, str] = field(default_factory=dict)

    _TASK = re.compile(r"(Executing task|Task) \S*?'([a-z-]+)'")

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds from the start of the first to the end of the last task of each kind."""
        return {name: round(span.ended - span.started, 1) for name, span in self._spans.items()}

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self._lock:
            thread = threading.get_ident()  # parallel tasks print through threads of their own
            *lines, self._pending[thread] = (self._pending.get(thread, "") + text).split("\n")
            for line in lines:
                self._line(line)
        return len(text)

    def _line(self, line: str) -> None:
        self.file.write(line + "\n")
        self.file.flush()
        _, prefix, said = line.partition(LINE_PREFIX)
        if prefix:
            self.pass_on(said)
        elif match := self._TASK.search(line):
            now = time.monotonic()
            span = self._spans.setdefault(match[2].replace("-", "_"), _Span(now, now))
            span.ended = now
