"""Why a document is refused: stable words, each with what its sender can do."""

from services.retriever.domain import MEDIA_TYPES, Unreadable

ADVICE = {
    "UNSUPPORTED_MEDIA_TYPE": f"send one of {' '.join(MEDIA_TYPES)}",
    "ENCODING": "save it as UTF-8",
    "ENCRYPTED": "save it without a password",
    "MALFORMED": "open it, save it anew and send that, or send it as another type",
    "NO_TEXT": "a scan needs text recognition (OCR) first",
    "TOO_LARGE": "split it",
    "TOO_MANY_PAGES": "split it",
    "TOO_MANY_ROWS": "split it, or leave out rows that nobody asks about",
    "TOO_MANY_COLUMNS": "leave out columns that nobody asks about",
    "TOO_MANY_PARTS": "split it, or send its parts one by one",
    "TOO_MANY_HEADERS": "export the message anew without transport headers",
    "CELL_TOO_LARGE": "move the text of that cell into a document of its own",
    "TOO_DEEP": "flatten it, or send it as plain text",
    "ZIP_BOMB": "if it is genuine, save it without its pictures and embedded files",
    "ENTITIES": "save it anew with an office program: those declare no document type or entities",
    "MEMORY": "split it, or send it as plain text",
    "TIMEOUT": "split it, or send it as plain text",
    "CRASHED": "split it, or send it as plain text",
}
"""What to do, by reason; the reasons are the values of the label of tandem_retriever_parse_failures_total."""


def refusal(reason: str, fault: str) -> Unreadable:
    """Returns the error that tells a fault and what to do about it."""
    return Unreadable(reason, f"{fault}; {ADVICE[reason]}")
