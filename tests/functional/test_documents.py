"""What the documents show is run as it stands there: README, the client's page, the example's tour.

Every block of a document runs in the order of the page against one `doxstore dev`: bash blocks in
one shell; Python blocks in one interpreter with a running loop, as the client's page says, or by
themselves where they bring their own.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.functional.running import clean_environment
from tests.functional.test_dev_and_example import Dev

DOCUMENTS = ["README.md", "docs/client.md", "examples/pact_platform/README.md"]
ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    folder = tmp_path_factory.mktemp("reader")
    # A clone, as far as the documents name what is in it.
    (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    (folder / "examples").symlink_to(ROOT / "examples")
    running = Dev(folder)
    running.start()
    yield running
    running.end()
    running.dispose()


RUN_IN_A_LOOP = """
import ast, asyncio, inspect, sys

async def run():
    names = {"__name__": "__main__"}
    for body in sys.stdin.read().split(chr(0)):
        done = eval(compile(body, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
        if inspect.isawaitable(done):
            await done

asyncio.run(run())
"""


def run_blocks(dev: Dev, document: Path) -> str:
    """Run every block of ``document``; returns what was printed. Stops at the first that fails."""
    blocks = BLOCK.findall(document.read_text(encoding="utf-8"))
    assert blocks, "nothing to run"
    shell = "".join(body for language, body in blocks if language == "bash")
    alone = [body for language, body in blocks if language == "python" and "asyncio.run(" in body]
    python = [body for language, body in blocks if language == "python" and body not in alone]
    said = [dev.done(f'exec {sys.executable} -c "$BLOCK"', BLOCK=body) for body in alone]
    if python:
        joined = chr(0).join(python)
        said.append(run(dev, f'exec {sys.executable} -c "$RUNNER"', joined))
    if shell:
        said.append(run(dev, "exec bash -euo pipefail", shell))
    return "".join(said)


def run(dev: Dev, script: str, given: str) -> str:
    done = subprocess.run(
        ["bash", "-ceu", f". .doxstore/dev.env; {script}"],
        input=given,
        cwd=dev.folder,
        env=clean_environment(RUNNER=RUN_IN_A_LOOP),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_reader_can_run_every_block(dev: Dev, name: str) -> None:
    run_blocks(dev, ROOT / name)


def test_the_first_screen_prints_the_key(dev: Dev) -> None:
    blocks = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    first = next(body for language, body in blocks if language == "python")
    assert dev.done(f'exec {sys.executable} -c "$BLOCK"', BLOCK=first).strip()
