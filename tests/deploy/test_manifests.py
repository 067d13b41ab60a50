"""The Kubernetes manifests, rendered as kustomize renders them: valid, confined, and true to the code they run."""

import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from services.retriever.sources.config import load_sources
from tandem import config

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "deploy" / "k8s"
KUBECTL = Path(sys.executable).parent / "kubectl"
KUBERNETES = "1.37"
SERVICES = ("embedder", "generator", "retriever", "router")
# Read by the libraries below a service, not by tandem.config.
RUNTIME_VARIABLES = {"GOMP_SPINCOUNT"}
# Made by the operator, as deploy/k8s/README.md tells; never in the repository.
OPERATOR_SECRETS = {
    "tandem-tokens": {"tokens.json"},
    "tandem-credentials": {"router.token", "retriever.token"},
    "tandem-milvus": {"token", "ca.crt", "tls.crt", "tls.key"},
    "tandem-adapter-keys": {"trusted-signers.json", "keyring.json"},
}
KUSTOMIZATIONS = [K8S / "base", *sorted(path.parent for path in K8S.glob("overlays/*/kustomization.yaml"))]
Manifest = dict[str, Any]

each_kustomization = pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda path: path.name)


@cache
def render(folder: Path) -> list[Manifest]:
    """Returns the objects that a kustomization stands for."""
    done = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [row for row in yaml.safe_load_all(done.stdout) if row]


def of_kind(folder: Path, *kinds: str) -> list[Manifest]:
    return [row for row in render(folder) if row["kind"] in kinds]


def workloads(folder: Path) -> Iterator[tuple[str, Manifest, Manifest]]:
    """Yields the name, the spec and the pod's spec of each workload."""
    for row in of_kind(folder, "Deployment", "StatefulSet", "DaemonSet", "Job"):
        yield row["metadata"]["name"], row["spec"], row["spec"]["template"]["spec"]


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def environment(folder: Path, container: Manifest) -> dict[str, str]:
    """Returns the variables of a container, those of its ConfigMaps included."""
    maps = {row["metadata"]["name"]: row.get("data", {}) for row in of_kind(folder, "ConfigMap")}
    values: dict[str, str] = {}
    for source in container.get("envFrom", []):
        values |= maps[source["configMapRef"]["name"]]
    return values | {row["name"]: row.get("value", "") for row in container.get("env", [])}


def knobs(service: str) -> dict[str, config.SettingDoc]:
    """Returns the knobs of a service by variable name."""
    module = pytest.importorskip(f"services.{service}.config", reason=f"services/{service} is not there yet")
    declared = getattr(module, f"{service.capitalize()}Config")
    return {row.variable: row for row in config.describe(declared, service.upper())}


@each_kustomization
def test_objects_fit_the_schemas_of_kubernetes(folder: Path) -> None:
    for row in render(folder):
        kubernetes_validate.validate(row, KUBERNETES, strict=True)


