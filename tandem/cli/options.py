"""Reads what options say."""

from datetime import UTC, datetime

from tandem.errors import InvalidInput


def date(text: str) -> datetime | None:
    """Returns the beginning of a day in UTC, None for no text."""
    if not text:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise InvalidInput.of("--as-of", f"is not a date like 2026-01-31: {text!r}") from None
