"""What the chart's containers run, run for real: the program, its probes, the making of a store.

The commands and variables are those that Helm rendered; only the folders are moved, because a test
must not write to ``/etc``.
"""

from __future__ import annotations

import os
import ssl
import stat
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.deploy.chart import manifests, of_kind, pod_of, variables
from tests.functional.running import DOXSTORE, clean_environment, free_port

FOLDERS = ("/etc/doxstore", "/run/doxstore", "/var/lib/doxstore")
STOP_SECONDS = 30


def moved(text: str, root: Path) -> str:
    return f"{root}{text}" if text.startswith(FOLDERS) else text


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folders of a container: a key and a certificate as a mounted Secret has them."""
    for folder in ("etc/doxstore/root-key", "etc/doxstore/tls", "run/doxstore", "var/lib/doxstore"):
        (tmp_path / folder).mkdir(parents=True)
    made = tmp_path / "made"
    subprocess.run(
        [DOXSTORE, "init", "--data", made / "store", "--key-file", made / "root.key"],
        env=clean_environment(),
        check=True,
        capture_output=True,
    )
    key = tmp_path / "etc/doxstore/root-key/root.key"
    key.write_bytes((made / "root.key").read_bytes())
    key.chmod(0o440)
    certificate = trustme.CA().issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "etc/doxstore/tls/tls.key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "etc/doxstore/tls/tls.crt")
    return tmp_path


@pytest.fixture(scope="module")
def containers() -> dict[str, dict[str, Any]]:
    pod = pod_of(of_kind(manifests({"init": {"enabled": True}}), "StatefulSet"))
    return {each["name"]: each for each in [*pod["initContainers"], *pod["containers"]]}


def environment(container: dict[str, Any], root: Path, **more: str) -> dict[str, str]:
    given = {name: moved(text, root) for name, text in variables(container).items()}
    path = f"{DOXSTORE.parent}{os.pathsep}{os.environ['PATH']}"
    return clean_environment(**given, **more) | {"PATH": path}


def run(container: dict[str, Any], root: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [moved(each, root) for each in container["command"]],
        env=environment(container, root, **more) if "env" in container else None,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_store_is_made_once_and_its_token_is_in_no_log(
    containers: dict[str, dict[str, Any]], root: Path
) -> None:
    assert run(containers["copy-key"], root).returncode == 0
    copy = root / "run/doxstore/root.key"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o400
    first, again = (run(containers["init"], root) for _ in range(2))
    assert (first.returncode, first.stdout, first.stderr) == (0, "The store is made.\n", "")
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == "There is a store already: nothing to do.\n"


def test_a_store_that_cannot_be_made_fails_the_job_and_says_why(
    containers: dict[str, dict[str, Any]], root: Path
) -> None:
    (root / "run/doxstore/root.key").write_text("no key\n", encoding="utf-8")
    (root / "run/doxstore/root.key").chmod(0o400)
    failed = run(containers["init"], root)
    assert failed.returncode == 1
    assert "error[wrong_key_file]" in failed.stderr


def test_a_second_start_of_the_pod_copies_the_key_again(
    containers: dict[str, dict[str, Any]], root: Path
) -> None:
    assert [run(containers["copy-key"], root).returncode for _ in range(2)] == [0, 0]


def test_the_probes_ask_what_the_server_answers(
    containers: dict[str, dict[str, Any]], root: Path
) -> None:
    for name in ("copy-key", "init"):
        assert run(containers[name], root).returncode == 0
    node = containers["doxstore"]
    port = free_port()
    process = subprocess.Popen(
        node["command"],
        env=environment(node, root) | {"DOXSTORE_PORT": str(port), "DOXSTORE_HOST": "127.0.0.1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout
        assert "dox-core-store serves" in process.stdout.readline()
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = node[probe]["httpGet"]
            assert asked["port"] in {each["name"] for each in node["ports"]}
            assert answer(f"{asked['scheme'].lower()}://127.0.0.1:{port}{asked['path']}") == 200
    finally:
        process.terminate()
        stopping = time.monotonic()
        assert process.wait(STOP_SECONDS) == 0
        process.stdout.close()
    pod = pod_of(of_kind(manifests({}), "StatefulSet"))
    assert time.monotonic() - stopping < pod["terminationGracePeriodSeconds"]


def answer(url: str) -> int:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # as a probe does
    try:
        with urllib.request.urlopen(url, timeout=5, context=context) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
