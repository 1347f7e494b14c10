"""`images/` and `masks/` matched by name: single files, TIFF stacks page by page, large rasters tile by tile."""

import os
import shutil
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import lru_cache
from itertools import chain, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from steelyard.data.decode import FORMATS, TIFF, Upright, Wait, decode_sized, one_at_a_time, pages, resize, upright
from steelyard.data.files import MAX_FILE_MIB, Entry, Files, RemoteFiles, printable
from steelyard.data.item import SPLIT_NAMES, Item, Listing, Sample, Shape, Source
from steelyard.data.sources.folders import IMAGE_SUFFIXES, signature_of
from steelyard.errors import MissingExtra, SourceError, UnreadableImage
from steelyard.params import Masks, Tiles

SIDECARS = (".tfw", ".jgw", ".pgw", ".wld", ".prj", ".aux.xml", ".ovr")  # of rasters: where on earth they are
MAX_STACK_MIB = 1024  # of a TIFF of many pages, which is read whole; tiles are for more
CACHE_MIB = 64  # of decoded blocks, in each process: tiles side by side share a row of them
IGNORED = 255  # in a prepared mask: a pixel that counts for nothing
_STRIP_PIXELS = 2**18  # of a mask that are looked up at a time

_HALVES = """
CREATE TABLE halves (
    kind TEXT, name BLOB, path BLOB, version TEXT, problem TEXT, number INTEGER PRIMARY KEY, UNIQUE (kind, name)
)
"""
_KEEP = "INSERT OR IGNORE INTO halves (kind, name, path, version, problem) VALUES (?, ?, ?, ?, ?)"
_PAIRS = """
SELECT image.name, image.path, image.version, image.problem, mask.path, mask.version, mask.problem
FROM halves AS image LEFT JOIN halves AS mask ON mask.kind = 'masks' AND mask.name = image.name
WHERE image.kind = 'images' ORDER BY image.number
"""
_ALONE = """
SELECT name, path, version, problem FROM halves AS mask
WHERE kind = 'masks' AND NOT EXISTS (SELECT 1 FROM halves WHERE kind = 'images' AND name = mask.name) ORDER BY number
"""


class Pairs(Source):
    """`images/NAME.*` with `masks/NAME.*`, or both below `train`, `validation` and `test`."""

    parallel = True

    def __init__(self, files: Files, masks: Masks, tiles: Tiles | None) -> None:
        self.files, self.tiles = files, tiles
        self.remote = isinstance(files, RemoteFiles)
        self.threads = self.remote and not tiles  # a raster is read by one
        self._table = _Table(masks)
        self._pages = _Windows(files, tiles, self._table.colored) if tiles else _Pages(files, self._table.colored)

    def items(self) -> Iterator[Item]:
        """Yield every pair, page and tile; what lacks its other half comes with that problem."""
        return chain.from_iterable(listing.items for listing in self.listings())

    def listings(self) -> Iterator[Listing]:
        """Yield the items of each TIFF apart: it is opened to count its pages, unless it is known."""
        with closing(sqlite3.connect("")) as halves:  # a temporary file, of which little is in memory
            halves.execute(_HALVES)
            yield Listing("", self._unopened(halves))
            for name, image, mask in _pairs(halves):
                if image.path.lower().endswith(TIFF):
                    signature = signature_of({name: ""}, [image, *([mask] if mask else [])])
                    yield Listing(signature, self._parts(name, image, mask))

    def _unopened(self, halves: sqlite3.Connection) -> Iterator[Item]:
        """Look through the folders, and yield all but the TIFFs."""
        for entry in chain.from_iterable(self.files.walk()):
            yield from _take(halves, entry)
        if not halves.execute("SELECT 1 FROM halves WHERE kind = 'images'").fetchone():
            raise SourceError(f"data.source: {self.files.address!r} needs the folders images and masks, with files")
        for name, image, mask in _pairs(halves):
            if not image.path.lower().endswith(TIFF):
                yield from self._parts(name, image, mask)
        for name, path, version, problem in halves.execute(_ALONE):
            there = problem or f"there is no image {os.fsdecode(name)!r}"
            yield Item(path=os.fsdecode(path), version=version, problem=there)

    def _parts(self, name: str, image: Entry, mask: Entry | None) -> Iterator[Item]:
        item = Item(
            path=image.path,
            version=f"{image.version}/{mask.version if mask else ''}",
            split=SPLIT_NAMES.get(name.partition("/")[0].lower(), "") if "/" in name else "",
            mask=mask.path if mask else "",
            problem=image.problem or (mask.problem if mask else "has no mask"),
        )
        try:
            groups = [""] if item.problem else self._pages.groups(item)
        except UnreadableImage as error:
            item, groups = item._replace(problem=str(error)), [""]
        for part, group in enumerate(groups):
            yield item._replace(part=part, group=group)

    def load(self, item: Item, shape: Shape) -> Sample:
        """Decode one page or tile with its mask."""
        image, mask = self._pages.read(item, shape)
        mask_HW = Image.fromarray(self._table.indices(mask))
        mask_HW = mask_HW.resize((shape[1], shape[0]), Image.Resampling.NEAREST)
        return Sample(image.pixels_HWC, image.width, image.height, np.asarray(mask_HW))


