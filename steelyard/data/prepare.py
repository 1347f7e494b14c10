"""Source -> Dataset: list, decode, deal out into splits, look for leaks, write."""

import json
import logging
import math
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Literal

import numpy as np

from steelyard.data.card import write_card
from steelyard.data.catalog import SCHEMA, Catalog
from steelyard.data.dataset import PIXELS, SPLITS, Dataset, DatasetIndex, Quarantined
from steelyard.data.files import place
from steelyard.data.images import FACTS, Images
from steelyard.data.kept import Kept, Place
from steelyard.data.layout import Tally, move_to_shards, write_rows
from steelyard.data.near import find_near
from steelyard.data.sources.choose import open_source
from steelyard.data.splits import check_classes, check_splits, deal_out
from steelyard.data.warnings import warnings
from steelyard.data.workers import Job, Pixels, decode_pending, processes
from steelyard.data.workspace import workspace
from steelyard.errors import SourceError
from steelyard.params import Data
from steelyard.process import boot_id
from steelyard.store import ObjectStore, is_remote, needed

log = logging.getLogger(__name__)

NAMED = 5  # of the files that can't be used
ARRAY_BYTES = 2**33  # of pixels; more of them are streamed
DECODER = 4  # counted up when decoding gives other pixels or fingerprints than before


def prepare(
    data: Data,
    task: str,
    folder: Path,
    store: ObjectStore | None = None,
    workers: int | None = None,
    kept_at: str = "",
) -> Dataset:
    """Decode a source once and write it as a Dataset.

    The splits are stratified and depend on pixels, groups and the seed alone: neither the order nor the names of the
    files matter. What was decoded is kept when the work is cut off, and beside the result: another call with the same
    folder goes on there, and decodes only what is new.

    Args:
        data: what to prepare.
        task: "classification" or "segmentation".
        folder: where the Dataset goes; replaced when all is written.
        store: for s3:// addresses.
        workers: processes that decode; if not given, one for each processor, and at most 8.
        kept_at: an s3:// address, if what is decoded of a source in the store is kept there, for preparations in other
            folders.

    Raises:
        SourceError: nothing to prepare, too many unreadable files, or a class too small to be split.
        StoreError: the object store does not answer.
    """
    source, masks = open_source(data, store), tuple(data.masks.classes) if data.masks else ()
    settings = _settings(data)
    with workspace(folder, settings, store) as (partial, catalog):
        job = Job(source=source, folder=partial, shape=data.shape, classes=len(masks))
        place = Place(needed(store, kept_at), kept_at, settings) if kept_at and is_remote(data.address) else None
        _decode(job, catalog, data.max_quarantined, workers or processes(), place)
        images = Images.of(catalog, partial, data.group, masks=bool(masks))
        least = 1 if any(images.given) else len(SPLITS)
        classes = masks or tuple(check_classes(_distinct(images), least))
        dealt = deal_out(images, catalog, data.split)
        images.near_N = find_near(images, dealt.splits_N)
        removed_N = (images.near_N >= 0) & (data.near_duplicates == "remove")
        images.splits_N = np.where(removed_N, 0, dealt.splits_N).astype(np.int8)
        tally = write_rows(images, classes, data.shape)
        check_splits(tally.images, {} if masks else tally.counts, images.given, bool(images.groups))
        index = _index(data, task, classes, catalog, tally, images, warnings(images, dealt, tally, data, catalog))
        write_card(index, images, catalog, tally)
        if index.layout == "shards":
            index = _in_shards(index, partial, data.shards, store)
        index.write(partial / "dataset.json")
        for array in PIXELS if index.layout == "shards" else ():
            (partial / array).unlink(missing_ok=True)
    sizes = ", ".join(f"{index.images[split]} {split}" for split in SPLITS)
    groups = f" in {index.groups} groups" if index.groups else ""
    bad = f"; quarantined: {len(index.quarantined)}, see the data card" if index.quarantined else ""
    log.info("prepared %s: %d classes; %s%s%s", data.source, len(classes), sizes, groups, bad)
    for warning in index.warnings:
        log.warning("%s", warning)
    return Dataset(folder, store)


