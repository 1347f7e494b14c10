"""What every task does at its edge: read the environment, set up logging, and end with one clear line."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.errors import InputError, SteelyardError
from steelyard.store import ObjectStore, is_remote

if TYPE_CHECKING:
    from steelyard.tracking.tracking import Tracking

LINE_PREFIX = "steelyard: "
WRONG_INPUT, UNEXPECTED = "wrong input: ", "unexpected "  # begin a failed task's last words


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The platform around a task."""

    tracking_uri: str
    store: ObjectStore | None
    checkpoints_folder: str

    @property
    def tracking(self) -> "Tracking":
        """A connection to the tracking server."""
        from steelyard.tracking.tracking import Tracking

        return Tracking(self.tracking_uri)

    def checkpoints(self, artifact: str) -> str:
        """Return where trainings leave checkpoints: a folder, or the bucket of an artifact's URI; "" for nowhere."""
        return self.checkpoints_folder or self.beside(artifact, "checkpoints")

    def beside(self, artifact: str, folder: str) -> str:
        """Return the address of a folder in the bucket of an artifact's URI; "" where that is local."""
        bucket = s3_address(artifact).removeprefix("s3://").partition("/")[0]
        return f"s3://{bucket}/{folder}" if bucket and self.store else ""

    def tell(self, line: str) -> None:
        """Write a line of progress into the task's log."""
        logging.getLogger("steelyard").info("%s", line)

    def conclude(self, sentence: str) -> None:
        """Leave what came of the task where STEELYARD_RESULT_FILE says, for whoever follows the run."""
        _write("STEELYARD_RESULT_FILE", sentence)


@contextmanager
def task() -> Iterator[Runtime]:
    """Run a task's body; a deliberate error becomes one line in the log, any other keeps its traceback.

    Reads MLFLOW_TRACKING_URI, AWS_ENDPOINT_URL with its two keys, and STEELYARD_CHECKPOINTS, a folder. Where
    STEELYARD_ERROR_FILE is set, the line is also written there, for whoever started the task: in a pod it is the
    termination message.
    """
    quieten_libraries()
    log_plainly()
    try:
        yield Runtime(
            tracking_uri=os.environ["MLFLOW_TRACKING_URI"],
            store=ObjectStore.from_environment(os.environ),
            checkpoints_folder=os.environ.get("STEELYARD_CHECKPOINTS", ""),
        )
    except SteelyardError as error:
        logging.getLogger("steelyard").error("error: %s", error)
        _write("STEELYARD_ERROR_FILE", f"{WRONG_INPUT}{error}" if isinstance(error, InputError) else str(error))
        raise SystemExit(2 if isinstance(error, InputError) else 1) from error
    except Exception as error:
        _write("STEELYARD_ERROR_FILE", f"{UNEXPECTED}{type(error).__name__}: {' '.join(str(error).split())[:500]}")
        raise


def _write(variable: str, text: str) -> None:
    if file := os.environ.get(variable):
        Path(file).write_text(text, encoding="utf-8")


def s3_address(uri: str) -> str:
    """Return an artifact's address in the object store, which KFP calls minio:// where it is its own; "" if local."""
    address = uri.replace("minio://", "s3://", 1)
    return address if is_remote(address) else ""


def log_plainly() -> None:
    """Give steelyard's own lines a prefix by which they are told from those of KFP's executor."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{LINE_PREFIX}%(message)s"))
    logger = logging.getLogger("steelyard")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


def quieten_libraries() -> None:
    """Turn off every library's telemetry, MLflow's progress bars and addresses, and torch's profiler."""
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"):
        os.environ.setdefault(name, "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("KINETO_LOG_LEVEL", "10")  # above all of its levels
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
