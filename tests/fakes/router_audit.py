"""An audit log on a real SQLite file, with a clock that a test sets, and the answers that are written to it."""

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prometheus_client import CollectorRegistry

from services.router.audit import AuditLog, AuditReader, Payloads
from services.router.domain import (
    Answer,
    ChainReport,
    Citation,
    Closing,
    Confidence,
    Draft,
    Drafted,
    Lineage,
    Opening,
    Outcome,
    Route,
    Span,
    StageTiming,
    Turn,
)
from services.router.metrics import RouterMetrics
from tandem.security import Principal
from tests.fakes.router import ALICE, question

BRAM = Principal("bram", "brightwater", frozenset(), frozenset({"user"}))
SECRET = "Why was claim 4711 of Ms Example refused?"


class Clock:
    """Is a clock that a test sets; each look moves it by a millisecond."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now


class Store:
    """Is an audit database in a folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "data" / "audit.db"
        self.url = f"sqlite:///{self.path}"
        self.clock = Clock()
        self.registry = CollectorRegistry()
        self.metrics = RouterMetrics(self.registry)
        self._open: list[AuditLog | AuditReader] = []

    def log(self, writer: str = "router", *, keep_text: bool = True, max_queue: int = 64) -> AuditLog:
        """Returns a log that is not started yet."""
        log = AuditLog(
            url=self.url,
            writer=writer,
            payloads=Payloads(keep_text=keep_text),
            metrics=self.metrics,
            max_queue=max_queue,
            now=self.clock,
        )
        self._open.append(log)
        return log

    def started(self, writer: str = "router", *, keep_text: bool = True, max_queue: int = 64) -> AuditLog:
        """Returns a log that writes."""
        log = self.log(writer, keep_text=keep_text, max_queue=max_queue)
        log.start()
        return log

    def reader(self) -> AuditReader:
        """Returns a started reader."""
        reader = AuditReader(self.url)
        reader.start()
        self._open.append(reader)
        return reader

    async def verify(self) -> dict[str, ChainReport]:
        """Returns what verification says of each chain."""
        return {report.writer: report for report in await self.reader().verify()}

    def tamper(self, *statements: str) -> None:
        """Changes the file as somebody with access to it would: without the triggers."""
        connection = sqlite3.connect(self.path)
        triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    def close(self) -> None:
        """Stops every log and reader that was handed out."""
        for item in self._open:
            item.stop()


def opening(answer_id: str, principal: Principal = ALICE) -> Opening:
    """Returns how an answer to the secret question begins."""
    asked = question(SECRET, policy="rag", history=(Turn("Who?", "Nobody."),))
    asked = type(asked)(**{**vars(asked), "principal": principal})
    return Opening(answer_id=answer_id, question=asked, rewritten_question=f"About: {SECRET}")


def closing(answer_id: str, principal: Principal = ALICE, outcome: Outcome = Outcome.ANSWERED) -> Closing:
    """Returns how that answer ends."""
    draft = Draft(
        route=Route.RAG,
        text="It was late: 30 days.",
        confidence=Confidence(0.84321),
        citations=(
            Citation(
                answer_span=Span(0, 5),
                document_id="d",
                chunk_id="d-1",
                title="T",
                document_span=Span(3, 10),
                quote="30 days",
            ),
        ),
    )
    answer = Answer(
        answer_id=answer_id,
        policy="rag",
        rewritten_question=SECRET,
        draft=draft,
        steps=(),
        timings=(StageTiming("total", 0.25),),
    )
    lineage = Lineage("tiny", "ab" * 32, "answers", "cd" * 32, "ef" * 8)
    drafts = (Drafted(Route.FINETUNED, lineage),)
    return Closing(answer_id=answer_id, principal=principal, outcome=outcome, answer=answer, drafts=drafts)


async def fill(log: AuditLog, *answer_ids: str, principal: Principal = ALICE) -> None:
    """Writes whole answers, one after another."""
    for answer_id in answer_ids:
        await log.open(opening(answer_id, principal))
        await log.close(closing(answer_id, principal))
