"""Which split each image belongs to: stratified, without leaks, and the same on every machine."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from steelyard.data.catalog import Catalog
from steelyard.data.dataset import SPLITS, Split
from steelyard.data.files import printable
from steelyard.errors import SourceError
from steelyard.params import Split as Shares

STRICTNESS = ("", "train", "validation", "test")  # the last keeps what is found in two splits

_RANKS = " ".join(f"WHEN '{split}' THEN {rank}" for rank, split in enumerate(STRICTNESS))
STRICTNESS_OF = f"CASE {{}} {_RANKS} END"  # SQL, for a column
_STRICTEST = f"MAX({STRICTNESS_OF.format('given')})"

Counts = Mapping[str, int]


class _Unit(NamedTuple):
    name: bytes
    strictness: int
    first: str | None  # of the splits where its images were until now
    last: str | None
    counts: Counts  # distinct images of each class


def assign_splits(catalog: Catalog, shares: Shares, group: str) -> bool:
    """Write the split of every image in use, and return whether there are groups.

    Units are dealt out whole: a unit is a group, or an image with all its copies; groups that share an equal image are
    one. The largest come first, each to where the classes in it are furthest from their share; then single images, in
    an order that depends on pixels and the seed, to test, validation and train in turn. Where the source gives splits,
    they stay, a unit found in two goes to the stricter (test, then validation), and only a split that is given nowhere
    is taken out of the training images.

    Args:
        catalog: with everything decoded.
        shares: of the distinct images of each class.
        group: regular expression; what it finds in a path (its first bracket, where it has one) is the image's group,
            in place of the one that the source gives.

    Raises:
        SourceError: the expression fits no path, or a class is too small to be in every split.
    """
    grouped = _write_units(catalog, _group_in_path(catalog, group) if group else "grp")
    given = {split for (split,) in catalog.sql("SELECT DISTINCT given FROM kept")}
    deal = _Deal(catalog, {split: getattr(shares, split) for split in SPLITS if split == "train" or split not in given})
    units = _groups(catalog, shares.seed) if grouped else _singles(catalog, shares.seed)
    dealt = ((deal.take(unit), unit) for unit in units)
    changed = ((split, unit.name) for split, unit in dealt if not unit.first == split == unit.last)
    catalog.many("UPDATE items SET split = ? WHERE unit = ?", changed)
    return grouped


def check_classes(counts: Counts, least: int = 1) -> list[str]:
    """Return the classes, sorted.

    Args:
        counts: distinct images of each class.
        least: how many a class needs.

    Raises:
        SourceError: there is but one class, or one has too few images.
    """
    if len(counts) < 2:
        raise SourceError("data.source: holds one class only; there is nothing to tell apart")
    label, fewest = min(counts.items(), key=itemgetter(1))
    if fewest < least:
        raise SourceError(
            f"data.source: class {label!r} has {fewest} distinct image(s); train, validation and test need one each"
        )
    return sorted(counts)


def check_splits(images: Mapping[Split, int], counts: Mapping[Split, Counts], given: bool, grouped: bool) -> None:
    """Refuse splits that can't be trained or judged on.

    Args:
        images: of each split.
        counts: images of each class; empty for masks.
        given: whether the source gives splits; then only training needs every class.
        grouped: whether there are groups.

    Raises:
        SourceError: a split is empty, or a class is missing from it.
    """
    why = "; its groups are too few or too large: data.group, data.tiles" if grouped else ""
    for split in ("train",) if given else SPLITS:
        for label, count in counts.get(split, {}).items():
            if not count:
                raise SourceError(f"data.source: class {label!r} has no images in {split}{why}")
    for split in SPLITS:
        if not images[split]:
            raise SourceError(f"data.source: no images are left for {split}{why}")


def _group_in_path(catalog: Catalog, group: str) -> str:
    """Return an SQL expression for an item's group: what is found in its path, or else what the source gives."""
    expression = re.compile(group)

    def found(path: bytes) -> str:
        match = expression.search(printable(os.fsdecode(path)))
        return "" if match is None else match[bool(expression.groups)] or ""

    catalog.function("group_of", found)
    if not catalog.sql("SELECT 1 FROM kept WHERE group_of(path) <> '' LIMIT 1").fetchone():
        (example,) = catalog.sql("SELECT path FROM kept LIMIT 1").fetchone()
        raise SourceError(f"data.group: '{group}' fits no path, such as {printable(os.fsdecode(example))!r}")
    return "COALESCE(NULLIF(group_of(path), ''), grp)"


