"""What every artifact has in common: a folder with one JSON index, written whole or not at all."""

import errno
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from steelyard.errors import ArtifactError, StoreError

SCHEMA_VERSION = "1.0"

# What numpy and zipfile raise over bytes that were changed: found by changing every one.
_DAMAGE = (ValueError, TypeError, RuntimeError, OSError, EOFError, BadZipFile, zlib.error)

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")


def _is_a_name(name: str) -> str:
    if not _NAME.fullmatch(name) or name == "none":
        raise ValueError("a candidate's name has a-z, 0-9, '.', '_' and '-', at most 63 of them, and is not 'none'")
    return name


CandidateName = Annotated[str, AfterValidator(_is_a_name)]  # also the name of folders


class Record(BaseModel):
    """A frozen part of an index. Fields that a newer minor version added are ignored on reading."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Index(Record):
    """The JSON file that makes a folder an artifact."""

    schema_version: str = SCHEMA_VERSION

    def write(self, file: Path) -> None:
        """Write the index, indented for people."""
        file.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read an index.

        Raises:
            ArtifactError: the file is missing, no JSON, of an unknown major version, or lacks a field.
        """
        try:
            text = file.read_bytes()
            content = json.loads(text)
            version = str(content["schema_version"])
        except OSError:
            raise ArtifactError(f"{file.parent}: holds no readable {file.name}") from None
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ArtifactError(f"{file}: is not a JSON object with a schema_version") from None
        if version.partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
            raise ArtifactError(f"{file}: schema_version {version} is not known here; this is {SCHEMA_VERSION}")
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise ArtifactError(f"{file}: {key}: {first['msg'].removeprefix('Value error, ')}") from None


def read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """Read an .npz file without pickles.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        raise ArtifactError(f"{file}: there is no such file") from None
    except _DAMAGE as error:
        raise ArtifactError(f"{file}: is damaged: {error or type(error).__name__}") from None


def link_or_copy(file: Path, other: Path) -> None:
    """Give a file that nobody writes to again a second name, or a copy where the file system has no such links."""
    try:
        os.link(file, other)
    except OSError:
        shutil.copyfile(file, other)


def unfinished(folder: Path) -> list[Path]:
    """Return what a killed process left of folders that it was about to make there."""
    return list(folder.glob(".*.partial-[0-9]*"))


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path` once the block has ended well.

    Raises:
        StoreError: the disk is full.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    except Exception as error:  # libraries wrap what the system says: safetensors into an error of its own
        if os.strerror(errno.ENOSPC) in str(error):
            raise StoreError(f"{path}: can't be written: {os.strerror(errno.ENOSPC)}") from None
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
