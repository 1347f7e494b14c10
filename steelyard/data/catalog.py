"""Catalog: what became of every item, in an SQLite file, so that memory stays the same for any number of them.

It is written as decoding goes on. A run that was killed goes on where the catalog ends, and a later run over a source
that has grown decodes what is new.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.data.files import place, printable
from steelyard.data.item import Item, Listing

CACHE_MIB = 2
SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS listings (id INTEGER PRIMARY KEY, signature TEXT UNIQUE, seen INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS items (
    id INTEGER PRIMARY KEY, listing INTEGER NOT NULL, path BLOB NOT NULL, part INTEGER NOT NULL, label TEXT NOT NULL,
    version TEXT NOT NULL, given TEXT NOT NULL, grp TEXT NOT NULL, mask BLOB NOT NULL, gone INTEGER NOT NULL,
    problem TEXT, row INTEGER,
    UNIQUE (path, part, label, given, grp)
);
CREATE INDEX IF NOT EXISTS troubled ON items (path) WHERE problem IS NOT NULL;
CREATE INDEX IF NOT EXISTS grouped ON items (grp) WHERE grp <> '';
"""
_SETTINGS = f"""
PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
PRAGMA temp_store = FILE; PRAGMA cache_size = -{CACHE_MIB * 1024};
"""
_VIEWS = """
CREATE TEMP VIEW listed AS SELECT * FROM items WHERE NOT gone;
CREATE TEMP VIEW kept AS SELECT * FROM listed WHERE row IS NOT NULL AND problem IS NULL;
CREATE TEMP VIEW quarantined AS SELECT * FROM items INDEXED BY troubled WHERE NOT gone AND problem IS NOT NULL;
"""
_LIST = """
INSERT INTO items (listing, path, part, label, version, given, grp, mask, problem, gone)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)
ON CONFLICT (path, part, label, given, grp) DO UPDATE SET
    listing = excluded.listing, mask = excluded.mask, problem = excluded.problem, gone = 0,
    row = CASE WHEN version = excluded.version THEN row END, version = excluded.version
"""
_CENSUS = """
SELECT COUNT(*) FILTER (WHERE NOT gone), COUNT(*) FILTER (WHERE NOT gone AND row IS NULL AND problem IS NULL),
    COALESCE(MAX(row) + 1, 0) FROM items
"""
_FIND = """
SELECT id, row IS NULL AND problem IS NULL FROM items
WHERE path = ? AND part = ? AND label = ? AND given = ? AND grp = ? AND version = ? AND mask = ? AND NOT gone
"""
_FORGET_TROUBLED = """
UPDATE listings SET seen = 0,
    signature = CASE WHEN id NOT IN (SELECT listing FROM quarantined) THEN signature END
"""


class Found(NamedTuple):
    """What became of an item: a problem, or a row of the pixel files."""

    id: int
    problem: str | None = None
    row: int | None = None


class Listed(NamedTuple):
    """An item that is listed."""

    id: int
    pending: bool  # still to be decoded


class Census(NamedTuple):
    """How much there is."""

    listed: int
    pending: int  # still to be decoded
    next_row: int  # the first of the pixel files that no item uses, here or in an earlier result that shares them


