"""Scorecard: what was measured of one candidate, or why nothing could be."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from steelyard.artifact import CandidateName, Index, Record, link_or_copy, new_folder
from steelyard.bundle import Epoch, Stop
from steelyard.data.dataset import DatasetRef
from steelyard.evaluation.answers import SPLITS, Answers, Split, read_answers, write_answers
from steelyard.evaluation.measurement import Measurement
from steelyard.evaluation.mistakes import Mistakes
from steelyard.evaluation.times import Times
from steelyard.metrics import is_known, metric

MISTAKES = "mistakes.npz"


class Hardware(Record):
    """What the times were measured on; times of different classes are never compared."""

    hardware_class: str
    rounds: int
    images_per_round: int


class ScorecardIndex(Index):
    """scorecard.json."""

    candidate: CandidateName
    task: str = Field(pattern="^(classification|segmentation)$")
    classes: tuple[str, ...] = ()
    run_key: str = ""
    dataset: DatasetRef
    dataset_uri: str = ""
    failure: str | None = None
    stopped: Stop | None = None
    remembered: bool = False
    validation: dict[str, Measurement] = Field(default_factory=dict)
    test: dict[str, Measurement] = Field(default_factory=dict)
    model: dict[str, Measurement] = Field(default_factory=dict)
    hardware: Hardware | None = None
    history: tuple[Epoch, ...] = ()
    micro_batch: int = 0
    best_epoch: int | None = None

    @model_validator(mode="after")
    def _measurements_make_sense(self) -> Self:
        for group in ("validation", "test", "model"):
            for name, measured in getattr(self, group).items():
                if is_known(name):
                    measured.check(f"{group}.{name}", metric(name))
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorecard:
    """The index and the answers behind it, which lie in memory or, once written, are read when they are asked for."""

    index: ScorecardIndex
    answers: Mapping[Split, Answers] = field(default_factory=dict)
    mistakes: Mistakes | None = None
    times: Times | None = None
    folder: Path | None = None

    @property
    def candidate(self) -> str:
        """The candidate's name."""
        return self.index.candidate

    @property
    def keeps_answers(self) -> bool:
        """Whether what was answered for the validation split was kept."""
        return "validation" in self.answers or bool(self.folder and (self.folder / "validation.npz").exists())

    def answered(self, split: Split) -> Answers | None:
        """Return what was answered for a split, if it was kept.

        Raises:
            ArtifactError: the file is damaged, or does not fit the index.
        """
        if split in self.answers or self.folder is None:
            return self.answers.get(split)
        return read_answers(self.folder / f"{split}.npz", self.index.task, len(self.index.classes))

    def worst_mistakes(self) -> Mistakes | None:
        """Return the images it was most sure of and wrong about, if they were kept.

        Raises:
            ArtifactError: the file is damaged.
        """
        if self.mistakes or self.folder is None or not (self.folder / MISTAKES).exists():
            return self.mistakes
        return Mistakes.read(self.folder / MISTAKES)

    def write(self, folder: Path) -> None:
        """Write `scorecard.json` and, where they are known, the answers, mistakes and times behind it."""
        with new_folder(folder) as partial:
            for split in SPLITS:
                if split in self.answers:
                    write_answers(self.answers[split], partial / f"{split}.npz")
                elif self.folder is not None and (self.folder / f"{split}.npz").exists():
                    link_or_copy(self.folder / f"{split}.npz", partial / f"{split}.npz")
            if self.mistakes:
                self.mistakes.write(partial / MISTAKES)
            elif self.folder is not None and (self.folder / MISTAKES).exists():
                link_or_copy(self.folder / MISTAKES, partial / MISTAKES)
            if self.times:
                self.times.write(partial / "times.npz")
            self.index.write(partial / "scorecard.json")

    @classmethod
    def read(cls, folder: Path) -> "Scorecard":
        """Read a scorecard; the answers and times behind it may be missing.

        Raises:
            ArtifactError: the folder holds no scorecard known here, or a damaged one.
        """
        index = ScorecardIndex.read(folder / "scorecard.json")
        times = folder / "times.npz"
        return cls(
            index=index,
            times=Times.read(times) if times.exists() else None,
            folder=folder,
        )
