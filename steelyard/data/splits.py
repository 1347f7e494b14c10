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
UNIT = np.dtype([("rank", np.uint64), ("unit", np.int64), ("size", np.int32), ("label", np.int32)])

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
    targets = _targets(images, {split: getattr(shares, split) for split in open_})
    units = _Units.of(images, catalog, shares.seed)
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
        raise SourceError("data.source: holds one class only; there is nothing to tell apart")
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
    """What is dealt out whole. Of G groups, those that are one with another have its number, the first of theirs."""

    seed: int
    roots_G: NDArray[np.int32]
    ranks_G: NDArray[np.uint64]  # an order that depends on the name, or on the pixels, and the seed
    given_G: NDArray[np.int8]  # strictest that the source gives
    splits_G: NDArray[np.int8]
    splits_N: NDArray[np.int8]  # of images without a group; their copies have none yet

    @classmethod
    def of(cls, images: Images, catalog: Catalog, seed: int) -> "_Units":
        names = group_names(catalog) if images.groups else ()
        ranks_G = _ranks(seed, hashes(f"group {name}" for name in names))
        given_G, splits_G = np.zeros((2, len(ranks_G)), np.int8)
        return cls(
            seed=seed,
            roots_G=_united(images, len(ranks_G)),
            ranks_G=ranks_G,
            given_G=given_G,
            splits_G=splits_G,
            splits_N=np.zeros(len(images), np.int8),
        )

    def distinct(self, batch: Records) -> "_Distinct":
        """Return the distinct images of a batch."""
        first_D = np.flatnonzero(changes(batch["prefix"]))
        roots_M = self.roots_G[batch["group"]] if len(self.roots_G) else batch["group"]
        return _Distinct(
            first_D=first_D,
            sizes_D=np.diff(first_D, append=len(batch)),
            given_D=np.maximum.reduceat(batch["facts"]["given"], first_D),
            groups_D=np.maximum.reduceat(np.where(batch["group"] < 0, -1, roots_M), first_D),
        )


class _Distinct(NamedTuple):
    """D distinct images of a batch, each with its copies behind it."""

    first_D: NDArray[np.intp]  # place in the batch
    sizes_D: NDArray[np.intp]  # how often it occurs
    given_D: NDArray[np.int8]  # strictest that the source gives
    groups_D: NDArray[np.int32]  # -1 where there is none


