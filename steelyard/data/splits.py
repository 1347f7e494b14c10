"""Which split each image belongs to: stratified, without leaks, and the same on every machine."""

import hashlib
import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.data.catalog import Catalog
from steelyard.data.dataset import SPLITS, Split
from steelyard.data.files import printable
from steelyard.data.images import STRICTNESS, Images, changes
from steelyard.errors import SourceError
from steelyard.params import Split as Shares

TRAIN = STRICTNESS.index("train")

Counts = Mapping[str, int]


class Dealt(NamedTuple):
    """How images were dealt out; splits are indices into STRICTNESS."""

    splits_N: NDArray[np.int8]
    moved_N: NDArray[np.bool_]  # to the stricter split that the source gives to their copies or groups
    alone: int  # images without a group
    grouped: bool  # whether there are groups


def deal_out(images: Images, catalog: Catalog, shares: Shares, group: str) -> Dealt:
    """Return the split of every image.

    Units are dealt out whole: a unit is a group, or an image with all its copies; groups that share an equal image are
    one. The largest come first, each to where the classes in it are furthest from their share; then single images, in
    an order that depends on pixels and the seed, to test, validation and train in turn. Where the source gives splits,
    they stay, a unit found in two goes to the stricter (test, then validation), and only a split that is given nowhere
    is taken out of the training images.

    Args:
        images: those in use.
        catalog: where they came from.
        shares: of the distinct images of each class.
        group: regular expression; what it finds in a path (its first bracket, where it has one) is the image's group,
            in place of the one that the source gives.

    Raises:
        SourceError: the expression fits no path, or a class is too small to be in every split.
    """
    groups_N, names = _groups(catalog, group)
    units = _units(images, groups_N, names, shares.seed)
    given = set(np.unique(images.given_N).tolist())
    open_ = [split for split in SPLITS if split == "train" or STRICTNESS.index(split) not in given]
    targets = _targets(images, {split: getattr(shares, split) for split in open_})
    splits_U = (_deal_groups if names else _deal_singles)(images, units, targets)
    splits_U = np.where(units.strictness_U > TRAIN, units.strictness_U, splits_U)
    moved_N = (images.given_N > 0) & (images.given_N < units.strictness_U[units.of_N])
    return Dealt(splits_U[units.of_N], moved_N, units.alone, grouped=bool(names))


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


class _Units(NamedTuple):
    """What is dealt out whole: U groups and images."""

    of_N: NDArray[np.int32]
    strictness_U: NDArray[np.int8]
    ranks_U: NDArray[np.uint64]  # an order that depends on names or pixels, and the seed
    alone: int  # images without a group


def _groups(catalog: Catalog, group: str) -> tuple[NDArray[np.int32], list[str]]:
    """Return each image's group as a place among the sorted names, -1 where it has none; no names, no groups."""
    name = _group_in_path(catalog, group) if group else "grp"
    if not catalog.sql(f"SELECT 1 FROM kept WHERE {name} <> '' LIMIT 1").fetchone():
        return np.empty(0, np.int32), []
    codes: defaultdict[str, int] = defaultdict(itertools.count().__next__)
    codes_N = np.fromiter((codes[found] for (found,) in catalog.sql(f"SELECT {name} FROM kept ORDER BY id")), np.int32)
    names = sorted(filter(None, codes))
    places = {name: place for place, name in enumerate(names)}
    return np.array([places.get(name, -1) for name in codes], np.int32)[codes_N], names


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


def _units(images: Images, groups_N: NDArray[np.int32], names: list[str], seed: int) -> _Units:
    """Return what is dealt out whole: groups, where there are any; else each image with its copies."""
    _, first_U, of_N = np.unique(images.prefixes_N, return_index=True, return_inverse=True)
    groups, alone = list[bytes](), len(of_N)
    if names:
        numbers_D = np.arange(len(first_U)) + len(names)
        has_M = np.flatnonzero(groups_N >= 0)
        numbers_D[of_N[has_M]] = _united(of_N[has_M], groups_N[has_M], len(names))[groups_N[has_M]]
        numbers_N = numbers_D[of_N]
        alone = int(np.count_nonzero(numbers_N >= len(names)))
        numbers_U, first_U, of_N = np.unique(numbers_N, return_index=True, return_inverse=True)
        groups = [f"group {names[number]}".encode() for number in numbers_U[numbers_U < len(names)].tolist()]
    strictness_U = np.zeros(len(first_U), np.int8)
    np.maximum.at(strictness_U, of_N, images.given_N)
    ranks = [_ranks(seed, groups)]
    for facts in images.facts(first_U[len(groups) :]):
        digests = facts["digest"].tobytes()
        ranks.append(_ranks(seed, [digests[start : start + 32] for start in range(0, len(digests), 32)]))
    ranks_U = np.concatenate(ranks)
    return _Units(of_N.astype(np.int32), strictness_U, ranks_U, alone)


