"""Where backups lie: folders, and buckets that speak S3.

A name is there with all of its content or not at all: in a folder it is written beside, synced and
renamed; a bucket shows an object when its upload is complete. Every fault becomes
`ConfigurationError` ``backup_target``.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from dox_core_store.errors import ConfigurationError

__all__ = ["BackupPlace", "Bucket", "Folder", "file_at", "place_at"]

_SCHEME = "s3://"
_CONNECT_SECONDS = 10
_READ_SECONDS = 60
_COPY_BYTES = 1024 * 1024


class BackupPlace(Protocol):
    """Where backups are kept, each under a name."""

    def write(self, name: str, source: BinaryIO) -> int:
        """Keep ``source`` under ``name`` once all of it is there; its size."""

    def open(self, name: str) -> io.BufferedReader:
        """What is kept under ``name``, to be read from the beginning."""

    def has(self, name: str) -> bool: ...

    def names(self) -> list[str]:
        """What is kept here, ours and others'."""

    def remove(self, name: str) -> None: ...


def place_at(address: str) -> BackupPlace:
    """A folder, or ``s3://bucket/prefix``."""
    if not address.startswith(_SCHEME):
        return Folder(Path(address))
    bucket, _, prefix = address.removeprefix(_SCHEME).partition("/")
    return Bucket(bucket, prefix.strip("/"))


def file_at(address: str) -> tuple[BackupPlace, str]:
    """The place and the name of one backup: a file, or ``s3://bucket/name``."""
    if not address.startswith(_SCHEME):
        path = Path(address)
        return Folder(path.parent), path.name
    bucket, _, key = address.removeprefix(_SCHEME).partition("/")
    prefix, _, name = key.rpartition("/")
    if not bucket or not name:
        raise ConfigurationError("backup_target", f"{address} names no object in a bucket.")
    return Bucket(bucket, prefix), name


class Folder:
    """See `BackupPlace`. Files are their owner's alone."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, name: str, source: BinaryIO) -> int:
        path, partial = self._path / name, self._path / f"{name}.partial"
        with _translated(path):
            partial.unlink(missing_ok=True)  # of one that was interrupted
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            descriptor = os.open(partial, flags, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                while part := source.read(_COPY_BYTES):  # whose faults are not the target's
                    with _translated(path):
                        file.write(part)
                with _translated(path):
                    file.flush()
                    os.fsync(file.fileno())
                    size = file.tell()
            with _translated(path):
                partial.rename(path)
                _sync_folder(self._path)
        finally:
            partial.unlink(missing_ok=True)
        return size

    def open(self, name: str) -> io.BufferedReader:
        with _translated(self._path / name):
            return (self._path / name).open("rb")

    def has(self, name: str) -> bool:
        return (self._path / name).exists()

    def names(self) -> list[str]:
        with _translated(self._path):
            return [path.name for path in self._path.iterdir()]

    def remove(self, name: str) -> None:
        with _translated(self._path / name):
            (self._path / name).unlink(missing_ok=True)


class Bucket:
    """See `BackupPlace`. Credentials, region and AWS_ENDPOINT_URL are found as boto3 does."""

    def __init__(self, bucket: str, prefix: str) -> None:
        try:
            import boto3  # type: ignore[import-untyped]  # noqa: PLC0415 - only who has the extra needs it
            from botocore.config import Config  # type: ignore[import-untyped]  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "bad_setting", "s3:// needs boto3: pip install 'dox-core-store[server,aws]'."
            ) from error
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        with self._translated():
            self._client: Any = boto3.client(
                "s3",
                config=Config(
                    connect_timeout=_CONNECT_SECONDS,
                    read_timeout=_READ_SECONDS,
                    retries={"max_attempts": 3, "mode": "standard"},
                ),
            )

    def write(self, name: str, source: BinaryIO) -> int:
        counted = _Counted(source)
        with self._translated():
            self._client.upload_fileobj(counted, self._bucket, self._prefix + name)
        return counted.size

    def open(self, name: str) -> io.BufferedReader:
        with self._translated():
            found = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
        return io.BufferedReader(_Body(found["Body"], self), _COPY_BYTES)

    def has(self, name: str) -> bool:
        key = self._prefix + name
        with self._translated():
            listed = self._client.list_objects_v2(Bucket=self._bucket, Prefix=key)
        return any(each["Key"] == key for each in listed.get("Contents", ()))

    def names(self) -> list[str]:
        with self._translated():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix, Delimiter="/"
            )
            keys = [each["Key"] for page in pages for each in page.get("Contents", ())]
        return [key.removeprefix(self._prefix) for key in keys]

    def remove(self, name: str) -> None:
        with self._translated():
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        from boto3.exceptions import Boto3Error  # type: ignore[import-untyped]  # noqa: PLC0415
        from botocore.exceptions import (  # type: ignore[import-untyped]  # noqa: PLC0415
            BotoCoreError,
            ClientError,
        )

        try:
            yield
        except ClientError as error:
            said = error.response.get("Error", {}).get("Code", "refused")
            raise self._fault(f"it says {said}") from error
        except (BotoCoreError, Boto3Error, OSError, ValueError) as error:
            raise self._fault(f"it cannot be reached ({type(error).__name__})") from error

    def _fault(self, why: str) -> ConfigurationError:
        return ConfigurationError("backup_target", f"s3://{self._bucket}/{self._prefix}: {why}.")


class _Counted(io.RawIOBase):
    """A stream that an upload reads, however it likes."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self.size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._source.read(len(buffer))
        buffer[: len(part)] = part
        self.size += len(part)
        return len(part)


class _Body(io.RawIOBase):
    """An object's content, whose faults are ours."""

    def __init__(self, body: Any, bucket: Bucket) -> None:
        self._body = body
        self._bucket = bucket

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._bucket._translated():  # noqa: SLF001 - two halves of one thing
            part = self._body.read(len(buffer))
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        self._body.close()
        super().close()


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError("backup_target", f"{path}: {error.strerror}.") from error


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