def _ranks(seed: int, hashes_N: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return ranks that differ from seed to seed as random ones do (SplitMix64's finalizer, Steele et al. 2014)."""
    mixed_N = hashes_N ^ hashes([f"seed {seed}"])
    for shift, factor in (30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB):
        mixed_N = (mixed_N ^ (mixed_N >> np.uint64(shift))) * np.uint64(factor)
    return mixed_N ^ (mixed_N >> np.uint64(31))


def _united(images: Images, groups: int) -> NDArray[np.int32]:
    """Return for each group the first of those that it is one with, since they share an image (union-find)."""
    above = array("i", range(groups))

    def first(group: int) -> int:
        while (higher := above[group]) != group:
            group = higher
        return group

    for _, batch in images.batches() if groups else ():
        grouped = batch[batch["group"] >= 0]
        order_M = np.lexsort((grouped["group"], grouped["prefix"]))
        prefixes_M, groups_M = grouped["prefix"][order_M], grouped["group"][order_M]
        shared = np.flatnonzero(~changes(prefixes_M) & changes(groups_M))
        for one, other in zip(groups_M[shared - 1].tolist(), groups_M[shared].tolist(), strict=True):
            lower, higher = sorted((first(one), first(other)))
            above[higher] = lower
    return np.fromiter(map(first, range(groups)), np.int32, groups)


def _spread(images: Images, units: _Units) -> Dealt:
    """Give the copies of an image, and the images of a group, their split."""
    splits_N, moved_N, alone = units.splits_N, np.zeros(len(images), bool), 0
    for places, batch in images.batches():
        first_D, sizes_D, given_D, groups_D = units.distinct(batch)
        splits_D, in_group = splits_N[places][first_D], groups_D >= 0
        splits_D[in_group] = units.splits_G[groups_D[in_group]]
        given_D[in_group] = units.given_G[groups_D[in_group]]
        splits_N[places] = np.repeat(splits_D, sizes_D)
        given_M = batch["facts"]["given"]
        moved_N[places] = (given_M > 0) & (given_M < np.repeat(given_D, sizes_D))
        alone += int(sizes_D[~in_group].sum())
    return Dealt(splits_N, moved_N, alone)


def _targets(images: Images, shares: dict[Split, float]) -> dict[Split, list[int]]:
    """Return how many distinct images of each label every split should have."""
    targets: dict[Split, list[int]] = {split: [] for split in shares}
    total = sum(shares.values())
    for distinct in images.distinct(TRAIN).tolist():
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
    for places, batch in images.batches():
        first_D, _, given_D, _ = units.distinct(batch)
        units.splits_N[places.start + first_D] = given_D
        free_D = given_D <= TRAIN
        singles = np.zeros(np.count_nonzero(free_D), UNIT)
        singles["rank"] = _ranks(units.seed, batch["prefix"][first_D[free_D]])
        singles["label"] = np.minimum.reduceat(batch["label"], first_D)[free_D]
        singles["unit"] = places.start + first_D[free_D]
        by_rank.add(singles)
    seen_L = np.zeros(len(images.names), np.int64)
    for batch in by_rank.batches():
        singles = batch[np.argsort(batch["label"], kind="stable")]
        labels = singles["label"]
        places = seen_L[labels] + np.arange(len(labels)) - np.searchsorted(labels, labels)
        units.splits_N[singles["unit"]] = TRAIN
        ends_L = np.sum([targets[split] for split in targets], axis=0)
        for split, target in targets.items():
            units.splits_N[singles["unit"][places < ends_L[labels]]] = STRICTNESS.index(split)
            ends_L = ends_L - target
        seen_L += np.bincount(labels, minlength=len(seen_L))


def _deal_groups(images: Images, units: _Units, targets: dict[Split, list[int]]) -> None:
    """Deal out groups and images without one, the largest first."""
    deal, groups = _Deal(targets), len(units.splits_G)
    for batch in _by_size(images, units):
        starts = np.flatnonzero(changes(batch["unit"])).tolist()
        numbers, labels = batch["unit"].tolist(), batch["label"].tolist()
        for start, end in pairwise([*starts, len(batch)]):
            split, unit = STRICTNESS.index(deal.take(Counter(labels[start:end]))), numbers[start]
            if unit < groups:
                units.splits_G[unit] = split
            else:
                units.splits_N[unit - groups] = split


def _by_size(images: Images, units: _Units) -> Iterator[Records]:
    """Yield units that the source gives to no other split than train, each once for every label of each image in it."""
    by_unit, by_size = Sorter(images.folder, "unit"), Sorter(images.folder, "size", "rank")
    groups = len(units.splits_G)
    for places, batch in images.batches():
        first_D, sizes_D, given_D, groups_D = units.distinct(batch)
        units.splits_N[places.start + first_D] = given_D
        np.maximum.at(units.splits_G, groups_D[groups_D >= 0], given_D[groups_D >= 0])
        found_D = np.zeros(len(first_D), UNIT)
        found_D["unit"] = np.where(groups_D >= 0, groups_D, groups + places.start + first_D)
        found_D["rank"][groups_D >= 0] = units.ranks_G[groups_D[groups_D >= 0]]
        found_D["rank"][groups_D < 0] = _ranks(units.seed, batch["prefix"][first_D[groups_D < 0]])
        found = np.repeat(found_D, sizes_D)
        found["label"] = batch["label"]
        order_M = np.lexsort((batch["label"], batch["prefix"]))
        by_unit.add(found[order_M][changes(batch["prefix"][order_M], batch["label"][order_M])])
    units.given_G[:] = units.splits_G
    for found in by_unit.batches():
        batch = found[np.lexsort((found["label"], found["unit"]))]
        sizes_U = np.diff(np.flatnonzero(changes(batch["unit"])), append=len(batch))
        batch["size"] = -np.repeat(sizes_U, sizes_U)  # the largest first
        grouped, alone = np.split(batch["unit"], [np.searchsorted(batch["unit"], groups)])
        given_M = np.concatenate([units.given_G[grouped], units.splits_N[alone - groups]])
        by_size.add(batch[given_M <= TRAIN])
    yield from by_size.batches()


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