def _write_units(catalog: Catalog, group: str) -> bool:
    """Write what is dealt out whole: groups, where there are any; else each image with its copies."""
    catalog.sql("UPDATE items SET unit = digest WHERE unit IS NOT digest")
    if not catalog.sql(f"SELECT 1 FROM kept WHERE {group} <> '' LIMIT 1").fetchone():
        return False
    same = _Union()
    pairs = catalog.sql(f"SELECT DISTINCT digest, {group} AS name FROM kept WHERE name <> '' ORDER BY digest")
    for _, rows in groupby(pairs, key=itemgetter(0)):
        first, *others = (name for _, name in rows)
        for other in others:
            same.join(first, other)
    catalog.function("united", lambda name: f"group {same.find(name)}".encode())
    catalog.sql("CREATE TEMP TABLE grouped (digest BLOB PRIMARY KEY, unit BLOB) WITHOUT ROWID")
    catalog.sql(f"INSERT OR IGNORE INTO grouped SELECT digest, united({group}) FROM kept WHERE {group} <> ''")
    catalog.sql(
        "UPDATE items SET unit = (SELECT unit FROM grouped WHERE grouped.digest = items.digest) "
        "WHERE digest IN (SELECT digest FROM grouped)"
    )
    catalog.sql("DROP TABLE grouped")
    return True


def _singles(catalog: Catalog, seed: int) -> Iterator[_Unit]:
    """Yield each distinct image, in an order that depends on pixels and seed; of several labels, the first counts."""
    _rank_by(catalog, seed)
    rows = catalog.sql(
        f"SELECT unit, {_STRICTEST}, MIN(COALESCE(split, '')), MAX(split), MIN(label) FROM kept "
        "GROUP BY unit ORDER BY rank(unit)"
    )
    for name, strict, first, last, label in rows:
        yield _Unit(name, strict, first, last, {label: 1})


def _groups(catalog: Catalog, seed: int) -> Iterator[_Unit]:
    """Yield each group, or image without one, the largest first."""
    _rank_by(catalog, seed)
    rows = catalog.sql(
        f"SELECT unit, {_STRICTEST}, MIN(COALESCE(split, '')), MAX(split), label, COUNT(DISTINCT digest), "
        "SUM(COUNT(DISTINCT digest)) OVER (PARTITION BY unit) AS size "
        "FROM kept GROUP BY unit, label ORDER BY size DESC, rank(unit), label"
    )
    for name, parts in groupby(rows, key=itemgetter(0)):
        _, strict, first, last, labels, counts, _ = zip(*parts, strict=True)
        yield _Unit(name, max(strict), min(first), max(last, key=str), dict(zip(labels, counts, strict=True)))


def _rank_by(catalog: Catalog, seed: int) -> None:
    catalog.function("rank", lambda unit: hashlib.sha256(b"%d:%b" % (seed, unit)).digest())


class _Deal:
    """Deals units out to those splits that the source does not give."""

    def __init__(self, catalog: Catalog, shares: dict[Split, float]) -> None:
        self._targets: dict[Split, Counter[str]] = {split: Counter() for split in shares}
        total = sum(shares.values())
        for label, count in catalog.sql(
            "SELECT label, COUNT(DISTINCT digest) FROM kept WHERE given IN ('', 'train') GROUP BY label"
        ):
            left = count
            for others, split in reversed(list(enumerate(shares))):  # one to each, where there are so many; train last
                wanted = max(1, round(count * shares[split] / total)) if others else left
                self._targets[split][label] = max(0, min(wanted, left - others))
                left -= self._targets[split][label]
        self._left = {split: target.copy() for split, target in self._targets.items()}

    def take(self, unit: _Unit) -> str:
        """Return the unit's split."""
        if unit.strictness > STRICTNESS.index("train"):
            return STRICTNESS[unit.strictness]
        split = self._next(*unit.counts) if sum(unit.counts.values()) == 1 else self._neediest(unit)
        left = self._left[split]
        for label, count in unit.counts.items():
            left[label] -= count
        return split

    def _next(self, label: str) -> Split:
        """Return the first split that lacks an image, test before validation: one image more moves few others."""
        return next((split for split in reversed(self._left) if self._left[split][label] > 0), "train")

    def _neediest(self, unit: _Unit) -> Split:
        return max(self._left, key=lambda split: self._need(unit, split))

    def _need(self, unit: _Unit, split: Split) -> float:
        """Return how far a split is from its share of the unit's classes: 1 where it has none of them yet."""
        left, target = self._left[split], self._targets[split]
        return sum(count * left[label] / target[label] for label, count in unit.counts.items() if target[label])


class _Union:
    """Which groups are one (union-find, by the name that sorts first)."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def find(self, group: str) -> str:
        while (above := self._above.get(group, group)) != group:
            group = above
        return group

    def join(self, one: str, other: str) -> None:
        first, second = sorted((self.find(one), self.find(other)))
        if first != second:
            self._above[second] = first
