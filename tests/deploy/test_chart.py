"""The chart, with its defaults and with what people change: structure, hardening, refusals."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import helm_python
import jsonschema
import pytest
import yaml
from tests.deploy.chart import CHART, DATABASE, manifests, of_kind, pod_of, variables

from dox_core_store.server.settings import Settings, load_settings

REPOSITORY = Path(__file__).parents[2]
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
GIVEN_BY_THE_CHART = {
    "data",
    "database",
    "database_password_file",
    "drain_seconds",
    "host",
    "key_file",
    "node_name",  # the pod's name is its machine's
    "port",
    "tls_certificate_file",
    "tls_key_file",
}
BEHIND_A_PROXY = {
    "tls": {"secret": ""},
    "settings": {"allow_plain_http": True, "trusted_proxies": ["10.0.0.0/8", "fd00::/8"]},
}
VAULT = {
    "settings": {"vault": "openbao+https://openbao.example:8200/kv/doxstore?login=kubernetes"},
    "secrets": {"backup": "doxstore-backup"},
    "configMaps": {"authorities": "authorities"},
    "serviceAccount": {
        "create": False,
        "name": "doxstore",
        "token": {"mount": True, "audience": "openbao"},
    },
}
ALL_AT_ONCE = {
    "replicas": 5,
    "image": {"digest": "sha256:" + "0" * 64, "pullSecrets": ["registry"]},
    "init": {"enabled": True, "slot": "kms", "kmsKey": "alias/doxstore"},
    "seal": {"keyFile": {"secret": ""}},
    "environment": [{"name": "AWS_REGION", "value": "eu-central-1"}],
    "autoscaling": {"enabled": True},
    "networkPolicy": {
        "enabled": True,
        "from": [{"namespaceSelector": {"matchLabels": {"keys": "read"}}}],
        "egress": [{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}],
    },
    "priorityClassName": "platform",
    "podLabels": {"team": "platform"},
    "podAnnotations": {"prometheus.io/scrape": "true"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "extraVolumes": [{"name": "backups", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "backups", "mountPath": "/backups"}],
    "service": {"annotations": {"a": "b"}, "sessionAffinity": "ClientIP"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "made here": {"init": {"enabled": True}},
    "database": DATABASE,
    "database, made here": {**DATABASE, "init": {"enabled": True}},
    "proxy": {**DATABASE, **BEHIND_A_PROXY},
    "transit": {
        "seal": {"keyFile": {"secret": ""}},
        "settings": {"unseal_with": "transit", "transit_address": "https://openbao.example:8200"},
        "init": {"enabled": True, "slot": "transit"},
    },
    "vault": {**DATABASE, **VAULT},
    "all": {**DATABASE, **VAULT, **ALL_AT_ONCE},
}
each_variant = pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)


def workloads(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        each for each in manifests(values) if each["kind"] in {"Deployment", "Job", "StatefulSet"}
    ]


def containers(values: dict[str, Any]) -> list[dict[str, Any]]:
    pods = map(pod_of, workloads(values))
    return [each for pod in pods for each in [*pod.get("initContainers", ()), *pod["containers"]]]


def test_helm_finds_nothing_to_complain_of() -> None:
    report = helm_python.lint(CHART, strict=True)
    said = [each["error"] for each in report["messages"]]
    assert report["errors"] == []
    assert said == ["icon is recommended"]


@each_variant
def test_the_api_takes_all_of_it(values: dict[str, Any]) -> None:
    kinds = {each["kind"] for each in manifests(values)}
    assert {"Service"} < kinds
    assert ("Deployment" in kinds) != ("StatefulSet" in kinds)


@each_variant
def test_no_container_can_do_more_than_serve(values: dict[str, Any]) -> None:
    for pod in map(pod_of, workloads(values)):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] >= 10_000
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert [each["name"] for each in pod["volumes"] if "hostPath" in each] == []
    for container in containers(values):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]


@each_variant
def test_a_token_of_the_cluster_is_there_for_a_vault_only(values: dict[str, Any]) -> None:
    wanted = values.get("serviceAccount", {}).get("token", {}).get("mount", False)
    for pod in map(pod_of, workloads(values)):
        assert pod["automountServiceAccountToken"] is False
        projected = [each["projected"]["sources"] for each in pod["volumes"] if "projected" in each]
        tokens = [
            source for each in projected for source in each if "serviceAccountToken" in source
        ]
        assert bool(tokens) == wanted


@each_variant
def test_the_server_takes_the_environment_that_its_container_is_given(
    values: dict[str, Any],
) -> None:
    for pod in map(pod_of, workloads(values)):
        # Otherwise a Service's variables would come in: DOXSTORE_PORT=tcp://…
        assert pod["enableServiceLinks"] is False
    for container in containers(values):
        if container["name"] == "copy-key":
            continue
        settings = load_settings({}, variables(container))
        for name, value in values.get("settings", {}).items():
            assert getattr(settings, name) == value


def test_large_numbers_come_to_the_server_as_they_were_written() -> None:
    given = {"max_connections": 1_000_000, "ledger_max_gib": 2.5, "keep_versions": 0}
    (node,) = pod_of(of_kind(manifests({**DATABASE, "settings": given}), "Deployment"))[
        "containers"
    ]
    settings = load_settings({}, variables(node))
    assert {name: getattr(settings, name) for name in given} == given


@each_variant
def test_every_file_that_is_named_is_mounted_and_every_mount_has_its_volume(
    values: dict[str, Any],
) -> None:
    for workload in workloads(values):
        pod = pod_of(workload)
        claims = workload["spec"].get("volumeClaimTemplates", ())
        volumes = {each["name"] for each in pod["volumes"]}
        volumes |= {each["metadata"]["name"] for each in claims}
        for container in [*pod.get("initContainers", ()), *pod["containers"]]:
            mounts = container["volumeMounts"]
            assert {each["name"] for each in mounts} <= volumes
            assert not any("subPath" in each for each in mounts)  # would never be renewed
            folders = tuple(f"{each['mountPath']}/" for each in mounts)
            for name, text in variables(container).items() if "env" in container else ():
                if name.endswith("_FILE") or name == "DOXSTORE_DATA":
                    assert text.startswith(folders), name
            writable = {each["mountPath"] for each in mounts if not each.get("readOnly")}
            folders_to_write = {"/var/lib/doxstore", "/tmp", "/run/doxstore", "/backups"}  # noqa: S108 - in a container
            assert writable <= folders_to_write


def test_nodes_on_a_database_are_replaced_one_by_one_and_none_is_missed() -> None:
    documents = manifests(DATABASE)
    spec = of_kind(documents, "Deployment")["spec"]
    assert spec["replicas"] == 3
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert of_kind(documents, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    spread = pod_of({"spec": spec})["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in spread] == VALUES["spread"]["topologyKeys"]
    assert {
        each["labelSelector"]["matchLabels"]["app.kubernetes.io/instance"] for each in spread
    } == {"keys"}


@pytest.mark.parametrize("seconds", [None, 0, 60])
def test_a_node_has_longer_to_end_than_it_needs(seconds: int | None) -> None:
    given = {} if seconds is None else {"shutdown_seconds": seconds}
    pod = pod_of(of_kind(manifests({**DATABASE, "settings": given}), "Deployment"))
    (node,) = pod["containers"]
    settings = load_settings({}, variables(node))
    assert settings.drain_seconds == VALUES["drainSeconds"]
    least = settings.drain_seconds + settings.shutdown_seconds
    assert pod["terminationGracePeriodSeconds"] >= least + 10


def test_the_one_node_of_a_file_keeps_it_on_a_volume_and_has_no_budget() -> None:
    documents = manifests({})
    spec = of_kind(documents, "StatefulSet")["spec"]
    assert spec["replicas"] == 1
    assert spec["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "data"
    size = re.fullmatch(r"(\d+)Gi", claim["spec"]["resources"]["requests"]["storage"])
    assert size
    assert int(size[1]) > Settings().ledger_max_gib
    assert "PodDisruptionBudget" not in {each["kind"] for each in documents}


def test_a_store_is_made_only_where_that_was_asked_for() -> None:
    assert "Job" not in {each["kind"] for each in manifests(DATABASE)}
    assert [each["name"] for each in containers({})] == ["copy-key", "doxstore"]
    job = of_kind(manifests({**DATABASE, "init": {"enabled": True}}), "Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install"
    made = [each["name"] for each in containers({"init": {"enabled": True}})]
    assert made == ["copy-key", "init", "doxstore"]


def test_autoscaling_decides_how_many() -> None:
    documents = manifests(VARIANTS["all"])
    assert "replicas" not in of_kind(documents, "Deployment")["spec"]
    scaler = of_kind(documents, "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == of_kind(documents, "Deployment")["metadata"]["name"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"replicas": 2}, "replicas: a store without database.url is one file"),
        ({"autoscaling": {"enabled": True}}, "autoscaling: a store without database.url"),
        ({"tls": {"secret": ""}}, "tls.secret: name a Secret"),
        ({"database": {**DATABASE["database"], "url": "postgresql://u@h/d"}}, "database.ca:"),
        (
            {"database": {**DATABASE["database"], "ca": {"secret": "a", "configMap": "b"}}},
            "database.ca: secret or configMap, not both",
        ),
        ({"init": {"enabled": True}, "seal": {"keyFile": {"secret": ""}}}, "init.slot"),
        ({"init": {"enabled": True, "slot": "kms"}}, "init.kmsKey"),
        (
            {**DATABASE, "init": {"enabled": True, "slot": "kms", "kmsKey": "k"}},
            "serviceAccount.create",
        ),
    ],
)
def test_values_that_would_not_work_are_refused_with_what_to_do(
    values: dict[str, Any], says: str
) -> None:
    with pytest.raises(helm_python.HelmRenderError, match=re.escape(says)):
        manifests(values)


@pytest.mark.parametrize(
    "values",
    [
        {"unknown": 1},
        {"settings": {"unknown": 1}},
        *({"settings": {name: "x"}} for name in sorted(GIVEN_BY_THE_CHART)),
        {"settings": {"log_level": "loud"}},
        {"settings": {"shutdown_seconds": -1}},
        {"database": {"url": "postgresql://user:password@host/database"}},
        {"database": {"url": "mysql://host/database"}},
        {"environment": [{"name": "DOXSTORE_PORT", "value": "1"}]},
        {"image": {"digest": "sha256:1"}},
        {"tls": {"secret": "Not A Name"}},
        {"init": {"operator": "$(id)"}},
        {"serviceAccount": {"token": {"expirationSeconds": 1}}},
    ],
)
def test_the_schema_refuses(values: dict[str, Any]) -> None:
    with pytest.raises(helm_python.HelmValuesError):
        manifests(values)


def test_the_schema_takes_the_defaults_and_knows_every_one_of_them() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(VALUES, SCHEMA)
    assert SCHEMA["properties"].keys() - {"global"} == VALUES.keys()


def test_the_schema_knows_the_settings_of_the_server() -> None:
    named = SCHEMA["properties"]["settings"]["properties"]
    assert set(named) == set(Settings.__struct_fields__) - GIVEN_BY_THE_CHART
    kinds = {bool: "boolean", float: "number", int: "integer", list: "array", str: "string"}
    defaults = Settings()
    for name, schema in named.items():
        kind = "number" if name == "ledger_max_gib" else kinds[type(getattr(defaults, name))]
        assert schema["type"] == kind, name


def leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            found |= leaves(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def test_every_value_is_explained_with_its_default() -> None:
    text = (CHART / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([A-Za-z.]+)` \| `([^`]+)` \|", text, re.MULTILINE)
    assert {name: json.loads(default) for name, default in rows} == leaves(VALUES)


def test_the_release_of_the_chart_is_that_of_the_program() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]


def test_the_values_of_the_document_are_taken() -> None:
    text = (REPOSITORY / "docs" / "deploy.md").read_text(encoding="utf-8")
    blocks = [
        yaml.safe_load(re.sub(r"^   ", "", block, flags=re.MULTILINE) if indent else block)
        for indent, block in re.findall(r"(?ms)^( *)```yaml\n(.*?)^ *```", text)
    ]
    assert len(blocks) == 2
    for block in blocks:
        assert "Deployment" in {each["kind"] for each in manifests({**DATABASE, **block})}
