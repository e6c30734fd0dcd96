"""A bucket that speaks S3 as a destination: one object for each batch.

Objects are called after when their first entry was made, the block that they reach, and their
content: names that sort as the entries were shipped, and that only the same content has twice.
Credentials, region and AWS_ENDPOINT_URL are found as boto3 does. Nothing is tried twice here, and
the call is made in this thread: whoever follows decides when to try again, and a process that ends
waits for nothing.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.domain.shipping import Batch, ShippingError

__all__ = ["BucketSink"]

_CONNECT_SECONDS = 5
_READ_SECONDS = 15
_DIGEST_CHARACTERS = 12
_STAMP = re.compile(r"[0-9-]{10}T[0-9:]{8}\.[0-9]{3}Z", re.ASCII)


class BucketSink:
    """See the `Sink` port. Raises `ConfigurationError` ``bad_setting`` where there is no boto3."""

    kind = "bucket"

    def __init__(self, bucket: str, prefix: str) -> None:
        try:
            import boto3  # type: ignore[import-untyped]  # noqa: PLC0415 - only who has the extra needs it
            from botocore.config import Config  # type: ignore[import-untyped]  # noqa: PLC0415
            from botocore.exceptions import (  # type: ignore[import-untyped]  # noqa: PLC0415
                BotoCoreError,
            )
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "bad_setting", "s3:// needs boto3: pip install 'dox-core-store[server,aws]'."
            ) from error
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._newest = ""
        self.shown = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        config = Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            retries={"total_max_attempts": 1},
        )
        try:
            self._client: Any = boto3.client("s3", config=config)
        except (BotoCoreError, ValueError) as error:
            raise ConfigurationError(
                "bad_setting", f"{self.shown} cannot be used ({type(error).__name__})."
            ) from error

    def send(self, batch: Batch) -> None:
        from botocore.exceptions import (  # noqa: PLC0415 - as above
            BotoCoreError,
            ClientError,
        )

        body = batch.lines()
        try:
            self._client.put_object(
                Bucket=self._bucket,
                Key=self._name(batch, body),
                Body=body,
                ContentType="application/x-ndjson",
            )
        except ClientError as error:
            said = str(error.response.get("Error", {}).get("Code", "refused"))
            raise ShippingError(f"it says {said[:80]!a}") from error
        except (BotoCoreError, OSError, ValueError) as error:
            raise ShippingError(f"it cannot be reached ({type(error).__name__})") from error

    def _name(self, batch: Batch, body: bytes) -> str:
        """A time never before the last one: a command's clock may be a little behind the node's."""
        time = batch.entries[0].timestamp
        if _STAMP.fullmatch(time):
            self._newest = max(self._newest, re.sub(r"[-:]", "", time))
        digest = hashlib.sha256(body).hexdigest()[:_DIGEST_CHARACTERS]
        name = f"{self._newest}-{batch.place.block_id:019d}-{digest}.jsonl"
        return f"{self._prefix}{batch.store_id}/{name}"
