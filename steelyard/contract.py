"""evaluation_metrics.yaml -> Contract: what matters to one client."""

import math
import re
from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from steelyard.errors import InvalidFile
from steelyard.metrics import class_of, known_names, metric, rank_of
from steelyard.yaml_file import Strict, nearest, parse

_LIMIT = re.compile(r"(>=|<=)\s*([0-9.eE+-]+)")
_DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,33}[a-z0-9])?")
CLOSE = 1e-9  # of a number: so little can't tell worst from ideal
READABLE = "from 1e-12 to 1e12"
TRIAL = "-trial"  # ends the name under which a client's next model is tried in the cluster


class Preference(Strict):
    """How one metric counts for this client.

    `worst` is a value that is worth nothing to the client, `ideal` one beyond which more is worth nothing more; a
    limit in `must` holds whatever the weight is.
    """

    weight: float = Field(ge=0)
    worst: float = Field(ge=0)
    ideal: float = Field(ge=0)
    must: str | None = None

    @property
    def limit(self) -> float | None:
        """The hard limit, in the metric's unit."""
        return float(_LIMIT.fullmatch(self.must)[2]) if self.must else None  # type: ignore[index]

    def met_by(self, value: float) -> bool:
        """Whether the hard limit, if there is one, allows a value."""
        if self.must is None or self.limit is None:
            return True
        return value >= self.limit if self.must.startswith(">=") else value <= self.limit

    @field_validator("must", mode="before")
    @classmethod
    def _says_which_side(cls, must: object) -> object:
        if isinstance(must, int | float):
            raise ValueError(f"must say on which side the limit is: '>= {must}' or '<= {must}'")
        return must

    @field_validator("must")
    @classmethod
    def _is_a_limit(cls, must: str | None) -> str | None:
        if must is not None:
            match = _LIMIT.fullmatch(must.strip())
            if not match:
                raise ValueError("must be a limit such as '>= 0.92' or '<= 25'")
            try:
                float(match[2])
            except ValueError:
                raise ValueError(f"{match[2]!r} is no number") from None
        return must.strip() if must else must


def _dns_label(name: str) -> str:
    if not _DNS_LABEL.fullmatch(name):
        raise ValueError("must be a DNS label of at most 35 characters: a-z, 0-9 and '-', starting with a letter")
    if name.endswith(TRIAL):
        raise ValueError(f"must not end with {TRIAL!r}, which names a model on trial")
    return name


class Contract(Strict):
    """What one client needs: hard limits, preferences, and the differences in utility that count for nothing.

    A candidate at most `epsilon` below the best is as good as the best, so that its cost decides; whoever serves now is
    replaced only by what is better by more than `switching_margin`. Times are those of `hardware_class`, whose
    `price_per_hour` turns them into cost.
    """

    client: Annotated[str, AfterValidator(_dns_label)]
    metrics: dict[str, Preference]
    epsilon: float = Field(default=0.01, ge=0, lt=1)
    switching_margin: float = Field(default=0.01, ge=0, lt=1)
    hardware_class: str | None = None
    price_per_hour: float | None = Field(default=None, gt=0)

    @classmethod
    def from_yaml(cls, text: str, file: str = "contract") -> Self:
        """Parse a contract.

        Raises:
            InvalidFile: names the key and what is wrong with it.
        """
        return parse(text, cls, file)

    def check_classes(self, classes: Sequence[str], file: str = "contract") -> None:
        """Refuse a metric of a class that the data do not have, or of more ranks than there are classes to rank.

        Raises:
            InvalidFile: names the metric.
        """
        for name in self.metrics:
            label = class_of(name)
            if label is not None and label not in classes:
                problem = f"there is no class {label!r}{nearest(label, list(classes))}"
                raise InvalidFile(file, problem, f"metrics.{name}")
            if (rank_of(name) or 0) >= len(classes):
                raise InvalidFile(file, f"is always 1, as there are {len(classes)} classes", f"metrics.{name}")

    def check_task(self, task: str, file: str = "contract") -> None:
        """Refuse a metric that images of another task are measured by.

        Raises:
            InvalidFile: names the metric.
        """
        for name in self.metrics:
            if metric(name).task not in (task, None):
                raise InvalidFile(
                    file, f"is a metric of {metric(name).task}, and the task is {task}", f"metrics.{name}"
                )

    @model_validator(mode="after")
    def _is_usable(self) -> Self:
        for name, preference in self.metrics.items():
            _check(name, preference)
        total = sum(preference.weight for preference in self.metrics.values())
        if not 0 < total < math.inf:
            raise ValueError("metrics: at least one weight must be above 0, and their sum finite")
        if self.price_per_hour is not None and not _readable(self.price_per_hour):
            raise ValueError(f"price_per_hour: must be {READABLE}")
        if "images_per_dollar" in self.metrics and self.price_per_hour is None:
            raise ValueError(
                "metrics.images_per_dollar: needs price_per_hour, in dollars, of the hardware that answers"
            )
        return self


def _readable(number: float) -> bool:
    return 1e-12 <= number <= 1e12


def _check(name: str, preference: Preference) -> None:
    try:
        read = metric(name)
    except KeyError:
        raise ValueError(
            f"metrics.{name}: unknown metric{nearest(name, known_names())}; known are: {', '.join(known_names())}"
        ) from None
    if math.isclose(preference.worst, preference.ideal, rel_tol=CLOSE, abs_tol=0):
        raise ValueError(f"metrics.{name}: worst and ideal are equal, or nearly so")
    if (preference.ideal > preference.worst) != read.higher_is_better:
        better = "higher" if read.higher_is_better else "lower"
        raise ValueError(f"metrics.{name}: {better} is better, so ideal must be {better} than worst")
    if read.scale == "log" and not (preference.worst > 0 and preference.ideal > 0):
        raise ValueError(f"metrics.{name}: worst and ideal must be above 0")
    values = (preference.worst, preference.ideal, preference.limit or 0.0)
    if not all(math.isfinite(number) and number >= 0 for number in values):
        raise ValueError(f"metrics.{name}.must: must be a finite number of at least 0")
    if any(number and not _readable(number) for number in values):
        raise ValueError(f"metrics.{name}: worst, ideal and must are {READABLE}, or 0")
    if read.unit == "fraction" and max(values) > 1:
        raise ValueError(f"metrics.{name}: is a fraction, so worst, ideal and must are at most 1 (95 % is 0.95)")
    if preference.must and preference.must.startswith(">=") != read.higher_is_better:
        raise ValueError(f"metrics.{name}.must: use {'>=' if read.higher_is_better else '<='} for this metric")
