"""The public interface as a type checker of its users sees it: mypy in strict mode, and pyright.

A program that uses everything as it is meant is accepted by both; each line of one that does not is
refused by both. So a name that lost its type, or takes anything, is found.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
REPOSITORY = Path(__file__).parents[2]

GOOD = """
import logging
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, assert_type

from fastapi import Depends, FastAPI
from psycopg import AsyncConnection, Connection
from pydantic import SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from dox_core_store import (
    DoxStoreError, HealthReport, Key, KeyChange, KeyClient, KeyService, RateLimitError, SyncKey,
    SyncKeyClient,
)
from dox_core_store.integrations import psycopg, sqlalchemy
from dox_core_store.integrations.django import KeySetting
from dox_core_store.integrations.django import key as setting
from dox_core_store.integrations.fastapi import key, key_client, key_lifespan
from dox_core_store.integrations.logging import MaskKeys
from dox_core_store.integrations.opentelemetry import trace_client
from dox_core_store.integrations.pydantic_settings import FromKey, KeySettingsSource


async def asynchronous() -> None:
    async with KeyClient("jules-mcp", timeout_ms=500, follow=False) as client:
        found = await client.get_key("a.b", cache_ttl=3.5)
        assert_type(found, Key)
        assert_type(found.value, str)
        assert_type(found.expires_at, datetime | None)
        assert_type(found.age_seconds, float)
        assert_type(await found.rejected("refused"), Key)
        assert_type(await client.get_keys(["a.b"]), dict[str, Key])
        assert_type(client.changes(["a.b"]), AsyncIterator[KeyChange[Key]])
        async for change in client.changes(["a.b"]):
            assert_type(change.key, Key | None)
            assert_type(change.error, DoxStoreError | None)
        assert_type(await client.health_check(1.0), HealthReport)
        assert_type(trace_client(client, cached=True), KeyClient)
        client.on_value(lambda each: print(assert_type(each, Key)))
        sqlalchemy.follow_url(create_async_engine("postgresql+psycopg://"), client, "a.b")
        assert_type(psycopg.follow_password(client, "a.b"), type[AsyncConnection[Any]])
    async with KeyService() as service:
        await service.store_key("a.b", "value", "staging")


def blocking(client: SyncKeyClient) -> str:
    try:
        found = client.get_key("a.b")
    except RateLimitError as error:
        return error.code
    assert_type(found, SyncKey)
    assert_type(found.rejected(), SyncKey)
    assert_type(client.get_keys(path for path in ("a.b", "c.d")), dict[str, SyncKey])
    assert_type(trace_client(client), SyncKeyClient)
    assert_type(psycopg.follow_url(client, "a.b"), type[Connection[Any]])
    sqlalchemy.follow_password(create_engine("postgresql+psycopg://"), client, "a.b")
    mask = MaskKeys(client, keep_seconds=60)
    logging.StreamHandler().addFilter(mask)
    assert_type(setting("a.b"), KeySetting)
    assert_type(setting("a.b", client).get(), SyncKey)
    return mask.masked(found.value)


class Settings(BaseSettings):
    jules: Annotated[SecretStr, FromKey("a.b")]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, KeySettingsSource(settings_cls, SyncKeyClient("jules-mcp"))


app = FastAPI(lifespan=key_lifespan(lambda: KeyClient("jules-mcp")))


@app.get("/version")
async def version(
    jules: Annotated[Key, Depends(key("a.b"))], client: Annotated[KeyClient, Depends(key_client)]
) -> int:
    return jules.version
"""

BAD = """
from sqlalchemy import create_engine

from dox_core_store import KeyClient, SyncKeyClient
from dox_core_store.integrations.fastapi import key_lifespan
from dox_core_store.integrations.logging import MaskKeys
from dox_core_store.integrations.opentelemetry import trace_client
from dox_core_store.integrations.pydantic_settings import FromKey
from dox_core_store.integrations.sqlalchemy import follow_password


async def asynchronous(client: KeyClient) -> None:
    client.get_key("a.b").value  # wrong
    number: int = (await client.get_key("a.b")).value  # wrong
    await client.get_key("a.b", cache_ttl="long")  # wrong
    await client.get_keys(3)  # wrong
    client.close()  # wrong
    follow_password(create_engine("x://"), client, "a.b")  # wrong
    client.on_value(lambda: None)  # wrong


def blocking(client: SyncKeyClient) -> None:
    client.get_key("a.b").valeu  # wrong
    client.get_key(b"a.b")  # wrong
    client.get_key("a.b").expires_at.year  # wrong
    MaskKeys("client")  # wrong
    trace_client("client")  # wrong
    FromKey()  # wrong
    key_lifespan(client)  # wrong


KeyClient()  # wrong
KeyClient("jules-mcp", timeout=5)  # wrong
"""


PROGRAMS = {"good.py": GOOD, "bad.py": BAD}


def refused_by_mypy(folder: Path) -> set[tuple[str, int, str]]:
    """The programs' lines that mypy refuses, and why."""
    command = [BIN / "mypy", "--strict", "--cache-dir", folder / "cache", "--no-color-output",
               "--config-file", os.devnull, *PROGRAMS]  # fmt: skip
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = re.findall(r"^([a-z]+\.py):(\d+): error: (.*)$", done.stdout, re.MULTILINE)
    assert f"Found {len(found)} errors" in done.stdout
    return {(name, int(line), message) for name, line, message in found}


def refused_by_pyright(folder: Path) -> set[tuple[str, int, str]]:
    """The same of pyright, whose program and Node both come in wheels: nothing is fetched."""
    command = [BIN / "pyright", "--outputjson", "--pythonpath", sys.executable, *PROGRAMS]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return {
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1, each["message"])
        for each in json.loads(done.stdout)["generalDiagnostics"]
        if each["severity"] == "error"
    }


@pytest.mark.parametrize("refused_by", [refused_by_mypy, refused_by_pyright])
def test_what_is_meant_is_accepted_and_each_wrong_line_is_refused(
    refused_by, tmp_path: Path
) -> None:
    for name, program in PROGRAMS.items():
        (tmp_path / name).write_text(program, encoding="utf-8")
    refused = refused_by(tmp_path)
    assert {each for each in refused if each[0] == "good.py"} == set()
    wrong = {n for n, line in enumerate(BAD.splitlines(), 1) if line.endswith("# wrong")}
    assert {line for _, line, _ in refused} == wrong, refused


def test_the_marker_is_in_the_package() -> None:
    assert (REPOSITORY / "src" / "dox_core_store" / "py.typed").read_bytes() == b""
