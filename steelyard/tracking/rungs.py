"""What candidates were worth at each rung, beside the runs of their trainings."""

from typing import TYPE_CHECKING

from steelyard.artifact import Record

if TYPE_CHECKING:
    from steelyard.tracking.training_run import TrainingRun


class RungRecord(Record):
    """What a candidate was worth at a rung, and whether it went on from there; null until that is decided."""

    utility: float
    estimates: dict[str, float]
    goes_on: bool | None = None


class Rungs:
    """The records of candidates that may be compared, written by one training."""

    def __init__(self, run: "TrainingRun", comparable: str) -> None:
        """Name the records.

        Args:
            run: of the training.
            comparable: a digest of all in which the others must agree with it.
        """
        self._run, self._comparable = run, comparable

    def at(self, rung: int) -> dict[str, RungRecord]:
        """Return the records at a rung by run key, the newest of each; the own one among them.

        Raises:
            TrackingAway: the server does not answer.
        """
        tag = self._tag(rung)
        found: dict[str, RungRecord] = {}
        for tags in self._run.all_tagged(tag):
            found.setdefault(tags["run_key"], RungRecord.model_validate_json(tags[tag]))
        return found

    def write(self, rung: int, record: RungRecord) -> None:
        """Record this training at a rung.

        Raises:
            TrackingAway: the server does not answer.
        """
        self._run.tag(self._tag(rung), record.model_dump_json())

    def _tag(self, rung: int) -> str:
        return f"rung.{self._comparable[:32]}.{rung}"
