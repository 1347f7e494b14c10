"""Which split each image belongs to: stratified, without leaks, and the same on every machine."""

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.data.catalog import Catalog
from steelyard.data.dataset import SPLITS, Split
from steelyard.data.groups import group_names
from steelyard.data.images import STRICTNESS, Images, hashes
from steelyard.data.sorting import Records, Sorter, changes
from steelyard.errors import SourceError
from steelyard.params import Split as Shares

TRAIN = STRICTNESS.index("train")
UNIT = np.dtype(
    [
        ("rank", np.uint64),
        ("unit", np.int64),  # a group or, behind them, the number of an image without one
        ("size", np.int64),
        ("label", np.int32),
        ("images", np.int64),  # distinct ones with this label
    ]
)

Counts = Mapping[str, int]


class Dealt(NamedTuple):
    """How images were dealt out; splits are indices into STRICTNESS."""

    splits_N: NDArray[np.int8]
    moved_N: NDArray[np.bool_]  # to the stricter split that the source gives to their copies or groups
    alone: int  # images without a group


def deal_out(images: Images, catalog: Catalog, shares: Shares) -> Dealt:
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

    Raises:
        SourceError: a class is too small to be in every split.
    """
    open_ = [split for split in SPLITS if split == "train" or STRICTNESS.index(split) not in images.given]
    units = _Units.of(images, catalog, shares.seed)
    targets = _targets(images, units.given_D, {split: getattr(shares, split) for split in open_})
    (_deal_groups if images.groups else _deal_singles)(images, units, targets)
    return _spread(images, units)


def check_classes(counts: Counts, least: int = 1) -> list[str]:
    """Return the classes, sorted.

    Args:
        counts: distinct images of each class.
        least: how many a class needs.

    Raises:
        SourceError: there is but one class, or one has too few images.
    """
    if len(counts) < 2:
        only = f"one class only, {next(iter(counts))!r}" if counts else "no class"
        raise SourceError(f"data.source: holds {only}; there is nothing to tell apart")
    label, fewest = min(counts.items(), key=itemgetter(1))
    if fewest < least:
        raise SourceError(
            f"data.source: class {label!r} has {fewest} distinct image(s); train, validation and test need one each"
        )
    return sorted(counts)


def check_splits(images: Mapping[Split, int], counts: Mapping[Split, Counts], given: set[int], grouped: bool) -> None:
    """Refuse splits that can't be trained or judged on.

    Args:
        images: of each split.
        counts: images of each class; empty for masks.
        given: splits that the source gives, as indices into STRICTNESS; if any, only training needs every class.
        grouped: whether there are groups.

    Raises:
        SourceError: a split is empty, or a class is missing from it.
    """
    if given.isdisjoint({0, TRAIN}):
        raise SourceError("data.source: gives every image a split, and none is for training")
    why = "; its groups are too few or too large: data.group, data.tiles" if grouped else ""
    for split in ("train",) if any(given) else SPLITS:
        for label, count in counts.get(split, {}).items():
            if not count:
                raise SourceError(f"data.source: class {label!r} has no images in {split}{why}")
    for split in SPLITS:
        if not images[split]:
            raise SourceError(f"data.source: no images are left for {split}{why}")


@dataclass(slots=True, kw_only=True)
class _Units:
    """What is dealt out whole: D distinct images and, where these are in groups, the groups.

    Of G groups, those that are one with another have its number, the first of theirs.
    """

    seed: int
    groups_D: NDArray[np.int32]  # -1 where there is none
    given_D: NDArray[np.int8]  # strictest that the source gives
    splits_D: NDArray[np.int8]
    ranks_G: NDArray[np.uint64]  # an order that depends on the name and the seed
    splits_G: NDArray[np.int8]

    @classmethod
    def of(cls, images: Images, catalog: Catalog, seed: int) -> "_Units":
        given_D = np.zeros(images.distinct, np.int8)
        for _, batch in images.batches():
            np.maximum.at(given_D, batch["number"], batch["facts"]["given"])
        groups_D = _united(images) if images.groups else np.broadcast_to(np.int32(-1), images.distinct)
        grouped_D = groups_D >= 0
        given_G = np.zeros(images.groups, np.int8)
        np.maximum.at(given_G, groups_D[grouped_D], given_D[grouped_D])
        given_D[grouped_D] = given_G[groups_D[grouped_D]]
        names = group_names(catalog) if images.groups else ()
        return cls(
            seed=seed,
            groups_D=groups_D,
            given_D=given_D,
            splits_D=given_D.copy(),
            ranks_G=_ranks(seed, hashes(f"group {name}" for name in names)),
            splits_G=given_G,
        )


def _ranks(seed: int, hashes_N: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return ranks that differ from seed to seed as random ones do (SplitMix64's finalizer, Steele et al. 2014)."""
    mixed_N = hashes_N ^ hashes([f"seed {seed}"])
    for shift, factor in (30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB):
        mixed_N = (mixed_N ^ (mixed_N >> np.uint64(shift))) * np.uint64(factor)
    return mixed_N ^ (mixed_N >> np.uint64(31))


