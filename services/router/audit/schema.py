"""The audit log's tables, its engine, and the lock by which one process holds a chain.

A database that an earlier version made is used as it is: its tables are the same, and what they lack is added at the
start. No record is ever rewritten for that.
"""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    Engine,
    Index,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    insert,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
from sqlalchemy.schema import CreateIndex

from tandem.errors import ConfigError

metadata = MetaData()

records = Table(
    "audit_records",
    metadata,
    Column("writer", String(128), primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("answer_id", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("record_time", String(32), nullable=False),
    Column("subject", Text, nullable=False),
    Column("tenant", String(256), nullable=False),
    Column("payload_json", Text, nullable=False),
    Column("previous_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    UniqueConstraint("writer", "sequence", name="audit_records_chain"),
    UniqueConstraint("answer_id", "kind", name="audit_records_once"),
    Index("audit_records_by_time", "tenant", "record_time", "writer", "sequence"),
)
is_feedback = text("kind NOT IN ('opened', 'closed')")
# Feedback is rare among records: its lists must not read past all of those. A query uses the very same words, so that
# a database sees that the index serves it.
feedback_by_time = Index(
    "audit_records_feedback",
    records.c.tenant,
    records.c.record_time,
    records.c.writer,
    records.c.sequence,
    sqlite_where=is_feedback,
    postgresql_where=is_feedback,
)
# The end of each chain, kept beside it: removing the newest records is then found, too.
heads = Table(
    "audit_heads",
    metadata,
    Column("writer", String(128), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
)
# A row for each writer, locked for as long as its process lives; used where the database is not a file.
writers = Table("audit_writers", metadata, Column("writer", String(128), primary_key=True))

_TRIGGERS = (
    "CREATE TRIGGER IF NOT EXISTS audit_records_no_update BEFORE UPDATE ON audit_records "
    "BEGIN SELECT RAISE(ABORT, 'audit records are append-only'); END",
    "CREATE TRIGGER IF NOT EXISTS audit_records_no_delete BEFORE DELETE ON audit_records "
    "BEGIN SELECT RAISE(ABORT, 'audit records are append-only'); END",
    "CREATE TRIGGER IF NOT EXISTS audit_heads_forward BEFORE UPDATE ON audit_heads "
    "WHEN NEW.sequence <= OLD.sequence OR NEW.writer <> OLD.writer "
    "BEGIN SELECT RAISE(ABORT, 'a chain only grows'); END",
    "CREATE TRIGGER IF NOT EXISTS audit_heads_no_delete BEFORE DELETE ON audit_heads "
    "BEGIN SELECT RAISE(ABORT, 'a chain only grows'); END",
)
for _statement in _TRIGGERS:
    event.listen(metadata, "after_create", DDL(_statement).execute_if(dialect="sqlite"))  # type: ignore[no-untyped-call]

Release = Callable[[], None]


def open_engine(url: str) -> Engine:
    """Opens the database and creates what is missing; raises ConfigError when that cannot be done."""
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite" and _file_of(url) is None:
            raise ConfigError("the audit log must be kept: an SQLite database in memory is not")
        if path := _file_of(url):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        options: dict[str, Any] = (
            {} if parsed.get_backend_name() == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        )
        engine = create_engine(parsed, **options)
    except (ArgumentError, ImportError, OSError) as error:
        raise ConfigError(f"cannot open the audit log: {error}") from error
    if parsed.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    try:
        metadata.create_all(engine)
        with engine.begin() as connection:
            connection.execute(CreateIndex(feedback_by_time, if_not_exists=True))
    except SQLAlchemyError as error:
        engine.dispose()
        raise ConfigError(f"cannot open the audit log: {error.__class__.__name__}: {_first_line(error)}") from error
    return engine


def hold_chain(engine: Engine, url: str, writer: str) -> Release:
    """Makes this process the only writer of a chain until the result is called; raises ConfigError when one has it."""
    taken = ConfigError(
        f'another process writes the audit chain "{writer}"; stop it, or set ROUTER_WRITER to another name'
    )
    if engine.dialect.name != "sqlite":
        return _lock_row(engine, writer, taken)
    path = _file_of(url)
    if path is None:
        raise taken
    name = "".join(letter if letter.isalnum() or letter in "-_" else f"%{ord(letter):x}" for letter in writer)
    descriptor = os.open(path.with_name(f"{path.name}.{name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise taken from None
    return lambda: os.close(descriptor)


def _lock_row(engine: Engine, writer: str, taken: ConfigError) -> Release:
    try:
        with engine.begin() as connection:
            connection.execute(insert(writers).values(writer=writer))
    except IntegrityError:
        pass
    connection = engine.connect()
    try:
        connection.execute(select(writers).where(writers.c.writer == writer).with_for_update(nowait=True))
    except SQLAlchemyError:
        connection.close()
        raise taken from None
    return connection.close


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # Transactions are begun by hand, so that several reads see one state.
    connection.isolation_level = None
    # A byte that was tampered with may no longer be UTF-8: it must be read, to be found.
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    cursor = connection.cursor()
    for pragma in ("busy_timeout = 10000", "journal_mode = WAL", "synchronous = FULL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _file_of(url: str) -> Path | None:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        return None
    return Path(parsed.database)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
