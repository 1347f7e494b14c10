"""Every deliberate error.

SteelyardError
├── InputError                 the user's input is wrong; exit code 2
│   ├── InvalidFile            a YAML file: names the file, the key and what is wrong
│   ├── SourceError            a data source that is missing, empty or too damaged
│   ├── ArtifactError          a folder that is no artifact, or one of an unknown version
│   └── MetricNotMeasured      a contract names a metric that a scorecard lacks
├── CandidateFailed            one candidate's own fault; its Scorecard tells, the run goes on
│   ├── TrainingDiverged
│   ├── DoesNotFit             a network that cannot be built for these images
│   ├── OutOfDeviceMemory
│   ├── UnusableWeights        pretrained weights that are missing, changed or another network's
│   ├── ExportDiffers
│   └── Stopped                no fault: others did better in their first epochs
├── FootprintUnknown           a process that was to be measured has died; that one figure is left out
├── UnreadableImage            bytes that are no image; its text is one short reason
├── StoreError                 the object store refused or does not answer, or the disk is full
├── TrackingAway               the tracking server does not answer; a retry may help
└── MissingExtra               an optional part is not installed
"""

from collections.abc import Collection
from pathlib import Path
from typing import Self


class SteelyardError(Exception):
    """Root of every error that steelyard raises on purpose; its text is one line for people."""


class InputError(SteelyardError):
    """The user's input is wrong; nothing was written."""


class InvalidFile(InputError):
    """A file of the user's that can't be accepted."""

    def __init__(self, file: str | Path, problem: str, key: str = "") -> None:
        self.file, self.key, self.problem = str(file), key, problem
        super().__init__(f"{file}: {key}: {problem}" if key else f"{file}: {problem}")


class SourceError(InputError):
    """A data source that can't become a Dataset."""


class ArtifactError(InputError):
    """A folder that is not the artifact it should be."""


class MetricNotMeasured(InputError):
    """A contract names a metric that a scorecard lacks."""

    def __init__(self, metric: str, candidate: str, measured: Collection[str], why: str = "") -> None:
        self.metric, self.candidate = metric, candidate
        has = f"it has: {', '.join(sorted(measured))}"
        super().__init__(f"{candidate!r}: {metric}: {why}" if why else f"{candidate!r} has no {metric!r}; {has}")


class CandidateFailed(SteelyardError):
    """A candidate's own fault: recorded in its Scorecard, while the run goes on."""

    run_key = ""  # of its training, where it came so far


class TrainingDiverged(CandidateFailed):
    """The training loss became NaN or infinite."""


class DoesNotFit(CandidateFailed):
    """A network that can't be built for these images."""


class OutOfDeviceMemory(CandidateFailed):
    """The training did not fit into the memory of its device."""


class UnusableWeights(CandidateFailed):
    """Pretrained weights that are missing, are not those that were stated, or do not fit the network."""


class ExportDiffers(CandidateFailed):
    """The exported model does not answer like the trained one."""


class Stopped(CandidateFailed):
    """A candidate that halving ended, as others were worth more at the same rung; what it learnt is kept.

    Its text begins with the rung, as a text is all that one process of a training tells another of an error.
    """

    @classmethod
    def at(cls, rung: int, reason: str) -> Self:
        """Return the error of a candidate that ended at a rung."""
        return cls(f"rung {rung}: {reason}")

    @property
    def rung(self) -> int:
        """The rung, from 1."""
        return int(str(self).removeprefix("rung ").partition(":")[0])

    @property
    def reason(self) -> str:
        """What is said of it besides."""
        return str(self).partition(": ")[2]


class FootprintUnknown(SteelyardError):
    """The process whose memory was to be measured has died; the text says of what."""


class UnreadableImage(SteelyardError):
    """Bytes that can't be decoded as an image; the text is one short reason."""


class StoreError(SteelyardError):
    """The object store refused, or does not answer, where a retry may help; or the disk is full."""


class TrackingAway(SteelyardError):
    """The tracking server does not answer; a retry may help."""


class MissingExtra(SteelyardError):
    """An optional part of steelyard is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; install it with: pip install 'steelyard[{extra}]'")


def first_line(error: Exception) -> str:
    """Return the first line of what a library says; torch adds pages of advice."""
    return str(error).partition("\n")[0]
