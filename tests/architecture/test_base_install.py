"""The base wheel, installed alone: the client works where nothing of the server exists."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
CLIENT_TESTS = REPOSITORY / "tests" / "unit" / "client"


def run(*command: str | Path, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the base wheel, its locked dependencies, pytest, and nothing else."""
    folder = tmp_path_factory.mktemp("base")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=REPOSITORY)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    pip = (python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-deps")
    lock = REPOSITORY / "requirements" / "base-test.txt"
    run(*pip, "--require-hashes", "-r", lock, cwd=folder)
    run(*pip, "--no-index", wheel, cwd=folder)
    run(python, "-m", "pip", "check", cwd=folder)
    return python


@pytest.mark.timeout(300)  # seconds; installs packages
def test_the_clients_tests_pass_on_the_base_wheel_alone(base: Path, tmp_path: Path) -> None:
    # Copied out of the repository, so that neither its source nor its conftest files help.
    shutil.copytree(CLIENT_TESTS, tmp_path / "client")
    settings = "[pytest]\naddopts = --import-mode=importlib -ra\npythonpath = client\n"
    (tmp_path / "pytest.ini").write_text(settings, encoding="utf-8")
    output = run(base, "-m", "pytest", "-p", "no:cacheprovider", "client", cwd=tmp_path)
    assert " passed" in output
    assert " skipped" not in output


@pytest.mark.timeout(300)
def test_without_the_extras_the_public_names_import_and_the_cli_says_what_is_missing(
    base: Path, tmp_path: Path
) -> None:
    names = "import dox_core_store as d; print(all(getattr(d, n) for n in d.__all__))"
    assert run(base, "-c", names, cwd=tmp_path).strip() == "True"
    doxstore = base.with_name("doxstore")
    done = subprocess.run([doxstore, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "dox-core-store[cli]" in done.stderr
    assert "Traceback" not in done.stderr