def _ranks(seed: int, names: Iterable[bytes]) -> NDArray[np.uint64]:
    salt, sha256 = b"%d:" % seed, hashlib.sha256
    hashes = b"".join([sha256(salt + name).digest()[:8] for name in names])
    return np.frombuffer(hashes, ">u8").astype(np.uint64)


def _united(distinct_M: NDArray[np.integer], groups_M: NDArray[np.int32], groups: int) -> NDArray[np.intp]:
    """Return for each group the first of those that it is one with, since they share an image (union-find)."""
    above = list(range(groups))

    def first(group: int) -> int:
        while (higher := above[group]) != group:
            group = higher
        return group

    order_M = np.lexsort((groups_M, distinct_M))
    distinct_M, groups_M = distinct_M[order_M], groups_M[order_M]
    shared = np.flatnonzero(~changes(distinct_M) & changes(groups_M))
    for one, other in zip(groups_M[shared - 1].tolist(), groups_M[shared].tolist(), strict=True):
        lower, higher = sorted((first(one), first(other)))
        above[higher] = lower
    return np.array([first(group) for group in range(groups)])


def _targets(images: Images, shares: dict[Split, float]) -> dict[Split, list[int]]:
    """Return how many distinct images of each label every split should have."""
    targets: dict[Split, list[int]] = {split: [] for split in shares}
    total = sum(shares.values())
    for distinct in images.distinct(images.given_N <= TRAIN).tolist():
        left = distinct
        for others, split in reversed(list(enumerate(shares))):  # one to each, where there are so many; train last
            wanted = max(1, round(distinct * shares[split] / total)) if others else left
            targets[split].append(max(0, min(wanted, left - others)))
            left -= targets[split][-1]
    return targets


def _deal_singles(images: Images, units: _Units, targets: dict[Split, list[int]]) -> NDArray[np.int8]:
    """Deal out images by rank; of several labels, the first counts.

    Test is full before validation is begun: one image more moves few others.
    """
    labels_U = np.full(len(units.ranks_U), len(images.names), np.int32)
    np.minimum.at(labels_U, units.of_N, images.labels_N)
    free_F = np.flatnonzero(units.strictness_U <= TRAIN)
    order_F = free_F[np.lexsort((units.ranks_U[free_F], labels_U[free_F]))]
    labels_F = labels_U[order_F]
    places_F = np.arange(len(order_F)) - np.searchsorted(labels_F, labels_F)
    splits_U = np.full(len(labels_U), TRAIN, np.int8)
    ends_L = np.sum([targets[split] for split in targets], axis=0)
    for split, target in targets.items():
        splits_U[order_F[places_F < ends_L[labels_F]]] = STRICTNESS.index(split)
        ends_L = ends_L - target
    return splits_U


def _deal_groups(images: Images, units: _Units, targets: dict[Split, list[int]]) -> NDArray[np.int8]:
    """Deal out groups and images without one, the largest first."""
    order_N = np.lexsort((images.prefixes_N, images.labels_N, units.of_N))
    units_N, labels_N = units.of_N[order_N], images.labels_N[order_N]
    distinct_N = changes(units_N, labels_N, images.prefixes_N[order_N])
    units_D, labels_D = units_N[distinct_N], labels_N[distinct_N]
    sizes_U = np.bincount(units_D)
    ends_U = np.cumsum(sizes_U)
    deal, splits_U = _Deal(targets), np.zeros(len(sizes_U), np.int8)
    for unit in np.lexsort((units.ranks_U, -sizes_U)).tolist():
        if units.strictness_U[unit] <= TRAIN:
            labels = Counter(labels_D[ends_U[unit] - sizes_U[unit] : ends_U[unit]].tolist())
            splits_U[unit] = STRICTNESS.index(deal.take(labels))
    return splits_U


class _Deal:
    """Deals units out to those splits that the source does not give."""

    def __init__(self, targets: dict[Split, list[int]]) -> None:
        self._targets, self._left = targets, {split: target.copy() for split, target in targets.items()}

    def take(self, unit: Counter[int]) -> Split:
        """Return the split of a unit, of which the distinct images of each label are given."""
        split = self._next(*unit) if unit.total() == 1 else self._neediest(unit)
        for label, images in unit.items():
            self._left[split][label] -= images
        return split

    def _next(self, label: int) -> Split:
        """Return the first split that lacks an image, test before validation: one image more moves few others."""
        return next((split for split in reversed(self._left) if self._left[split][label] > 0), "train")

    def _neediest(self, unit: Counter[int]) -> Split:
        return max(self._left, key=lambda split: self._need(unit, split))

    def _need(self, unit: Counter[int], split: Split) -> float:
        """Return how far a split is from its share of the unit's classes: 1 where it has none of them yet."""
        left, target = self._left[split], self._targets[split]
        return sum(images * left[label] / target[label] for label, images in unit.items() if target[label])