def _take(halves: sqlite3.Connection, entry: Entry) -> Iterator[Item]:
    """Keep an image or a mask; yield what is neither, and of two with one name the second, with that problem."""
    folders = entry.path.split("/")
    kind = next((folder for folder in folders[:2] if folder in ("images", "masks")), None)
    if kind is None:
        if entry.problem or entry.path.lower().endswith(IMAGE_SUFFIXES):
            yield Item(path=entry.path, version=entry.version, problem=entry.problem or "is neither image nor mask")
        return
    if entry.path.lower().endswith(SIDECARS):
        return
    folders.remove(kind)
    name = os.fsencode(os.path.splitext("/".join(folders))[0])
    if halves.execute(_KEEP, (kind, name, os.fsencode(entry.path), entry.version, entry.problem)).rowcount:
        return
    found = halves.execute("SELECT path, version, problem FROM halves WHERE kind = ? AND name = ?", (kind, name))
    first, second = sorted([entry, _entry(*found.fetchone())], key=_images_first)
    halves.execute(
        "UPDATE halves SET path = ?, version = ?, problem = ? WHERE kind = ? AND name = ?",
        (os.fsencode(first.path), first.version, first.problem, kind, name),
    )
    yield Item(path=second.path, version=second.version, problem=f"{printable(first.path)} has the same name")


def _pairs(halves: sqlite3.Connection) -> Iterator[tuple[str, Entry, Entry | None]]:
    """Yield the name of each image, the image and its mask, where there is one."""
    for name, *image, path, version, problem in halves.execute(_PAIRS):
        yield os.fsdecode(name), _entry(*image), None if path is None else _entry(path, version, problem)


def _images_first(entry: Entry) -> tuple[bool, str]:
    """Return what sorts files named as images before others, each by path."""
    return not entry.path.lower().endswith(IMAGE_SUFFIXES), entry.path


def _entry(path: bytes, version: str, problem: str) -> Entry:
    return Entry(os.fsdecode(path), version, problem)


