"""The chart as Helm renders it, and each manifest as the Kubernetes API would check it.

Rendered by Helm's own engine (its Go library, in ``helm_python``), checked against the schemas of
the API (``kubernetes_validate``), unknown fields refused.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import yaml

__all__ = [
    "API_VERSIONS",
    "CHART",
    "DATABASE",
    "RELEASE",
    "manifests",
    "of_kind",
    "pod_of",
    "variables",
]

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "dox-core-store"
RELEASE = "keys"
API_VERSIONS = ("1.27", "1.37")
"""The oldest that `Chart.yaml` names, and the newest whose schemas there are."""

DATABASE: dict[str, Any] = {
    "database": {
        "url": "postgresql://doxstore@db.example:5432/doxstore"
        "?sslmode=verify-full&sslrootcert=/etc/doxstore/database/ca.crt",
        "passwordSecret": {"name": "doxstore-database"},
        "ca": {"secret": "doxstore-database-ca"},
    }
}


def manifests(values: dict[str, Any]) -> list[dict[str, Any]]:
    """What an install with ``values`` sends. Raises `helm_python.HelmError`, or what the API would
    say."""
    documents: list[dict[str, Any]] = json.loads(_rendered(json.dumps(values, sort_keys=True)))
    return documents


@functools.cache
def _rendered(values_json: str) -> str:
    values = json.loads(values_json)
    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        rendered = chart.render(values, name=RELEASE, namespace="doxstore", is_install=True)
    documents: list[dict[str, Any]] = []
    for name, text in sorted(rendered.items()):
        if not name.endswith(".txt"):
            documents.extend(filter(None, yaml.safe_load_all(text)))
    for document in documents:
        _check(json.dumps(document))
    return json.dumps(documents)


@functools.cache
def _check(document_json: str) -> None:
    """Cached, because reading the schemas of one release takes a quarter of a second."""
    for version in API_VERSIONS:
        kubernetes_validate.validate(json.loads(document_json), version, strict=True)


def of_kind(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (each for each in documents if each["kind"] == kind)
    return found


def pod_of(document: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = document["spec"]["template"]["spec"]
    return spec


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container["env"]}
