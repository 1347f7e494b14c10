"""A CSV or JSON-lines file that says for each image: path, label, and maybe split and group."""

import csv
import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

from steelyard.data.files import Entry, Files
from steelyard.data.item import SPLIT_NAMES, Item
from steelyard.data.sources.folders import EncodedFiles
from steelyard.errors import SourceError

log = logging.getLogger(__name__)

COLUMNS = ("path", "label", "split", "group")


class Manifest(EncodedFiles):
    """Paths are taken from the manifest's own folder."""

    def __init__(self, files: Files, name: str) -> None:
        super().__init__(files)
        self.name = name

    def items(self) -> Iterator[Item]:
        """Yield an item for each line."""
        with self.files.entries() as entry, self.files.open(self.name) as stream:
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
            lines = self._csv(text) if PurePosixPath(self.name).suffix == ".csv" else self._json(text)
            empty = True
            try:
                for number, row in enumerate(lines, start=1):
                    empty = False
                    yield _item(row, number, entry)
            except UnicodeDecodeError:
                raise SourceError(f"data.source: {self.name}: is not UTF-8 text") from None
            if empty:
                raise SourceError(f"data.source: {self.name}: lists no images")

    def _csv(self, text: io.TextIOWrapper) -> Iterator[dict[str, Any]]:
        reader = csv.DictReader(text, skipinitialspace=True, strict=True)  # else a quote too many hides what follows
        try:
            found = [name.strip() for name in reader.fieldnames or ()]
            columns = reader.fieldnames = [name.lower() for name in found]
            missing = [name for name in ("path", "label") if name not in columns]
            if missing:
                raise SourceError(
                    f"data.source: {self.name}: lacks the column {missing[0]!r}; it has: {', '.join(found) or 'none'}"
                )
            if unused := [name for name in found if name.lower() not in COLUMNS]:
                log.info("%s: columns that are not used: %s", self.name, ", ".join(unused))
            yield from reader
        except csv.Error as error:
            raise SourceError(f"data.source: {self.name}: line {reader.reader.line_num}: {error}") from None

    def _json(self, text: io.TextIOWrapper) -> Iterator[dict[str, Any]]:
        for number, line in enumerate(text, start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                    json.dumps(row, ensure_ascii=False).encode()  # half of a character can be written, but not kept
                except ValueError:
                    row = None
                if not isinstance(row, dict):
                    raise SourceError(f"data.source: {self.name}: line {number} is no JSON object")
                yield {name.strip().lower(): value for name, value in row.items()}


def _item(row: dict[str, Any], number: int, entry: Callable[[str], Entry]) -> Item:
    path, label = str(row.get("path") or ""), str(row["label"] if row.get("label") is not None else "").strip()
    split = str(row.get("split") or "").strip().lower()
    problem = "has no path" if not path else "has no label" if not label else ""
    if split and split not in SPLIT_NAMES:
        problem = f"its split {split!r} is none of train, validation and test"
    if None in row:  # so the csv module calls what has no column
        problem = "its line has more fields than there are columns"
    there = entry(path) if path else Entry("", "")
    return Item(
        path=path,
        part=0 if path else number,
        version=there.version,
        label=label,
        group=str(row.get("group") or "").strip(),
        split=SPLIT_NAMES.get(split, ""),
        problem=problem or there.problem,
    )
