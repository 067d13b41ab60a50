"""A sample company on disk: its principals, documents, adapters and demo questions."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tandem.client import Upload
from tandem.errors import ConfigError
from tandem.security import Principal
from tandem.stack import read_principals


@dataclass(frozen=True)
class DemoQuestion:
    """Is a question of the demo; history is (question, answer) pairs, expect says what a good answer holds."""

    question: str
    principal: str
    policy: str
    history: list[tuple[str, str]]
    note: str
    expect: str


@dataclass(frozen=True)
class Company:
    """Is a sample company.

    `folder` holds manifest.jsonl, principals.json, demo.jsonl, documents/, adapters/ and, where it has some, domains/.
    """

    folder: Path
    principals: dict[str, Principal]
    demo: list[DemoQuestion]

    @property
    def adapters(self) -> Path:
        """Where the company's adapters are, by tenant."""
        return self.folder / "adapters"

    @property
    def trust(self) -> Path:
        """The public keys that have signed the company's adapters."""
        return self.folder / "trusted-signers.json"

    @property
    def domains(self) -> Path | None:
        """The company's domains, None where it has none."""
        folder = self.folder / "domains"
        return folder if folder.is_dir() else None

    def editor(self, tenant: str) -> str:
        """Returns the name of a principal that may ingest for a tenant; raises ConfigError when there is none."""
        for name, principal in self.principals.items():
            if principal.tenant == tenant and "editor" in principal.roles:
                return name
        raise ConfigError(f"{self.folder / 'principals.json'} has no editor for the tenant {tenant}")

    def uploads(self) -> dict[str, list[Upload]]:
        """Returns the documents of each tenant."""
        rows: dict[str, list[Upload]] = {}
        for row in _lines(self.folder / "manifest.jsonl"):
            upload = Upload(
                document_id=row["document_id"],
                source=Path(row["path"]).name,
                data=(self.folder / row["path"]).read_bytes(),
                media_type=row["media_type"],
                title=row["title"],
                groups=tuple(row["groups"]),
                valid_from=_moment(row["valid_from"]),
                # The manifest names the last day in force; the contract asks for the first moment after it.
                valid_until=_moment(row["valid_until"], add_days=1),
                attributes={"kind": row["kind"]},
            )
            rows.setdefault(row["tenant"], []).append(upload)
        return rows


def read(folder: Path) -> Company:
    """Reads a sample company; raises ConfigError when a file is missing or broken."""
    try:
        demo = [
            DemoQuestion(
                question=row["question"],
                principal=row["as"],
                policy=row["policy"],
                history=[(turn["question"], turn["answer"]) for turn in row["history"]],
                note=row["note"],
                expect=row["expect"],
            )
            for row in _lines(folder / "demo.jsonl")
        ]
    except OSError as error:
        raise ConfigError(f"{folder} is not a sample company: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{folder / 'demo.jsonl'} is broken: {error}") from error
    return Company(folder=folder, principals=read_principals(folder / "principals.json"), demo=demo)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _moment(date: str | None, *, add_days: int = 0) -> datetime | None:
    return None if date is None else datetime.fromisoformat(date).replace(tzinfo=UTC) + timedelta(days=add_days)
