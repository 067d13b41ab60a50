"""What `tandem up` runs: ports, folders, tokens and settings of the four services on one machine."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tandem.config import inherited_environment, trust_file
from tandem.errors import ConfigError, Unauthenticated
from tandem.security import Principal, TokenFile, issue, write_secret
from tandem.supervisor import Spec, free_port

# In the order of starting; stopping goes the other way round.
SERVICES = {
    "embedder": "tandem.v1.EmbedderService",
    "retriever": "tandem.v1.RetrieverService",
    "generator": "tandem.v1.GeneratorService",
    "router": "tandem.v1.RouterService",
}
DEFAULT_PORT = 7700
_METRICS_OFFSET = 2000
DEVELOPER = {
    "dev": Principal(
        subject="dev",
        tenant="default",
        groups=frozenset(),
        roles=frozenset({"user", "editor", "auditor", "operator", "platform"}),
    )
}


@dataclass(frozen=True)
class Home:
    """Is the folder in which a stack keeps everything: tokens, data, logs."""

    path: Path

    @property
    def tokens(self) -> Path:
        """Hashes of the accepted tokens; read by the services."""
        return self.path / "tokens.json"

    @property
    def credentials(self) -> Path:
        """Tokens by the name of their principal; read by the command line, and by nobody else."""
        return self.path / "credentials.json"

    @property
    def endpoints(self) -> Path:
        """Addresses of the running services."""
        return self.path / "endpoints.json"

    def secret(self, service: str) -> Path:
        """The token that a service presents to its peers."""
        return self.path / "secrets" / f"{service}.token"

    def data(self, name: str) -> Path:
        """A file or folder of a service's own."""
        return self.path / "data" / name

    def adapters(self) -> Path:
        """Adapters by tenant, where no other folder is named."""
        return self.path / "adapters"


def prepare(home: Home, principals: Mapping[str, Principal]) -> None:
    """Draws the tokens, unless the ones there are for these very principals.

    Tokens are drawn anew for all when a principal was added, changed or removed; otherwise they stay.
    """
    services = {
        f"service:{name}": Principal(subject=name, tenant="tandem", roles=frozenset({"service", "user"}))
        for name in SERVICES
    }
    if _holds(home, principals, services):
        return
    text, tokens = issue({**principals, **services})
    for name in SERVICES:
        write_secret(home.secret(name), tokens.pop(f"service:{name}") + "\n")
    write_secret(home.credentials, json.dumps(tokens, indent=1) + "\n")
    write_secret(home.tokens, text)


def _holds(home: Home, principals: Mapping[str, Principal], services: Mapping[str, Principal]) -> bool:
    """Tells whether the tokens on disk stand for these principals and services, and for no others."""
    try:
        held = json.loads(home.credentials.read_text())
        held |= {f"service:{name}": home.secret(name).read_text().strip() for name in SERVICES}
        wanted = {**principals, **services}
        resolver = TokenFile(home.tokens)
        return held.keys() == wanted.keys() and all(resolver.resolve(held[name]) == wanted[name] for name in held)
    except (OSError, ValueError, ConfigError, Unauthenticated):
        return False


def read_principals(path: Path) -> dict[str, Principal]:
    """Reads a JSON object of principals by name; raises ConfigError when it is none."""
    try:
        return {name: Principal.from_mapping(row) for name, row in json.loads(path.read_text()).items()}
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} does not hold principals by name: {error}") from error


def specs(
    home: Home,
    *,
    port: int = DEFAULT_PORT,
    adapters: Path | None = None,
    trust: Sequence[Path] = (),
    domains: Path | None = None,
) -> list[Spec]:
    """Makes the data folders and returns how to run the four services.

    Port is the router's, the others follow it, and 0 takes free ones. `trust` are files of keys whose signatures on
    adapters count beside those of the user's own file. `domains` is the folder of domains that the router serves; None
    serves the one that its settings describe. A variable that is set in this process's environment wins over the one
    worked out here.
    """
    for folder in (home.data(""), home.adapters()):
        folder.mkdir(parents=True, exist_ok=True)
    order = ["router", "embedder", "retriever", "generator"]
    ports = {name: (port + index if port else free_port()) for index, name in enumerate(order)}
    metrics = {name: (ports[name] + _METRICS_OFFSET if port else free_port()) for name in order}
    address = {name: f"127.0.0.1:{ports[name]}" for name in order}
    own: dict[str, dict[str, str]] = {
        "embedder": {},
        "retriever": {
            "RETRIEVER_MILVUS_URI": str(home.data("milvus.db").resolve()),
            "RETRIEVER_EMBEDDER_TARGET": address["embedder"],
        },
        "generator": {
            "GENERATOR_ADAPTER_DIR": str((adapters or home.adapters()).resolve()),
            "GENERATOR_ADAPTER_TRUST_FILES": ",".join(str(path.resolve()) for path in (trust_file(), *trust)),
        },
        "router": {
            "ROUTER_AUDIT_URL": f"sqlite:///{home.data('audit.db').resolve()}",
            "ROUTER_EMBEDDER_TARGET": address["embedder"],
            "ROUTER_RETRIEVER_TARGET": address["retriever"],
            "ROUTER_GENERATOR_TARGET": address["generator"],
            **({} if domains is None else {"ROUTER_DOMAINS_DIR": str(domains.resolve())}),
        },
    }
    result = []
    for name, health in SERVICES.items():
        prefix = name.upper()
        common = {
            f"{prefix}_LISTEN": address[name],
            f"{prefix}_METRICS_LISTEN": f"127.0.0.1:{metrics[name]}",
            f"{prefix}_TOKEN_FILE": str(home.tokens.resolve()),
            f"{prefix}_CREDENTIAL_FILE": str(home.secret(name).resolve()),
        }
        # Two model processes share the machine's cores: compute threads that wait may spin for a moment, not for long.
        quiet = {"GOMP_SPINCOUNT": "20000", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
        environment = {**quiet, **common, **own[name], **inherited_environment()}
        result.append(
            Spec(
                name=name,
                health=health,
                listen=environment[f"{prefix}_LISTEN"],
                metrics_listen=environment[f"{prefix}_METRICS_LISTEN"],
                environment=environment,
            )
        )
    return result


def write_endpoints(home: Home, running: list[Spec]) -> None:
    """Leaves the addresses where the command line finds them."""
    rows = {spec.name: {"grpc": spec.listen, "metrics": spec.metrics_listen} for spec in running}
    home.endpoints.write_text(json.dumps(rows, indent=1) + "\n")
