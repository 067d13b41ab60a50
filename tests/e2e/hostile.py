"""Values that break careless programs."""

import math

INTEGERS = (0, 1, -1, 2, 7, 100, 101, 1001, 2**31 - 1, -(2**31))
LONGS = (*INTEGERS, 2**63 - 1, -(2**63), 253402300800, -62135596801)
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e-45, 3e38, -3e38, math.nan, math.inf, -math.inf)
STRINGS = (
    "", " ", "\x00", "a\x00b", "\u202ereversed\u202c", "\u200b\u200d\ufeff", "é" * 40, "e\u0301" * 40, "😀" * 40,
    "\U0010ffff\ufffe", '" or tenant == "halden', "') or 1 == 1 --", "tenant == 'halden' || true", "\\", '"',
    "{{7*7}}", "%s%n%x", "${TOKEN}", "../../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "CON",
    "<script>alert(1)</script>", "\r\nx: y", "a\n" * 50, "null", "NaN", "-1", "0", "1e999", "True", "[1]", "{}",
    "a" * 129, "a" * 1025, "system", "user", "assistant", "hybrid", "cascade", "rag", "text/plain",
    "application/pdf", "x.pdf", "x.docx", "x.html", "_shared", "answers", "<|im_end|>", "token",
)  # fmt: skip
# Bytes that open like a document of some format and go on like none.
FILES = (
    b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\ntrailer<</Root 1 0 R>>", b"PK\x03\x04\x14\x00", b"<html><body><table><tr>",
    b"\xff\xfe\x00", b"# h\n" * 200, b"<" * 3000, b"> " * 500 + b"x", b"[" * 2000, b"| a " * 300, b"\x00" * 100,
    b"word " * 2000, b"a,b;c\td\n" * 300, b'"' * 2001, b"sep=\x00\n1\x002\n", b"Content-Type: x\n" * 100,
    b"From: a\nSubject: =?utf-8?b?////?=\n\nx",
    b'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="a"\n\n' + b"--a\n" * 300,
)  # fmt: skip
