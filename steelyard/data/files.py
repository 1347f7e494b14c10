"""Files below an address: what is there, whether it changed, and its bytes; on this machine or in an object store."""

import io
import os
import posixpath
import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import IO, NamedTuple, Protocol
from zlib import crc32

from steelyard.errors import SourceError, UnreadableImage
from steelyard.store import ObjectStore, is_remote, needed

LITTER = ("Thumbs.db", "desktop.ini")  # of Windows; that of others begins with '.'
MAX_FILE_MIB = 256  # of an image: the 50 megapixels that are decoded have 191 as RGBA without compression
MOST_TOGETHER, CUTS = 2**14, 2**8  # of the files of a folder; one in so many ends what is listed together


class Entry(NamedTuple):
    """A file, or what stands in the place of one."""

    path: str  # below the address, with '/'; bytes that are not UTF-8 as surrogate escapes, like Python's own
    version: str  # changes when the bytes change
    problem: str = ""  # why it can't be read


class Files(Protocol):
    """What lies below one address."""

    @property
    def address(self) -> str:
        """For messages."""

    def walk(self) -> Iterator[list[Entry]]:
        """Yield every file but LITTER and those with a '.' first; those of a folder together, MOST_TOGETHER at most.

        Their order is that of the folder. Larger folders are cut behind files whose names say so (content-defined
        chunking, Muthitacharoen et al. 2001): a file more or less changes one part alone.
        """

    def folders(self) -> Iterator[str]:
        """Yield the names of the folders at the top, but for those that begin with '.'."""

    def below(self, folder: str) -> "Files":
        """Return what lies below a folder."""

    def entries(self) -> AbstractContextManager[Callable[[str], Entry]]:
        """Yield what returns the file at a path; one that does not exist has no version.

        Raises:
            SourceError: there is no such bucket.
            StoreError: the store does not answer.
        """

    def open(self, path: str) -> AbstractContextManager[IO[bytes]]:
        """Open a file for reading.

        Raises:
            SourceError: it is not there.
            StoreError: the store does not answer.
        """

    def read(self, path: str, most_mib: float = MAX_FILE_MIB) -> bytes:
        """Return a file's bytes.

        Raises:
            UnreadableImage: it can't be read, or is larger than `most_mib`.
            StoreError: the store does not answer.
        """


def files_at(address: str, store: ObjectStore | None, key: str = "data.source") -> Files:
    """Open an address that a key of params.yaml gives.

    Raises:
        SourceError: a local folder that does not exist, or an address in a store that is not set up.
    """
    if is_remote(address):
        return RemoteFiles(needed(store, address), address)
    folder = Path(address).expanduser()
    if not folder.is_dir():
        raise SourceError(f"{key}: {address!r} is no existing folder")
    return LocalFiles(str(folder))


