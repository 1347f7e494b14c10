"""Geometry of the trade-off between two metrics: who is on the Pareto front, and where the limits lie."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, NamedTuple

from steelyard.contract import Contract
from steelyard.evaluation.measurement import Measurement
from steelyard.metrics import metric
from steelyard.selection.selection import Selection

WIDTH, HEIGHT = 640.0, 380.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 622.0, 14.0, 330.0
LETTER, LINE = 7.8, 13.0  # the room that a letter and a line of text take
MOST_NAMED = 12  # candidates; of more, the winner and the front alone are named

Kind = Literal["wins", "front", "dominated", "out"]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One metric."""

    name: str
    low: float
    high: float
    ticks: list[tuple[float, float]]  # place and value
    limit_at: float | None
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the place of a value; what leaves the axis is drawn at its edge."""
        part = _part(value, self.low, self.high, _log(self.name))
        return round(self.start + (self.end - self.start) * min(1.0, max(0.0, part)), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A name beside its point."""

    x: float
    y: float
    anchor: Literal["start", "end", "middle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One candidate."""

    candidate: str
    kind: Kind
    x: float
    y: float
    bound: tuple[float, float]
    values: tuple[Measurement, Measurement]
    label: Label | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pareto:
    """The plot, worst candidates first, so that the winner lies on top."""

    x: Axis
    y: Axis
    points: list[Point]


class _Place(NamedTuple):
    candidate: str
    kind: Kind
    x: Measurement
    y: Measurement


def pareto(
    selection: Selection, contract: Contract, measured: Mapping[str, Mapping[str, Measurement]]
) -> Pareto | None:
    """Lay out the two metrics of most weight; None where the contract names only one, or nobody has both.

    Args:
        selection: what was decided.
        contract: on which metrics.
        measured: of each candidate that could be measured, the rejected included.
    """
    if len(contract.metrics) < 2:
        return None
    y_name, x_name = _two_of_most_weight(contract)
    kinds = _kinds(selection)
    order: Sequence[Kind] = ("out", "dominated", "front", "wins")
    places = sorted(
        (
            _Place(who, kinds.get(who, "out"), found[x_name], found[y_name])
            for who, found in measured.items()
            if x_name in found and y_name in found
        ),
        key=lambda place: order.index(place.kind),
    )
    if not places:
        return None
    shaping = [place for place in places if place.kind != "out"] or places
    x = _axis(x_name, [place.x for place in shaping], contract, LEFT, RIGHT)
    y = _axis(y_name, [place.y for place in shaping], contract, BOTTOM, TOP)
    return Pareto(x=x, y=y, points=_points(places, x, y))


def _two_of_most_weight(contract: Contract) -> tuple[str, str]:
    """Return what weighs most, and what weighs most beside it; of equal ones what is not of the same kind."""
    weights = {name: preference.weight for name, preference in contract.metrics.items()}
    first = max(weights, key=lambda name: weights[name])
    others = (name for name in weights if name != first)
    return first, max(others, key=lambda name: (weights[name], metric(name).quality != metric(first).quality))


def _kinds(selection: Selection) -> dict[str, Kind]:
    kinds: dict[str, Kind] = {r.candidate: "front" if r.pareto else "dominated" for r in selection.ranking}
    return kinds | ({selection.winner: "wins"} if selection.winner else {})


def _points(places: Sequence[_Place], x: Axis, y: Axis) -> list[Point]:
    points = [
        Point(
            candidate=place.candidate,
            kind=place.kind,
            x=x.at(place.x.value),
            y=y.at(place.y.value),
            bound=(x.at(place.x.bound), y.at(place.y.bound)),
            values=(place.x, place.y),
            label=None,
        )
        for place in places
    ]
    taken = [*(box for point in points for box in _drawn(point)), *_limits(x, y)]
    labels = {
        point.candidate: _label(point.candidate, point.x, point.y, taken)
        or (Label(x=point.x + 10, y=point.y + 4, anchor="start") if point.kind == "wins" else None)
        for point in reversed(points)  # the winner's first
        if len(points) <= MOST_NAMED or point.kind in ("wins", "front")
    }
    return [replace(point, label=labels.get(point.candidate)) for point in points]


def _drawn(point: Point) -> Iterator[Box]:
    x, y, (x_bound, y_bound) = point.x, point.y, point.bound
    yield x - 6, y - 6, x + 6, y + 6
    yield min(x, x_bound), y - 1, max(x, x_bound), y + 1
    yield x - 1, min(y, y_bound), x + 1, max(y, y_bound)


def _limits(x: Axis, y: Axis) -> Iterator[Box]:
    if x.limit_at is not None:
        yield x.limit_at - 1, TOP, x.limit_at + 1, BOTTOM
    if y.limit_at is not None:
        yield LEFT, y.limit_at - 1, RIGHT, y.limit_at + 1


def _label(name: str, x: float, y: float, taken: list[Box]) -> Label | None:
    """Return the first place around a point where a name hides nothing, and take it; none where there is no such."""
    width = LETTER * min(len(name), 24)
    tried: Iterable[tuple[Label, Box]] = (
        (Label(x=x + 10, y=y + 4, anchor="start"), (x + 8, y - 8, x + 10 + width, y + 6)),
        (Label(x=x - 10, y=y + 4, anchor="end"), (x - 10 - width, y - 8, x - 8, y + 6)),
        (Label(x=x, y=y - 11, anchor="middle"), (x - width / 2, y - 11 - LINE, x + width / 2, y - 8)),
        (Label(x=x, y=y + 20, anchor="middle"), (x - width / 2, y + 8, x + width / 2, y + 8 + LINE)),
    )
    for label, box in tried:
        inside = box[0] >= LEFT and box[2] <= RIGHT + 16 and box[1] >= 0 and box[3] <= BOTTOM
        if inside and not any(_overlap(box, other) for other in taken):
            taken.append(box)
            return label
    return None


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _axis(name: str, shaping: Sequence[Measurement], contract: Contract, start: float, end: float) -> Axis:
    limit = contract.metrics[name].limit
    ends = [value for m in shaping for value in (m.value, m.bound)] + ([] if limit is None else [limit])
    log = _log(name) and min(ends) > 0
    low, high = _padded(min(ends), max(ends), log)
    if metric(name).unit == "fraction":
        low, high = max(0.0, low), min(1.0, high)
    axis = Axis(name=name, low=low, high=high, ticks=[], limit_at=None, start=start, end=end)
    ticks = [(axis.at(value), value) for value in _ticks(low, high, log)]
    return replace(axis, ticks=ticks, limit_at=None if limit is None else axis.at(limit))


def _log(name: str) -> bool:
    return metric(name).scale == "log"


def _part(value: float, low: float, high: float, log: bool) -> float:
    if log and low > 0:
        return math.log(max(value, 1e-300) / low) / math.log(high / low)
    return (value - low) / (high - low)


def _padded(low: float, high: float, log: bool) -> tuple[float, float]:
    if log:
        room = max((high / low) ** 0.08, 1.05)
        return low / room, high * room
    room = max(0.08 * (high - low), 0.005 * abs(high), 1e-9)
    return low - room, high + room


def _ticks(low: float, high: float, log: bool) -> list[float]:
    """Return round numbers between two, about five of them."""
    if log and high / low > 8:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            found = [value for power, step in product(decades, steps) if low <= (value := step * 10.0**power) <= high]
            if len(found) <= 7:
                return found
        return found[:: math.ceil(len(found) / 7)]
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