class Catalog:
    """The items of one dataset; `sql` answers questions about them, `kept` is the view of those in use."""

    def __init__(self, file: Path) -> None:
        self._connection = sqlite3.connect(file, isolation_level=None)
        self._connection.executescript(_SETTINGS)
        self._connection.executescript(SCHEMA)
        self._connection.executescript(_VIEWS)

    def close(self) -> None:
        """Write everything into the one file."""
        self._connection.close()

    def sql(self, query: str, *values: object) -> sqlite3.Cursor:
        """Ask, or change, with a query of one's own."""
        return self._connection.execute(query, values)

    def many(self, query: str, rows: Iterable[tuple[object, ...]]) -> None:
        """Run a query for each row, in one transaction."""
        self.sql("BEGIN")
        self._connection.executemany(query, rows)
        self.sql("COMMIT")

    def function(self, name: str, work: Callable[[Any], str | bytes]) -> None:
        """Let queries call a function of one argument."""
        self._connection.create_function(name, 1, work, deterministic=True)

    def fact(self, name: str) -> str | None:
        """Return a fact that was stated."""
        found = self.sql("SELECT value FROM facts WHERE name = ?", name).fetchone()
        return None if found is None else str(found[0])

    def state(self, name: str, value: object) -> None:
        """State a fact, in place of an earlier one."""
        self.sql("INSERT OR REPLACE INTO facts VALUES (?, ?)", name, str(value))

    def list_items(self, listings: Iterable[Listing]) -> None:
        """Take a source's list as it is now.

        What was decoded before and has not changed stays decoded. What could not be used before is looked at again.
        """
        self.sql("BEGIN")
        self.sql(_FORGET_TROUBLED)
        for signature, items in listings:
            if not self.sql("UPDATE listings SET seen = 1 WHERE signature = ?", signature).rowcount:
                self._take(signature, items)
        if self.count("listings", "NOT seen"):
            self.sql("UPDATE items SET gone = 1 WHERE listing IN (SELECT id FROM listings WHERE NOT seen)")
            self.sql("DELETE FROM listings WHERE NOT seen")
        self.sql("COMMIT")

    def _take(self, signature: str, items: Iterable[Item]) -> None:
        """Take items over from whichever listing they were in."""
        listing = self.sql("INSERT INTO listings (signature, seen) VALUES (?, 1)", signature or None).lastrowid
        rows = (
            (listing, os.fsencode(path), part, label, version, split, group, os.fsencode(mask), problem or None)
            for path, version, part, label, group, split, mask, problem in items
        )
        self._connection.executemany(_LIST, rows)

    def pending(self, chunk: int) -> Iterator[list[tuple[int, Item]]]:
        """Yield what is still to be decoded, with its id, in chunks; the parts of one file stay together."""
        last = 0
        while True:
            found = self.sql(
                "SELECT id, path, version, part, label, grp, given, mask FROM items "
                "WHERE row IS NULL AND problem IS NULL AND NOT gone AND id > ? ORDER BY id LIMIT ?",
                *(last, 8 * chunk),
            ).fetchall()
            if not found:
                return
            last = found[-1][0]
            items = ((row[0], _item(*row[1:])) for row in found)
            while part := list(islice(items, chunk)):
                yield part

    def record(self, found: Iterable[Found]) -> None:
        """Write down what became of items."""
        self.many("UPDATE items SET problem = ?2, row = ?3 WHERE id = ?1", found)

    def forget(self, lost_R: NDArray[np.bool_]) -> None:
        """Have items decoded anew whose rows are lost."""
        decoded = self.sql("SELECT id, row FROM items WHERE row IS NOT NULL")
        self.many("UPDATE items SET row = NULL WHERE id = ?", [(number,) for number, row in decoded if lost_R[row]])

    def item(self, number: int) -> Item:
        """Return an item by its id."""
        query = "SELECT path, version, part, label, grp, given, mask FROM items WHERE id = ?"
        return _item(*self.sql(query, number).fetchone())

    def find(self, item: Item) -> Listed | None:
        """Return what is known of an item, if it is listed as it is."""
        path, version, part, label, group, split, mask, _ = item
        found = self.sql(_FIND, os.fsencode(path), part, label, split, group, version, os.fsencode(mask)).fetchone()
        return None if found is None else Listed(*found)

    def named(self, ids: Iterable[int]) -> str:
        """Return items as text: where each is and, in brackets, its label or mask."""
        query = "SELECT path, part, label, mask FROM items WHERE id = ?"
        found = sorted(self.sql(query, one).fetchone() for one in ids)
        return " and ".join(
            f"{place(path, part)} ({label or printable(os.fsdecode(mask))})" for path, part, label, mask in found
        )

    def count(self, view: str, condition: str = "1") -> int:
        """Count the rows of a view or table."""
        return int(self.sql(f"SELECT COUNT(*) FROM {view} WHERE {condition}").fetchone()[0])

    def census(self) -> Census:
        """Return how much there is."""
        listed, pending, rows = self.sql(_CENSUS).fetchone()
        return Census(listed, pending, max(rows, int(self.fact("rows") or 0)))

    def last_id(self) -> int:
        """Return the highest id of an item, 0 where there are none."""
        return int(self.sql("SELECT COALESCE(MAX(id), 0) FROM items").fetchone()[0])

    def unused(self) -> Iterator[int]:
        """Yield the ids of items whose pixels are not in use."""
        for (number,) in self.sql("SELECT id FROM items WHERE gone OR problem IS NOT NULL OR row IS NULL"):
            yield number


def settings_of(file: Path) -> str | None:
    """Return the settings that a catalog was made with; None where there is none that can be read."""
    if not file.exists():
        return None
    with closing(sqlite3.connect(file)) as connection, suppress(sqlite3.Error):
        found = connection.execute("SELECT value FROM facts WHERE name = 'settings'").fetchone()
        return None if found is None else str(found[0])
    return None


def _item(path: bytes, version: str, part: int, label: str, group: str, split: str, mask: bytes) -> Item:
    return Item(os.fsdecode(path), version, part, label, group, split, os.fsdecode(mask))