@lru_cache(maxsize=1024)  # the folders of an image are those of thousands
def printable(path: str) -> str:
    """Return a path as text, with bytes that are not UTF-8 as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def place(path: bytes, part: int) -> str:
    """Return where an item is, for people: its path and, of a file that holds several, which."""
    return printable(os.fsdecode(path)) + (f"#{part}" if part else "")


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """A folder. Symbolic links are followed; a link back to a folder above is reported instead."""

    address: str

    def walk(self) -> Iterator[list[Entry]]:
        """Yield every file below the folder."""
        waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
        while waiting:
            below, above = waiting.pop()
            try:
                with _opened(os.path.join(self.address, below)) as folder:
                    here = os.fstat(folder)
                    if (here.st_dev, here.st_ino) in above:
                        yield [Entry(below, "", "is a symbolic link to a folder above it")]
                        continue
                    inside = (*above, (here.st_dev, here.st_ino))
                    folders: list[str] = []
                    entries = _entries(folder, f"{below}/" if below else "", folders)
                    yield from _cut(entries)
                    waiting += ((path, inside) for path in folders)
            except OSError as error:
                yield [Entry(below, "", f"can't be opened: {error.strerror}")]

    def folders(self) -> Iterator[str]:
        """Yield the names of the folders at the top."""
        with os.scandir(self.address) as entries:
            yield from (found.name for found in entries if _is_folder(found) and not found.name.startswith("."))

    def below(self, folder: str) -> "LocalFiles":
        """Return what lies below a folder."""
        return LocalFiles(os.path.join(self.address, folder))

    @contextmanager
    def entries(self) -> Iterator[Callable[[str], Entry]]:
        """Yield what returns the file at a path."""
        yield lambda path: _entry(path, Path(self.address, path))

    @contextmanager
    def open(self, path: str) -> Iterator[IO[bytes]]:
        """Open a file for reading."""
        try:
            with open(os.path.join(self.address, path), "rb") as stream:
                yield stream
        except OSError as error:
            raise SourceError(f"data.source: {self.address}/{path}: {error.strerror}") from None

    def read(self, path: str, most_mib: float = MAX_FILE_MIB) -> bytes:
        """Return a file's bytes."""
        try:
            with open(os.path.join(self.address, path), "rb", buffering=0) as stream:
                _check_size(os.fstat(stream.fileno()).st_size, most_mib)
                return stream.read()
        except OSError as error:
            raise UnreadableImage(f"can't be read: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class RemoteFiles:
    """A prefix of an object store."""

    store: ObjectStore
    address: str

    def walk(self) -> Iterator[list[Entry]]:
        """Yield every object below the prefix."""
        entries = (Entry(*found) for found in self.store.walk(self.address) if not _is_litter(found[0]))
        for _, together in groupby(entries, key=lambda entry: entry.path.rpartition("/")[0]):
            yield from _cut(together)

    def folders(self) -> Iterator[str]:
        """Yield the first parts of the objects' names."""
        yield from (name for name in self.store.folders(self.address) if not name.startswith("."))

    def below(self, folder: str) -> "RemoteFiles":
        """Return what lies below a folder."""
        return RemoteFiles(self.store, f"{self.address.rstrip('/')}/{folder}")

    @contextmanager
    def entries(self) -> Iterator[Callable[[str], Entry]]:
        """Yield what returns the object at a path: all are listed at once, as asking for each would cost a request."""
        with closing(sqlite3.connect("")) as listed:  # a temporary file, of which little is in memory
            listed.execute("CREATE TABLE objects (path TEXT PRIMARY KEY, version TEXT) WITHOUT ROWID")
            listed.executemany("INSERT INTO objects VALUES (?, ?)", self.store.walk(self.address))

            def entry(path: str) -> Entry:
                if (key := posixpath.normpath(path)).startswith("../"):
                    return Entry(
                        path, "", "lies outside the folder of the manifest, where a store is not looked through"
                    )
                found = listed.execute("SELECT version FROM objects WHERE path = ?", (key,)).fetchone()
                return Entry(path, found[0] if found else "")

            yield entry

    @contextmanager
    def open(self, path: str) -> Iterator[IO[bytes]]:
        """Open an object for reading."""
        with self.store.stream(f"{self.address.rstrip('/')}/{path}") as response:
            response.auto_close = False  # type: ignore[attr-defined]  # or the wrapper finds it closed at its end
            yield io.BufferedReader(response)  # type: ignore[type-var]

    def read(self, path: str, most_mib: float = MAX_FILE_MIB) -> bytes:
        """Return an object's bytes."""
        try:
            with self.store.stream(f"{self.address.rstrip('/')}/{posixpath.normpath(path)}") as response:
                _check_size(int(response.headers["Content-Length"]), most_mib)  # type: ignore[attr-defined]
                return response.read()
        except SourceError:
            raise UnreadableImage("does not exist") from None


def _is_litter(path: str) -> bool:
    return "/." in f"/{path}" or path.rpartition("/")[2] in LITTER


def _check_size(size: int, most_mib: float) -> None:
    if size > most_mib * 2**20:
        raise UnreadableImage(f"is larger than {most_mib} MiB")


@contextmanager
def _opened(folder: str) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _cut(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    together: list[Entry] = []
    for entry in entries:
        together.append(entry)
        if not crc32(entry.path.encode("utf-8", "surrogateescape")) % CUTS or len(together) == MOST_TOGETHER:
            yield together
            together = []
    if together:
        yield together


def _entries(folder: int, prefix: str, folders: list[str]) -> Iterator[Entry]:
    """Yield the files of a folder, and collect the folders in it."""
    with os.scandir(folder) as found:
        for one in found:
            name = one.name
            if name.startswith(".") or name in LITTER:
                continue
            path = prefix + name
            if _is_folder(one):
                folders.append(path)
            else:
                yield _entry(path, one)


def _is_folder(found: "os.DirEntry[str]") -> bool:
    try:
        return found.is_dir()
    except OSError:  # a link to itself
        return False


def _entry(path: str, found: "os.DirEntry[str] | Path") -> Entry:
    try:
        status = found.stat()
    except OSError as error:
        return Entry(path, "", f"can't be opened: {error.strerror}")
    except ValueError:  # a zero byte
        return Entry(path, "", "can't be opened: no file has such a name")
    if not stat.S_ISREG(status.st_mode):
        return Entry(path, "", "is not a regular file")
    return Entry(path, f"{status.st_size}:{status.st_mtime_ns}")
