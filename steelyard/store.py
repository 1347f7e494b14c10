"""Bytes from a local path or from s3://; the only user of the minio client."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from steelyard.errors import SourceError, StoreError

if TYPE_CHECKING:
    from minio import Minio

log = logging.getLogger(__name__)


def is_remote(address: str) -> bool:
    """Whether an address names an object store."""
    return address.startswith("s3://")


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStore:
    """Any S3-compatible store, by endpoint and keys."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "ObjectStore | None":
        """Read the variables that AWS's own tools use; None where no store is set up."""
        endpoint = environ.get("AWS_ENDPOINT_URL")
        if not endpoint:
            return None
        return cls(
            endpoint=endpoint,
            access_key=environ.get("AWS_ACCESS_KEY_ID", ""),
            secret_key=environ.get("AWS_SECRET_ACCESS_KEY", ""),
        )

    def read_text(self, address: str) -> str:
        """Return one object as UTF-8 text.

        Raises:
            SourceError: there is no such object, or it is not text.
            StoreError: the store refused, or does not answer.
        """
        bucket, key = _bucket_and_key(address)
        with _one_line(address):
            response = self._client().get_object(bucket, key)
            try:
                return bytes(response.read()).decode()
            except UnicodeDecodeError:
                raise SourceError(f"{address}: is not UTF-8 text") from None
            finally:
                response.close()
                response.release_conn()

    def holds(self, address: str) -> bool:
        """Whether there is such an object.

        Raises:
            StoreError: the store refused, or does not answer.
        """
        bucket, key = _bucket_and_key(address)
        try:
            with _one_line(address):
                return any(entry.object_name == key for entry in self._client().list_objects(bucket, prefix=key))
        except SourceError:
            return False

    def download(self, address: str, folder: Path) -> None:
        """Copy every object below a prefix into a folder.

        Raises:
            SourceError: there is no such bucket, or nothing below the prefix.
            StoreError: the store refused, or does not answer.
        """
        bucket, prefix = _bucket_and_key(address)
        prefix = prefix.rstrip("/") + "/" if prefix else ""
        client, count = self._client(), 0
        with _one_line(address):
            for entry in client.list_objects(bucket, prefix=prefix, recursive=True):
                name = str(entry.object_name)
                target = (folder / name.removeprefix(prefix)).resolve()
                if name.endswith("/") or not target.is_relative_to(folder.resolve()):
                    continue
                client.fget_object(bucket, name, str(target))
                count += 1
        if not count:
            raise SourceError(f"{address}: holds no objects")
        log.info("downloaded %d objects from %s", count, address)

    def _client(self) -> "Minio":
        from minio import Minio

        parts = urlsplit(self.endpoint if "://" in self.endpoint else f"http://{self.endpoint}")
        return Minio(
            endpoint=parts.netloc,
            access_key=self.access_key,
            secret_key=self.secret_key,
            secure=parts.scheme == "https",
        )


@contextmanager
def _one_line(address: str) -> Iterator[None]:
    """Turn the client's errors into ours; what is missing is the user's mistake, all else the store's."""
    from minio.error import MinioException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (MinioException, HTTPError) as error:
        said = " ".join(str(error).split())  # the client takes some stores' XML for something else: look at the text
        missing = "NoSuchBucket" in said or "NoSuchKey" in said
        raise (SourceError if missing else StoreError)(f"{address}: {said}") from None


def read_text(text_or_address: str, store: ObjectStore | None) -> str:
    """Return YAML text as it is, and what lies behind an s3:// address.

    Raises:
        SourceError: an address without an object, or without a store.
    """
    return _needed(store, text_or_address).read_text(text_or_address) if is_remote(text_or_address) else text_or_address


def local_copy(address: str, folder: Path, store: ObjectStore | None) -> str:
    """Return a source that lies on this machine: s3:// is copied into `folder`, anything else stays as it is."""
    if not is_remote(address):
        return address
    _needed(store, address).download(address, folder)
    return str(folder)


def _needed(store: ObjectStore | None, address: str) -> ObjectStore:
    if store is None:
        raise SourceError(f"{address}: set AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to read it")
    return store


def _bucket_and_key(address: str) -> tuple[str, str]:
    bucket, _, key = address.removeprefix("s3://").partition("/")
    return bucket, key