def test_a_misspelt_field_would_be_noticed() -> None:
    row = next(row for row in render(K8S / "base") if row["kind"] == "Deployment")
    broken = {**row, "spec": {**row["spec"], "replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


@each_kustomization
def test_every_service_is_deployed_and_named(folder: Path) -> None:
    assert sorted(name for name, _, _ in workloads(folder)) == sorted(SERVICES)
    assert sorted(row["metadata"]["name"] for row in of_kind(folder, "Service")) == sorted(SERVICES)
    assert {row["metadata"].get("namespace") for row in render(folder) if row["kind"] != "Namespace"} == {"tandem"}


@each_kustomization
def test_pods_are_confined(folder: Path) -> None:
    for name, _, pod in workloads(folder):
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] > 0, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")), name
        assert not any("hostPath" in volume for volume in pod["volumes"]), name
        for container in containers(pod):
            inner = container["securityContext"]
            assert inner["readOnlyRootFilesystem"] is True, name
            assert inner["allowPrivilegeEscalation"] is False, name
            assert inner["capabilities"] == {"drop": ["ALL"]}, name
            assert not inner.get("privileged"), name
            assert "hostPort" not in str(container["ports"]), name


@each_kustomization
def test_the_namespace_enforces_the_restricted_profile(folder: Path) -> None:
    (namespace,) = of_kind(folder, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@each_kustomization
def test_kubernetes_adds_no_variables_of_its_own(folder: Path) -> None:
    # A Service "router" would give every pod ROUTER_PORT, which the settings refuse as an unknown knob.
    for name, _, pod in workloads(folder):
        assert pod["enableServiceLinks"] is False, name


@each_kustomization
def test_resources_are_requested_and_limited(folder: Path) -> None:
    for name, _, pod in workloads(folder):
        for container in containers(pod):
            for kind in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(container["resources"][kind]), (name, kind)
        for volume in pod["volumes"]:
            if "emptyDir" in volume:
                assert "sizeLimit" in volume["emptyDir"], (name, volume["name"])


@each_kustomization
def test_images_carry_the_version_of_the_project(folder: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name, _, pod in workloads(folder):
        assert [container["image"] for container in containers(pod)] == [f"tandem-{name}:{version}"]


@each_kustomization
def test_probes_ask_for_services_that_exist(folder: Path) -> None:
    for name, _, pod in workloads(folder):
        (container,) = pod["containers"]
        module = importlib.import_module(f"tandem.v1.{name}_service_pb2")
        (descriptor,) = module.DESCRIPTOR.services_by_name.values()
        (port,) = (port["containerPort"] for port in container["ports"] if port["name"] == "grpc")
        for probe in ("startupProbe", "readinessProbe"):
            assert container[probe]["grpc"] == {"port": port, "service": descriptor.full_name}, (name, probe)
        assert container["livenessProbe"]["grpc"] == {"port": port, "service": ""}, name


@each_kustomization
def test_pods_get_the_time_to_drain(folder: Path) -> None:
    for name, _, pod in workloads(folder):
        (container,) = pod["containers"]
        drain = float(environment(folder, container)[f"{name.upper()}_DRAIN_SECONDS"])
        pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod["terminationGracePeriodSeconds"] >= pause + drain + 10, name


@each_kustomization
def test_a_volume_has_one_writer(folder: Path) -> None:
    """But for the adapters, whose aliases every replica changes under a lock."""
    writers: dict[str, list[str]] = {}
    for name, spec, pod in workloads(folder):
        claims = {row["name"]: row["persistentVolumeClaim"] for row in pod["volumes"] if "persistentVolumeClaim" in row}
        for mount in [mount for container in containers(pod) for mount in container["volumeMounts"]]:
            claim = claims.get(mount["name"])
            if claim and claim["claimName"] == "generator-adapters":
                assert name == "generator"
            elif claim and not (claim.get("readOnly") and mount.get("readOnly")):
                writers.setdefault(claim["claimName"], []).append(name)
                assert spec["replicas"] == 1, name
                assert spec["strategy"] == {"type": "Recreate"}, name
    assert writers == {"retriever-data": ["retriever"], "router-data": ["router"]}


@each_kustomization
def test_an_unshared_volume_is_read_by_one_pod(folder: Path) -> None:
    modes = {row["metadata"]["name"]: row["spec"]["accessModes"] for row in of_kind(folder, "PersistentVolumeClaim")}
    for name, spec, pod in workloads(folder):
        for volume in pod["volumes"]:
            claim = volume.get("persistentVolumeClaim")
            if claim and spec["replicas"] > 1:
                assert modes[claim["claimName"]] in (["ReadWriteMany"], ["ReadOnlyMany"]), name


@each_kustomization
def test_everything_referenced_is_there(folder: Path) -> None:
    maps = {row["metadata"]["name"] for row in of_kind(folder, "ConfigMap")}
    claims = {row["metadata"]["name"] for row in of_kind(folder, "PersistentVolumeClaim")}
    for name, _, pod in workloads(folder):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims, name
            elif "secret" in volume:
                keys = {item["key"] for item in volume["secret"]["items"]}
                assert keys <= OPERATOR_SECRETS[volume["secret"]["secretName"]], name
            elif "configMap" in volume:
                assert volume["configMap"]["name"] in maps, name
            else:
                assert "emptyDir" in volume, (name, volume)
        for container in containers(pod):
            assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes), name
            assert not any("subPath" in mount for mount in container["volumeMounts"]), name
            assert {source["configMapRef"]["name"] for source in container["envFrom"]} <= maps, name


@each_kustomization
def test_the_repository_holds_no_secret(folder: Path) -> None:
    assert of_kind(folder, "Secret") == []
    for _, _, pod in workloads(folder):
        for container in containers(pod):
            assert "secretKeyRef" not in str(container)
            assert "secretRef" not in str(container)


@each_kustomization
def test_services_and_budgets_select_pods_and_ports(folder: Path) -> None:
    pods = {row["metadata"]["name"]: row["spec"]["template"] for row in of_kind(folder, "Deployment")}
    for row in of_kind(folder, "Service"):
        template = pods[row["metadata"]["name"]]
        assert row["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
        for port in row["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]
    for row in of_kind(folder, "PodDisruptionBudget"):
        labels = pods[row["metadata"]["name"]]["metadata"]["labels"]
        assert row["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_services_of_several_pods_are_headless() -> None:
    replicas = {name: spec["replicas"] for name, spec, _ in workloads(K8S / "base")}
    for row in of_kind(K8S / "base", "Service"):
        assert (row["spec"].get("clusterIP") == "None") == (replicas[row["metadata"]["name"]] > 1)


@each_kustomization
def test_metrics_are_scraped_where_they_are_served(folder: Path) -> None:
    for row in of_kind(folder, "Deployment"):
        name, template = row["metadata"]["name"], row["spec"]["template"]
        notes = template["metadata"]["annotations"]
        (container,) = template["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert notes["prometheus.io/scrape"] == "true"
        assert notes["prometheus.io/port"] == str(ports["metrics"])
        values = environment(folder, container)
        assert values[f"{name.upper()}_METRICS_LISTEN"] == f"0.0.0.0:{ports['metrics']}"
        assert values[f"{name.upper()}_LISTEN"] == f"0.0.0.0:{ports['grpc']}"


@pytest.mark.parametrize("service", SERVICES)
@each_kustomization
def test_variables_are_knobs_of_the_service(folder: Path, service: str) -> None:
    declared = knobs(service)
    (pod,) = (pod for name, _, pod in workloads(folder) if name == service)
    values = environment(folder, pod["containers"][0])
    assert set(values) - RUNTIME_VARIABLES <= set(declared)
    module = importlib.import_module(f"services.{service}.config")
    config.load(getattr(module, f"{service.capitalize()}Config"), service.upper(), values)


@each_kustomization
def test_paths_of_knobs_are_mounted(folder: Path) -> None:
    for name, _, pod in workloads(folder):
        (container,) = pod["containers"]
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        for variable, value in environment(folder, container).items():
            path = value.removeprefix("sqlite:///")
            if path.startswith("/"):
                assert any(path == mount or path.startswith(f"{mount}/") for mount in mounts), (name, variable)


@each_kustomization
def test_accepted_jobs_outlive_the_pod(folder: Path) -> None:
    (pod,) = (pod for name, _, pod in workloads(folder) if name == "retriever")
    (container,) = pod["containers"]
    spool = environment(folder, container)["RETRIEVER_SPOOL_DIR"]
    (mount,) = (row["name"] for row in container["volumeMounts"] if spool.startswith(f"{row['mountPath']}/"))
    (volume,) = (row for row in pod["volumes"] if row["name"] == mount)
    assert "persistentVolumeClaim" in volume


@each_kustomization
def test_the_live_sources_can_be_read(folder: Path, tmp_path: Path) -> None:
    (sources,) = (row for row in of_kind(folder, "ConfigMap") if "sources.toml" in row["data"])
    file = tmp_path / "sources.toml"
    file.write_text(sources["data"]["sources.toml"])
    assert load_sources(file) == []


@each_kustomization
def test_peers_are_services_of_this_namespace(folder: Path) -> None:
    ports = {row["metadata"]["name"]: row["spec"]["ports"][0]["port"] for row in of_kind(folder, "Service")}
    found = set()
    for name, _, pod in workloads(folder):
        for value in environment(folder, pod["containers"][0]).values():
            if match := re.fullmatch(r"dns:///(\w+):(\d+)", value):
                assert ports[match[1]] == int(match[2]), name
                found.add((name, match[1]))
    assert {peer for name, peer in found if name == "router"} == {"embedder", "retriever", "generator"}