def _settings(data: Data) -> str:
    """Return what decides the pixels and how they are kept: where it changed, nothing from before is of use."""
    chosen = data.model_dump(mode="json", include={"source", "root", "masks", "tiles"})
    files = {"catalog": SCHEMA, "facts": FACTS.descr}
    return json.dumps({**chosen, "shape": data.shape, "decoder": DECODER, **files}, sort_keys=True)


def _decode(job: Job, catalog: Catalog, allowed: float, workers: int, place: Place | None) -> None:
    """List the source and decode what is new; stop where too much of it is bad."""
    catalog.list_items(job.source.listings())
    pixels = Pixels(job.folder, job.shape, job.classes)
    if catalog.fact("boot") not in (None, boot_id()):  # a power cut may have taken what was not on the disk yet
        log.info("the machine was started anew: looking whether all that was decoded is still there")
        catalog.forget(pixels.lost(catalog.census().next_row))
    catalog.state("boot", boot_id())
    listed, pending, row = catalog.census()
    pixels.items.cut(row)
    with closing(Kept(place, pixels, catalog, row)) as kept:
        if pending and kept.restore():
            listed, pending, row = catalog.census()
        bad = catalog.count("quarantined")
        with closing(decode_pending(job, catalog, pending, row, workers)) as decoding:
            for more, written in decoding:
                kept.keep(written)
                bad += more
                if _too_many(bad, listed, allowed):
                    break
    _refuse_too_many(catalog, listed, allowed)
    pixels.close(row + pending)
    catalog.state("rows", row + pending)


def _too_many(bad: int, listed: int, allowed: float) -> bool:
    """Return whether more than the allowed share is bad: 29 of 100 are 0.29, but 0.29 * 100 is less than 29."""
    return bad > 0 and bad / listed > allowed


def _refuse_too_many(catalog: Catalog, listed: int, allowed: float) -> None:
    bad = catalog.count("quarantined")
    if _too_many(bad, listed, allowed):
        found = catalog.sql(f"SELECT path, part, problem FROM quarantined ORDER BY path, part LIMIT {NAMED}")
        named = "; ".join(f"{place(path, part)} {problem}" for path, part, problem in found)
        raise SourceError(
            f"data.max_quarantined: {bad} of {listed} files can't be used, more than the allowed share of {allowed:g}; "
            f"take them out, or allow more: {named}{'; ...' * (bad > NAMED)}"
        )


def _distinct(images: Images) -> dict[str, int]:
    return dict(zip(images.names, images.per_label().tolist(), strict=True))


def _index(
    data: Data, task: str, classes: tuple[str, ...], catalog: Catalog, tally: Tally, images: Images, said: Iterable[str]
) -> DatasetIndex:
    quarantined = catalog.sql("SELECT path, part, problem FROM quarantined ORDER BY path, part")
    return DatasetIndex(
        task=task,
        classes=classes,
        image_shape=data.shape,
        source=data.source,
        content_digest=tally.content_digest,
        split_digest=tally.split_digest,
        evaluation_digest=tally.evaluation_digest,
        images={split: tally.images[split] for split in SPLITS},
        counts={split: dict(tally.counts[split]) for split in SPLITS},
        quarantined=tuple(Quarantined(path=place(path, part), reason=why) for path, part, why in quarantined),
        groups=images.groups,
        duplicates=tally.duplicates,
        conflicting_labels=tally.conflicting.count,
        near_duplicates=int(np.count_nonzero(images.near_N >= 0)),
        near_removed=data.near_duplicates == "remove",
        warnings=tuple(said),
        layout=_layout(data, tally),
    )


def _layout(data: Data, tally: Tally) -> Literal["arrays", "shards"]:
    if data.layout != "auto":
        return data.layout
    size = sum(tally.images.values()) * math.prod(data.shape)
    return "shards" if data.shards or size > ARRAY_BYTES else "arrays"


def _in_shards(index: DatasetIndex, folder: Path, address: str, store: ObjectStore | None) -> DatasetIndex:
    """Write the images as shards."""
    labelled = index.task == "classification"
    at = f"{address.rstrip('/')}/{index.split_digest[:16]}" if address else ""
    pixels = Pixels(folder, index.image_shape, 0 if labelled else len(index.classes))
    names = move_to_shards(folder, pixels, labelled, at, store)
    pixels.close()
    return index.model_copy(update={"shards": names, "shards_at": at})
