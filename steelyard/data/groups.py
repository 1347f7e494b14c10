"""Groups: images that never straddle splits, such as those of one patient; kept in the catalog, by number."""

import os
import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from steelyard.data.catalog import Catalog
from steelyard.data.files import printable
from steelyard.errors import SourceError


def number_groups(catalog: Catalog, expression: str) -> NDArray[np.int32]:
    """Number the groups of what is in use by their names, from 0 on.

    Args:
        catalog: where the images came from.
        expression: regular expression; what it finds in a path (its first bracket, where it has one) is the image's
            group, in place of the one that the source gives.

    Returns:
        The number of each item's group, by the item's id; -1 where it has none.

    Raises:
        SourceError: the expression fits no path.
    """
    items = catalog.last_id() + 1
    name = _group_in_path(catalog, expression) if expression else "grp"
    if not catalog.sql(f"SELECT 1 FROM kept WHERE {name} <> '' LIMIT 1").fetchone():
        return np.broadcast_to(np.int32(-1), items)
    catalog.sql("CREATE TEMP TABLE groups (number INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL)")
    catalog.sql(f"INSERT INTO groups (name) SELECT DISTINCT {name} FROM kept WHERE {name} <> '' ORDER BY 1")
    groups_I = np.full(items, -1, np.int32)
    for item, group in catalog.sql(f"SELECT kept.id, number - 1 FROM kept JOIN groups ON name = {name}"):
        groups_I[item] = group
    return groups_I


def group_names(catalog: Catalog) -> Iterator[str]:
    """Yield the names of the groups, by number."""
    yield from (name for (name,) in catalog.sql("SELECT name FROM groups ORDER BY number"))


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
