"""Profile: which operations a network spends its time on, in training and in inference."""

from steelyard.artifact import CandidateName, Index, Record


class Operation(Record):
    """All calls of one operation; what it calls in turn is not counted."""

    name: str
    calls: int
    cpu_ms: float
    gpu_ms: float
    cpu_mib: float  # taken less given back
    gpu_mib: float


class Phase(Record):
    """Some steps, and the operations that took longest in them."""

    cpu_ms: float
    gpu_ms: float
    operations: tuple[Operation, ...]


class ProfileIndex(Index):
    """profile.json."""

    run_key: str
    candidate: CandidateName
    device: str
    precision: str
    batch_size: int
    steps: int
    training: Phase
    inference: Phase
