"""Measurement: one metric of one candidate, with the bound that hard limits are judged by."""

from steelyard.artifact import Record
from steelyard.metrics import Metric, metric

LEVEL = 0.95  # of every bound, one-sided


class Measurement(Record):
    """A value and its bound."""

    value: float
    bound: float  # one-sided 95 %, on the unfavourable side
    unit: str

    def check(self, where: str, read: Metric) -> None:
        """Refuse what the metric can't be.

        Raises:
            ValueError: names `where` and what is wrong.
        """
        if self.unit != read.unit:
            raise ValueError(f"{where}: the unit must be {read.unit!r}, not {self.unit!r}")
        lowest, highest = sorted((self.value, self.bound))
        if lowest < 0 or (read.unit == "fraction" and highest > 1):
            raise ValueError(f"{where}: {lowest:g} to {highest:g} is out of range")
        if self.bound != (lowest if read.higher_is_better else highest):
            raise ValueError(f"{where}: the bound lies on the favourable side of the value")


def exactly(name: str, value: float) -> Measurement:
    """Return a measurement about which nothing is uncertain."""
    return Measurement(value=value, bound=value, unit=metric(name).unit)
