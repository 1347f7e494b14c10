"""Bytes from a local path or from s3://; the only user of the minio client."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar, cast
from urllib.parse import urlsplit

from steelyard.errors import SourceError, StoreError

if TYPE_CHECKING:
    from minio import Minio

log = logging.getLogger(__name__)

Result = TypeVar("Result")

PATIENCE_S = 300.0
SECONDS_BETWEEN_TRIES = 2.0
CONNECT_WITHIN_S, ANSWER_WITHIN_S = 10.0, 30.0  # the client's own 5 minutes, six times over, are no answer


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
        try:
            return self.read(address).decode()
        except UnicodeDecodeError:
            raise SourceError(f"{address}: is not UTF-8 text") from None

    def read(self, address: str) -> bytes:
        """Return the bytes of one object.

        Raises:
            SourceError: there is no such object.
            StoreError: the store refused, or does not answer.
        """
        with self.stream(address) as stream:
            return stream.read()

    def holds(self, address: str) -> bool:
        """Whether there is such an object.

        Raises:
            StoreError: the store refused, or does not answer.
        """
        bucket, key = _bucket_and_object(address)
        try:
            with _one_line(address):
                return any(entry.object_name == key for entry in self._client().list_objects(bucket, prefix=key))
        except SourceError:
            return False

    def walk(self, address: str) -> Iterator[tuple[str, str]]:
        """Yield the name of each object below a prefix, without it, and what changes when its bytes do.

        Raises:
            SourceError: there is no such bucket.
            StoreError: the store refused, or does not answer.
        """
        bucket, prefix = _bucket_and_key(address.rstrip("/") + "/")
        with _one_line(address):
            for entry in self._client().list_objects(bucket, prefix=prefix, recursive=True):
                name = str(entry.object_name)
                if not name.endswith("/"):
                    yield name.removeprefix(prefix), f"{entry.size}:{entry.etag}"

    def folders(self, address: str) -> Iterator[str]:
        """Yield the names right below a prefix that have objects below them; errors as of `walk`."""
        bucket, prefix = _bucket_and_key(address.rstrip("/") + "/")
        with _one_line(address):
            for entry in self._client().list_objects(bucket, prefix=prefix):
                if entry.is_dir:
                    yield str(entry.object_name).removeprefix(prefix).rstrip("/")

    def upload(self, file: Path, address: str) -> None:
        """Copy a file to an address.

        Raises:
            SourceError: there is no such bucket.
            StoreError: the store refused, or does not answer.
        """
        bucket, key = _bucket_and_object(address)
        with _one_line(address):
            self._client().fput_object(bucket, key, str(file))

    def remove(self, address: str) -> None:
        """Delete an object; nothing happens where there is none.

        Raises:
            SourceError: there is no such bucket.
            StoreError: the store refused, or does not answer.
        """
        bucket, key = _bucket_and_object(address)
        with _one_line(address):
            self._client().remove_object(bucket, key)

    @contextmanager
    def stream(self, address: str) -> Iterator[IO[bytes]]:
        """Open an object for reading from its beginning to its end.

        Raises:
            SourceError: there is no such object.
            StoreError: the store refused, or does not answer.
        """
        bucket, key = _bucket_and_object(address)
        with _one_line(address):
            response = self._client().get_object(bucket, key)
            try:
                yield cast("IO[bytes]", response)
            finally:
                response.close()
                response.release_conn()

    def _client(self) -> "Minio":
        return _connection(self, os.getpid())


@lru_cache(maxsize=4)
def _connection(store: ObjectStore, process: int) -> "Minio":
    """Return a client that keeps its connections; never one whose connections a forked process would share."""
    import certifi
    from minio import Minio
    from urllib3 import PoolManager, Retry, Timeout

    retries = Retry(total=5, read=1, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504])
    timeout = Timeout(connect=CONNECT_WITHIN_S, read=ANSWER_WITHIN_S)
    certificates = os.environ.get("SSL_CERT_FILE") or certifi.where()
    parts = urlsplit(store.endpoint if "://" in store.endpoint else f"http://{store.endpoint}")
    return Minio(
        endpoint=parts.netloc,
        access_key=store.access_key,
        secret_key=store.secret_key,
        secure=parts.scheme == "https",
        http_client=PoolManager(maxsize=10, retries=retries, timeout=timeout, ca_certs=certificates),
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


def patiently(action: Callable[[], Result]) -> Result:
    """Do what a store that does not answer makes fail, again and again for at most PATIENCE_S.

    Raises:
        StoreError: it still does not answer.
    """
    started, told = time.monotonic(), False
    while True:
        try:
            return action()
        except StoreError as error:
            if time.monotonic() - started >= PATIENCE_S:
                raise StoreError(f"{error}; gave up after {PATIENCE_S:.0f} s") from None
            if not told:
                log.warning("waiting for the store, for at most %.0f s: %s", PATIENCE_S, error)
            told = True
        time.sleep(SECONDS_BETWEEN_TRIES)


def read_text(text_or_address: str, store: ObjectStore | None) -> str:
    """Return YAML text as it is, and what lies behind an s3:// address.

    Raises:
        SourceError: an address without an object, or without a store.
    """
    return needed(store, text_or_address).read_text(text_or_address) if is_remote(text_or_address) else text_or_address


def needed(store: ObjectStore | None, address: str) -> ObjectStore:
    """Return the store, or say what to set for one."""
    if store is None:
        raise SourceError(f"{address}: set AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to read it")
    return store


def _bucket_and_key(address: str) -> tuple[str, str]:
    from minio.helpers import check_bucket_name

    bucket, _, key = address.removeprefix("s3://").partition("/")
    try:
        check_bucket_name(bucket)
    except ValueError as error:
        raise SourceError(f"{address}: {error}") from None
    return bucket, key


def _bucket_and_object(address: str) -> tuple[str, str]:
    bucket, key = _bucket_and_key(address)
    if not key:
        raise SourceError(f"{address}: names a bucket and no object in it")
    return bucket, key
