"""The files below deploy/ say what the code says: settings, ports, paths, times; and their own formats."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from studio.api import system
from studio.server import GRACE_S
from studio.settings import Settings

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
SCHEMA = json.loads(Path(__file__).with_name("kubernetes-1.36.json").read_text())
"""The Kubernetes API's own JSON Schemas (Apache-2.0) of the kinds used here, strict, without descriptions."""
MANIFESTS = [
    document
    for name in ("kubernetes.yaml", "kubernetes-upgrade.yaml")
    for document in yaml.safe_load_all((DEPLOY / name).read_text())
]
VARIABLES = {f"STUDIO_{name.upper()}" for name in Settings.model_fields}
CONTAINERFILE = (DEPLOY / "Containerfile").read_text()
UNIT = (DEPLOY / "studio-connectors.service").read_text()
PORT = int(Settings.model_fields["port"].default)


def check(document: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator({"$defs": SCHEMA["$defs"], **SCHEMA["kinds"][document["kind"]]}).validate(document)


def of(kind: str) -> dict[str, Any]:
    (found,) = (document for document in MANIFESTS if document["kind"] == kind)
    return found


def pod(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = of(kind)["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("document", MANIFESTS, ids=lambda document: str(document["kind"]))
def test_a_manifest_is_what_the_api_takes(document: dict[str, Any]) -> None:
    check(document)


def test_a_field_that_the_api_does_not_have_is_noticed() -> None:
    wrong = json.loads(json.dumps(of("Deployment")))
    wrong["spec"]["template"]["spec"]["terminationGracePeriod"] = 30
    with pytest.raises(jsonschema.ValidationError, match="terminationGracePeriod"):
        check(wrong)


@pytest.mark.parametrize("text", [CONTAINERFILE, UNIT, *map(json.dumps, MANIFESTS)])
def test_every_setting_that_is_named_exists(text: str) -> None:
    assert set(re.findall(r"STUDIO_[A-Z_]+", text)) <= VARIABLES


def test_probes_ask_routes_that_exist_at_the_port_that_is_served() -> None:
    (server,) = pod("Deployment")["containers"]
    paths = {route.path for route in system.router.routes if hasattr(route, "path")}
    asked = {name: server[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe["path"] for probe in asked.values()} <= paths
    assert asked["readinessProbe"]["path"] == "/readyz"
    assert asked["livenessProbe"]["path"] == "/healthz"
    assert server["ports"] == [{"name": "http", "containerPort": PORT}]
    assert f"EXPOSE {PORT}\n" in CONTAINERFILE
    assert f"STUDIO_PORT={PORT}\n" in CONTAINERFILE
    assert of("NetworkPolicy")["spec"]["ingress"][0]["ports"][0]["port"] == PORT


def test_the_time_to_end_covers_the_drain() -> None:
    (server,) = pod("Deployment")["containers"]
    before = int(server["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert pod("Deployment")["terminationGracePeriodSeconds"] >= before + GRACE_S + 10
    assert int(re.search(r"TimeoutStopSec=(\d+)", UNIT)[1]) >= GRACE_S + 10  # type: ignore[index]


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_a_pod_runs_as_nobody_on_a_read_only_root_with_secrets_in_files(kind: str) -> None:
    spec = pod(kind)
    (container,) = spec["containers"]
    user = spec["securityContext"]["runAsUser"]
    assert f"USER {user}:{user}\n" in CONTAINERFILE
    assert spec["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts["secrets"] == env["STUDIO_SECRETS_DIR"]
    assert f"STUDIO_DATA_DIR={mounts['data']} " in CONTAINERFILE
    assert not {"STUDIO_ENCRYPTION_KEYS", "STUDIO_DATABASE_URL"} & env.keys()
    assert spec["volumes"] == pod("Deployment")["volumes"]


def test_selectors_find_the_server_and_not_the_job() -> None:
    labels = of("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert labels == of("Deployment")["spec"]["selector"]["matchLabels"] == of("Service")["spec"]["selector"]
    assert labels == of("PodDisruptionBudget")["spec"]["selector"]["matchLabels"]
    assert labels != of("Job")["spec"]["template"]["metadata"]["labels"]
    assert of("Deployment")["spec"]["replicas"] == 3


def test_the_container_file_pins_what_it_takes() -> None:
    (base,) = re.findall(r"^ARG BASE=(\S+)$", CONTAINERFILE, re.M)
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", base)
    assert re.findall(r"^FROM (\S+)", CONTAINERFILE, re.M) == ["${BASE}"] * 2
    (uv,) = re.findall(r"uv==[\d.]+", CONTAINERFILE)
    assert uv in (ROOT / "scripts" / "setup.sh").read_text()
    assert all("--locked" in line for line in re.findall(r"^RUN uv sync.*", CONTAINERFILE, re.M))
    for copied in re.findall(r"^COPY (?!--from)(.*) \S+$", CONTAINERFILE, re.M):
        ignored = (DEPLOY / "Containerfile.dockerignore").read_text().split()
        assert all(f"!{name}" in ignored and (ROOT / name).exists() for name in copied.split())


def test_systemd_takes_the_unit_and_finds_it_hardened(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    assert analyze, "systemd-analyze is missing; run: apt-get install systemd (make servers does it)"
    program = Path(sys.executable).with_name("studio")
    unit = tmp_path / "studio-connectors.service"
    unit.write_text(UNIT.replace("/opt/studio/bin/studio", str(program)))
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    ask = [analyze, "security", "--offline=true", "--no-pager", "--threshold=15", str(unit)]
    done = subprocess.run(ask, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-300:]
    unit.write_text(unit.read_text().replace("DynamicUser=yes", "").replace("CapabilityBoundingSet=\n", ""))
    assert subprocess.run(ask, capture_output=True, check=False).returncode != 0
