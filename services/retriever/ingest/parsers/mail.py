"""Reads e-mail (.eml): subject, correspondents and date, then the text; attachments are named, not read.

Of alternatives the plain text is read, the HTML where that is blank.
"""

import re
from collections.abc import Sequence
from email import message_from_bytes
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.policy import EmailPolicy
from email.policy import default as default_policy
from typing import cast

from services.retriever.domain import Kind
from services.retriever.ingest.parsers.canonical import Builder, Extracted, clean, decode_as, one_line
from services.retriever.ingest.parsers.html import add_page
from services.retriever.ingest.parsers.plain import PARAGRAPH
from services.retriever.ingest.reasons import refusal

_MAX_HEADERS = 2_000  # of the message and its parts together
_MAX_HEADER_CHARACTERS = 1_000_000
_MAX_HEADER = 65_536
_MAX_SHOWN = 2_000
_MAX_PARTS = 1_000
_MAX_DEPTH = 30
_ENCRYPTED = frozenset({"multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime"})
# A line of "flowed" text (RFC 3676) that ends with a space goes on in the next one, unless that is quoted.
_FLOWED = re.compile(r"(?<!^--) \n(?![>\n])", re.MULTILINE)


def extract(data: bytes, max_characters: int) -> Extracted:
    """Returns the text of the message."""
    message = cast(EmailMessage, message_from_bytes(data, policy=_Bounded(message_factory=_counted())))
    headers = {name.lower(): value for name, value in reversed(list(message.raw_items()))}
    if not headers:
        raise refusal("MALFORMED", "the file does not begin with the headers of an e-mail")
    builder = Builder(max_characters)
    builder.add(Kind.HEADING, _shown(headers.get("subject", "")), level=1)
    known = [(name, _shown(headers.get(name.lower(), ""))) for name in ("From", "To", "Cc", "Date")]
    builder.add(Kind.PARAGRAPH, "\n".join(f"{name}: {value}" for name, value in known if value))
    walk = _Walk(builder)
    walk.part(message, 1)
    builder.add(Kind.LIST, "\n".join(f"- Attachment: {name}" for name in walk.attachments))
    return builder.build()


class _Bounded(EmailPolicy):
    """Is the default policy with bounds on headers, which are counted as they are read."""

    _seen: dict[str, int]

    def __init__(self, **wishes: object) -> None:
        super().__init__(**{**vars(default_policy), **wishes})
        object.__setattr__(self, "_seen", {"headers": 0, "characters": 0})

    def header_source_parse(self, sourcelines: Sequence[str]) -> tuple[str, str]:
        """Returns name and value of a header; raises Unreadable for too many and too long ones."""
        length = sum(map(len, sourcelines))
        self._seen["headers"] += 1
        self._seen["characters"] += length
        if self._seen["headers"] > _MAX_HEADERS or self._seen["characters"] > _MAX_HEADER_CHARACTERS:
            raise refusal("TOO_MANY_HEADERS", f"the message has more than {_MAX_HEADERS} headers, or very long ones")
        if length > _MAX_HEADER:
            raise refusal("TOO_MANY_HEADERS", f"a header of the message has more than {_MAX_HEADER} characters")
        return super().header_source_parse(list(sourcelines))


def _counted() -> object:
    """Returns a factory of messages that refuses to make very many."""
    number = 0

    def make(policy: EmailPolicy | None = None) -> EmailMessage:
        nonlocal number
        number += 1
        if number > _MAX_PARTS:
            raise refusal("TOO_MANY_PARTS", f"the message has more than {_MAX_PARTS} parts")
        return EmailMessage(policy=policy)

    return make


class _Walk:
    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self.attachments: list[str] = []

    def part(self, part: EmailMessage, depth: int) -> None:
        """Reads a part and those in it."""
        if depth > _MAX_DEPTH:
            raise refusal("TOO_DEEP", f"the message nests more than {_MAX_DEPTH} parts")
        kind = part.get_content_type()
        if kind in _ENCRYPTED and "signed-data" not in str(part.get_param("smime-type", "")):
            raise refusal("ENCRYPTED", "the message is encrypted")
        if part.get_content_maintype() == "multipart" and part.is_multipart():
            parts = [child for child in part.iter_parts() if isinstance(child, EmailMessage)]
            if kind == "multipart/alternative":
                parts = _best(parts)
            elif kind == "multipart/related":
                parts = parts[:1]  # the others are its pictures
            for child in parts:
                self.part(child, depth + 1)
        elif kind in ("text/plain", "text/html") and not _filed(part):
            self._text(part, kind)
        else:
            self.attachments.append(f"{_name(part)} ({kind})")

    def _text(self, part: EmailMessage, kind: str) -> None:
        if kind == "text/html":
            add_page(self._builder, _payload(part), str(part.get_param("charset", "")))
            return
        text = _text_of(part)
        for match in PARAGRAPH.finditer(text):
            self._builder.add(Kind.PARAGRAPH, match[0])


def _best(parts: list[EmailMessage]) -> list[EmailMessage]:
    plain = [part for part in parts if part.get_content_type() == "text/plain" and _text_of(part).strip()]
    rich = [part for part in parts if part.get_content_type() == "text/html" or part.is_multipart()]
    return (plain or rich or parts)[:1]


def _text_of(part: EmailMessage) -> str:
    text = decode_as(_payload(part), str(part.get_param("charset", "")))
    return _FLOWED.sub(" ", text) if str(part.get_param("format", "")).lower() == "flowed" else text


def _payload(part: EmailMessage) -> bytes:
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _filed(part: EmailMessage) -> bool:
    return part.get_content_disposition() == "attachment" or bool(part.get_filename())


def _name(part: EmailMessage) -> str:
    if name := part.get_filename():
        return one_line(clean(name))[:255]
    inner = part.get_payload(0) if part.get_content_type() == "message/rfc822" and part.is_multipart() else None
    subject = {name.lower(): value for name, value in inner.raw_items()} if isinstance(inner, EmailMessage) else {}
    return _shown(subject.get("subject", ""))[:255] or "without a name"


def _shown(value: str) -> str:
    """Returns the raw value of a header as one line of text."""
    raw = value[:_MAX_SHOWN].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    try:
        return one_line(clean(str(make_header(decode_header(raw)))))
    except (HeaderParseError, LookupError, ValueError):
        return one_line(clean(raw))
