"""What is public, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest
from scripted_store import token

import dox_core_store.client as package


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        package.Nothing  # noqa: B018


def test_the_http_library_is_not_loaded_before_the_first_call() -> None:
    code = (
        "import sys; from dox_core_store import KeyClient;"
        f"KeyClient('jules-mcp', {token()!r}, 'https://keys.example');"
        "heavy = {'httpx2', 'cryptography', 'litestar', 'sqlalchemy'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(  # this interpreter and the text above
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
