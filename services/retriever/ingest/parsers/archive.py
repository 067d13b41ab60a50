"""The gate before Office Open XML files: what is in the archive is looked at before a library unpacks it."""

import zipfile
from io import BytesIO
from typing import Any
from xml.parsers import expat

from services.retriever.ingest.reasons import refusal

_MAX_UNPACKED = 256 * 1024 * 1024
_MAX_MEMBERS = 10_000
# XML of long tables packs to a fiftieth; what packs better and is large was made to be.
_MAX_RATIO = 200
_SMALL = 8 * 1024 * 1024
_MAX_DEPTH = 100
_PIECE = 1 << 16
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def check(data: bytes) -> None:
    """Raises Unreadable for what is no archive, unpacks to too much, or holds XML with a document type or too deep."""
    if data.startswith(_OLE):
        if "EncryptedPackage".encode("utf-16-le") in data:
            raise refusal("ENCRYPTED", "the document is encrypted")
        raise refusal("MALFORMED", "the file is of the old binary format of Office")
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            _check_members(archive.infolist())
            for member in archive.infolist():
                if member.filename.lower().endswith((".xml", ".rels")):
                    _check_xml(archive, member)
    except zipfile.BadZipFile:
        raise refusal("MALFORMED", "the file is not a whole zip archive, as .docx and .xlsx files are") from None


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    if len(members) > _MAX_MEMBERS:
        raise refusal("TOO_MANY_PARTS", f"the archive has more than {_MAX_MEMBERS} members")
    if any(member.flag_bits & 1 for member in members):
        raise refusal("ENCRYPTED", "the document is encrypted")
    if sum(member.file_size for member in members) > _MAX_UNPACKED:
        raise refusal("ZIP_BOMB", f"the archive unpacks to more than {_MAX_UNPACKED >> 20} MiB")
    for member in members:
        if member.file_size > max(_SMALL, member.compress_size * _MAX_RATIO):
            raise refusal("ZIP_BOMB", f"the archive unpacks to more than {_MAX_RATIO} times its size")


def _check_xml(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Reads a member's elements in pieces, never the whole; a zip reader gives no more than the size it was told."""
    parser, depth = expat.ParserCreate(), 0

    def start(*_: Any) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise refusal("TOO_DEEP", f"the document nests more than {_MAX_DEPTH} elements")

    def end(_: str) -> None:
        nonlocal depth
        depth -= 1

    def doctype(*_: Any) -> None:
        raise refusal("ENTITIES", "the document declares a document type, which could make it grow without end")

    parser.StartElementHandler, parser.EndElementHandler, parser.StartDoctypeDeclHandler = start, end, doctype
    with archive.open(member) as file:
        try:
            while piece := file.read(_PIECE):
                parser.Parse(piece, False)
        except expat.ExpatError:
            return  # not every part is read; one that is meets a reader that refuses it itself