def _united(images: Images) -> NDArray[np.int32]:
    """Return the group of each distinct image; of groups that share an image, the first (union-find)."""
    above, groups_D = array("i", range(images.groups)), np.full(images.distinct, -1, np.int32)

    def first(group: int) -> int:
        while (higher := above[group]) != group:
            above[group] = group = above[higher]  # half the way is enough the next time
        return group

    for _, batch in images.batches():
        grouped_M = batch["group"] >= 0
        numbers_M, groups_M = batch["number"][grouped_M], batch["group"][grouped_M]
        groups_D[numbers_M] = np.where(groups_D[numbers_M] < 0, groups_M, groups_D[numbers_M])
        shared_M = groups_D[numbers_M] != groups_M
        for pair in zip(groups_D[numbers_M][shared_M].tolist(), groups_M[shared_M].tolist(), strict=True):
            lower, higher = sorted(map(first, pair))
            above[higher] = lower
    roots_G = np.fromiter(map(first, range(images.groups)), np.int32, images.groups)
    return np.where(groups_D < 0, np.int32(-1), roots_G[groups_D])


def _spread(images: Images, units: _Units) -> Dealt:
    """Give the copies of an image, and the images of a group, their split."""
    grouped_D = units.groups_D >= 0
    units.splits_D[grouped_D] = units.splits_G[units.groups_D[grouped_D]]
    splits_N, moved_N, alone = np.empty(len(images), np.int8), np.empty(len(images), bool), 0
    for places, batch in images.batches():
        numbers_M, given_M = batch["number"], batch["facts"]["given"]
        splits_N[places] = units.splits_D[numbers_M]
        moved_N[places] = (given_M > 0) & (given_M < units.given_D[numbers_M])
        alone += int(np.count_nonzero(~grouped_D[numbers_M]))
    return Dealt(splits_N, moved_N, alone)


def _targets(images: Images, given_D: NDArray[np.int8], shares: dict[Split, float]) -> dict[Split, list[int]]:
    """Return how many of the distinct images of each label that are dealt out every split should have."""
    targets: dict[Split, list[int]] = {split: [] for split in shares}
    total = sum(shares.values())
    for distinct in images.per_label(given_D <= TRAIN).tolist():
        left = distinct
        for others, split in reversed(list(enumerate(shares))):  # one to each, where there are so many; train last
            wanted = max(1, round(distinct * shares[split] / total)) if others else left
            targets[split].append(max(0, min(wanted, left - others)))
            left -= targets[split][-1]
    return targets


def _deal_singles(images: Images, units: _Units, targets: dict[Split, list[int]]) -> None:
    """Deal out images by rank; of several labels, the first counts.

    Test is full before validation is begun: one image more moves few others.
    """
    by_rank = Sorter(images.folder, "rank")
    for _, batch in images.batches():
        found = batch.take(np.flatnonzero(batch["first"] & (units.given_D[batch["number"]] <= TRAIN)))
        singles = np.zeros(len(found), UNIT)
        singles["rank"] = _ranks(units.seed, found["prefix"])
        singles["unit"], singles["label"] = found["number"], found["label"]
        by_rank.add(singles)
    seen_L = np.zeros(len(images.names), np.int64)
    for batch in by_rank.batches():
        singles = batch[np.argsort(batch["label"], kind="stable")]
        labels = singles["label"]
        places = seen_L[labels] + np.arange(len(labels)) - np.searchsorted(labels, labels)
        units.splits_D[singles["unit"]] = TRAIN
        ends_L = np.sum([targets[split] for split in targets], axis=0)
        for split, target in targets.items():
            units.splits_D[singles["unit"][places < ends_L[labels]]] = STRICTNESS.index(split)
            ends_L = ends_L - target
        seen_L += np.bincount(labels, minlength=len(seen_L))


def _deal_groups(images: Images, units: _Units, targets: dict[Split, list[int]]) -> None:
    """Deal out groups and images without one, the largest first."""
    deal, groups = _Deal(targets), images.groups
    for batch in _by_size(images, units):
        starts = np.flatnonzero(changes(batch["unit"])).tolist()
        numbers, labels, counts = (batch[field].tolist() for field in ("unit", "label", "images"))
        for start, end in pairwise([*starts, len(batch)]):
            unit = Counter(dict(zip(labels[start:end], counts[start:end], strict=True)))
            split = STRICTNESS.index(deal.take(unit))
            if numbers[start] < groups:
                units.splits_G[numbers[start]] = split
            else:
                units.splits_D[numbers[start] - groups] = split


def _by_size(images: Images, units: _Units) -> Iterator[Records]:
    """Yield units that the source gives to no other split than train, with the images of each label."""
    by_unit, by_size = Sorter(images.folder, "unit"), Sorter(images.folder, "size", "rank")
    for _, batch in images.batches():
        found = batch.take(np.flatnonzero(batch["first_labelled"] & (units.given_D[batch["number"]] <= TRAIN)))
        groups_M = units.groups_D[found["number"]]
        records = np.zeros(len(found), UNIT)
        records["unit"] = np.where(groups_M < 0, images.groups + found["number"], groups_M)
        records["rank"] = np.where(groups_M < 0, _ranks(units.seed, found["prefix"]), units.ranks_G[groups_M])
        records["label"], records["images"] = found["label"], 1
        by_unit.add(_summed(records))
    for records in by_unit.batches():
        batch = _summed(records)
        starts = np.flatnonzero(changes(batch["unit"]))
        sizes_U = np.add.reduceat(batch["images"], starts)
        batch["size"] = -np.repeat(sizes_U, np.diff(starts, append=len(batch)))  # the largest first
        by_size.add(batch)
    yield from by_size.batches()


def _summed(records: Records) -> Records:
    """Return one record for each label of each unit."""
    ordered = records.take(np.lexsort((records["label"], records["unit"])))
    starts = np.flatnonzero(changes(ordered["unit"], ordered["label"]))
    summed = ordered.take(starts)
    summed["images"] = np.add.reduceat(ordered["images"], starts)
    return summed


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