class _Table:
    """A mask's values or colours -> indices into the classes."""

    def __init__(self, masks: Masks) -> None:
        values = list(masks.classes.values())
        self.colored = not isinstance(values[0], int)
        indices = list(range(len(values)))
        if masks.ignore is not None:
            values, indices = [*values, masks.ignore], [*indices, IGNORED]
        codes = np.array([_code(value) for value in values])
        order = codes.argsort()
        self._codes, self._indices = codes[order], np.array(indices, np.uint8)[order]

    def indices(self, mask: NDArray[Any]) -> NDArray[np.uint8]:
        """Return (H, W) uint8 of a mask (H, W) of values, or (H, W, 3) of colours."""
        rows = max(1, _STRIP_PIXELS // mask.shape[1])
        return np.concatenate([self._strip(mask[top : top + rows]) for top in range(0, len(mask), rows)])

    def _strip(self, mask: NDArray[Any]) -> NDArray[np.uint8]:
        if mask.dtype.kind == "f" and not np.array_equal(mask, np.rint(mask)):
            raise UnreadableImage("its mask has values that are not whole")
        codes_HW = mask.astype(np.int64)
        if self.colored:
            codes_HW = codes_HW @ np.array([65536, 256, 1]) if mask.ndim == 3 else codes_HW * 0x010101  # grey
        elif mask.ndim == 3:
            if (mask != mask[:, :, :1]).any():
                raise UnreadableImage("its mask has colours, where data.masks has values")
            codes_HW = codes_HW[:, :, 0]
        found_HW = np.searchsorted(self._codes, codes_HW).clip(max=len(self._codes) - 1)
        unknown_HW = self._codes[found_HW] != codes_HW
        if unknown_HW.any():
            worst = int(codes_HW[unknown_HW][0])
            said = [worst >> 16, worst >> 8 & 255, worst & 255] if self.colored else worst
            raise UnreadableImage(f"its mask has the value {said}, which data.masks lacks")
        indices_HW: NDArray[np.uint8] = self._indices[found_HW]
        return indices_HW


def _code(value: int | tuple[int, int, int]) -> int:
    return value if isinstance(value, int) else value[0] << 16 | value[1] << 8 | value[2]


class _Stack(NamedTuple):
    data: bytes
    pages: list[int]


class _Pages:
    """Files of one page, and TIFF stacks of several, through Pillow."""

    def __init__(self, files: Files, colored: bool) -> None:
        self._files, self._colored = files, colored
        self._stacks: dict[str, _Stack] = {}

    def groups(self, item: Item) -> list[str]:
        """Return "" for each page; only a TIFF is opened for it."""
        if not item.path.lower().endswith(TIFF):
            return [""]
        found, masks = (len(pages(self._bytes(path))) for path in (item.path, item.mask))
        if found != masks:
            raise UnreadableImage(f"has {found} pages, its mask {masks}")
        return [""] * found

    def read(self, item: Item, shape: Shape) -> tuple[Sample, NDArray[Any]]:
        """Return the image in its shape, and the mask as it is."""
        (images, number), (masks, mask_number) = self._page(item.path, item), self._page(item.mask, item)
        with one_at_a_time() as if_large:
            image, mask = decode_sized(images, shape, number, if_large), _mask(masks, mask_number, if_large)
        if image.turned != mask.turned:
            raise UnreadableImage("image and mask are turned differently, by the EXIF note of one of them")
        if (image.width, image.height) != (mask.width, mask.height):
            raise UnreadableImage(f"has {image.width} x {image.height} pixels, its mask {mask.width} x {mask.height}")
        return Sample(*image[:3]), _values(mask.image, self._colored)

    def _page(self, path: str, item: Item) -> tuple[bytes, int]:
        """Return a file and the number of a page in it; a TIFF is read once for all of its pages."""
        if not path.lower().endswith(TIFF):
            return self._bytes(path), 0
        if (stack := self._stacks.get(path)) is None:
            data = self._bytes(path)
            stack = _Stack(data, pages(data))
            others = {one: known for one, known in self._stacks.items() if one in (item.path, item.mask)}
            self._stacks = {**others, path: stack}
        return stack.data, stack.pages[item.part]

    def _bytes(self, path: str) -> bytes:
        return self._files.read(path, MAX_STACK_MIB if path.lower().endswith(TIFF) else MAX_FILE_MIB)


def _mask(data: bytes, page: int, if_large: Wait) -> Upright:
    try:
        return upright(data, page, if_large)
    except UnreadableImage as error:
        raise UnreadableImage(f"its mask {error}") from None


def _values(mask: Image.Image, colored: bool) -> NDArray[Any]:
    """Return the values of a mask or, where they are colours, these; how opaque a pixel is does not matter."""
    if mask.mode == "1":
        mask = mask.convert("L")
    elif mask.mode in ("RGBA", "CMYK", "YCbCr") or (mask.mode in ("P", "PA") and colored):
        mask = mask.convert("RGB")
    elif mask.mode in ("LA", "PA"):
        mask = mask.getchannel(0)
    return np.asarray(mask)


class _Windows:
    """Tiles of rasters that need not fit into memory, through GDAL (rasterio); of a stack, page by page."""

    def __init__(self, files: Files, tiles: Tiles, colored: bool) -> None:
        self._files, self._tiles, self._colored = files, tiles, colored
        self._path, self._pages = "", list[tuple[Any, Any]]()

    def groups(self, item: Item) -> list[str]:
        """Return for each tile, page by page, a name that it has in common with those that show some of its pixels."""
        size, path = self._tiles.size, printable(item.path)
        groups = []
        for page, (image, _) in enumerate(self._opened(item)):
            shared = any(length > size and length % size for length in image.shape)
            for top, left in _corners(image.shape, self._tiles):
                place = f"{path}#{page}:{top // size},{left // size}" if shared else ""  # of two tiles at a far edge
                groups.append(path if self._tiles.overlap else place)
        self._path, self._pages = "", []  # processes that are forked from this one must not share its open files
        return groups

    def read(self, item: Item, shape: Shape) -> tuple[Sample, NDArray[Any]]:
        """Return one tile in its shape, and its mask as it is."""
        part = item.part
        for pair in self._opened(item):
            corners = _corners(pair[0].shape, self._tiles)
            if part < len(corners):
                break
            part -= len(corners)
        (image, mask), (top, left) = pair, corners[part]
        rows = (top, min(top + self._tiles.size, image.height))
        window = (rows, (left, min(left + self._tiles.size, image.width)))
        try:
            with _gdal():
                pixels_CHW, values_CHW = image.read(window=window), mask.read(window=window)
        except Exception:  # rasterio's own errors, of which it has many
            raise UnreadableImage("is damaged or cut short") from None
        pixels_HWC = _pixels(image, pixels_CHW)
        height, width = pixels_HWC.shape[:2]
        return Sample(resize(pixels_HWC, shape), width, height), _raster_values(mask, values_CHW, self._colored)

    def _opened(self, item: Item) -> list[tuple[Any, Any]]:
        """Return image and mask of each page; those of one file stay open until the next is asked for."""
        if self._path != item.path:
            self._path = ""
            images, masks = map(self._rasters, (item.path, item.mask))
            if len(images) != len(masks):
                raise UnreadableImage(f"has {len(images)} pages, its mask {len(masks)}")
            for image, mask in zip(images, masks, strict=True):
                if image.shape != mask.shape:
                    size = f"{image.width} x {image.height}"
                    raise UnreadableImage(f"has {size} pixels, its mask {mask.width} x {mask.height}")
            self._path, self._pages = item.path, list(zip(images, masks, strict=True))
        return self._pages

    def _rasters(self, path: str) -> list[Any]:
        """Open a file's pages; what lies in a store is copied to this disk, where it is gone when they are closed."""
        if not isinstance(self._files, RemoteFiles):
            return _raster_pages(f"{self._files.address}/{path}")
        with TemporaryDirectory() as folder, self._files.open(path) as stream:
            copy = Path(folder, f"raster{Path(path).suffix}")
            with copy.open("wb") as file:
                shutil.copyfileobj(stream, file)
            return _raster_pages(str(copy))


def _gdal() -> Any:
    """Return the context that GDAL works in: its cache would else take a twentieth of the machine's memory."""
    try:
        import rasterio
    except ImportError:
        raise MissingExtra("rasterio", "rasters") from None
    return rasterio.Env(GDAL_CACHEMAX=CACHE_MIB)


def _raster_pages(file: str) -> list[Any]:
    with _gdal(), warnings.catch_warnings():
        import rasterio

        warnings.simplefilter("ignore")  # of a raster that lies nowhere on earth, say; what can't be read raises
        if _is_turned(file):
            raise UnreadableImage("is turned by its EXIF note, or its mask is, which tiles do not follow")
        try:
            first = rasterio.open(file)
            return [rasterio.open(page) for page in first.subdatasets] or [first]
        except rasterio.errors.RasterioError:
            raise UnreadableImage("is no raster, or its mask is none") from None
        except UnicodeEncodeError:
            raise UnreadableImage("has a name that is not UTF-8, which tiles need") from None


def _is_turned(file: str) -> bool:
    with suppress(Exception), Image.open(file, formats=FORMATS) as image:  # GDAL reads more than Pillow does
        return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    return False


@lru_cache(maxsize=2)
def _corners(size: tuple[int, int], tiles: Tiles) -> list[tuple[int, int]]:
    """Return the top left corners of tiles that cover (height, width); the last ones end at the edge."""
    step = tiles.size - tiles.overlap
    starts = [[*range(0, max(1, length - tiles.size), step), max(0, length - tiles.size)] for length in size]
    return list(product(*(sorted(set(one)) for one in starts)))


def _pixels(raster: Any, bands_CHW: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a window of a raster in grey or in colours and, where it says so, how opaque these are."""
    if _has_palette(raster):
        return _colours(raster, bands_CHW[0])
    alpha = _alpha(raster)
    colours = 3 if raster.count - len(alpha) >= 3 else 1
    return _as_bytes(np.moveaxis(bands_CHW[[*range(colours), *alpha[:1]]], 0, 2))


def _raster_values(raster: Any, bands_CHW: NDArray[Any], colored: bool) -> NDArray[Any]:
    """Return a window of a mask in values or, where they are colours, these."""
    if colored and _has_palette(raster):
        return _colours(raster, bands_CHW[0])[:, :, :3]
    channels = raster.count - len(_alpha(raster))
    if channels == 2:
        raise UnreadableImage("its mask has two channels, which are neither a value nor a colour")
    return bands_CHW[0] if channels == 1 else np.moveaxis(bands_CHW[:3], 0, 2)


def _alpha(raster: Any) -> list[int]:
    """Return which of the bands say how opaque the others are."""
    return [band for band, kind in enumerate(raster.colorinterp) if kind.name == "alpha"]


def _has_palette(raster: Any) -> bool:
    return bool(raster.colorinterp[0].name == "palette")


def _colours(raster: Any, values_HW: NDArray[Any]) -> NDArray[np.uint8]:
    """Return red, green, blue and opacity of values that stand for colours; black for one that has none."""
    palette = np.tile(np.array([0, 0, 0, 255], np.uint8), (np.iinfo(values_HW.dtype).max + 1, 1))
    for value, colour in raster.colormap(1).items():
        palette[value] = colour
    return palette.take(values_HW, axis=0)


def _as_bytes(pixels_HWC: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels_HWC.dtype == np.uint8:
        return pixels_HWC
    if pixels_HWC.dtype == np.uint16:
        return (pixels_HWC >> 8).astype(np.uint8)
    raise UnreadableImage(f"has pixels of kind {pixels_HWC.dtype}, which have no one reading as 8 bits")
