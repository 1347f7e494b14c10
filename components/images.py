"""The container images of the components, by the release's names."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Where a release's images lie."""

    prefix: str = "steelyard"
    tag: str = "0.1.0"

    @property
    def base(self) -> str:
        """Every step but training; without torch."""
        return f"{self.prefix}/base-python:{self.tag}"

    @property
    def train(self) -> str:
        """Training, with torch."""
        return f"{self.prefix}/train-python:{self.tag}"


RELEASE = Images()
BASE, TRAIN = RELEASE.base, RELEASE.train
