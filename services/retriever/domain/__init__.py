"""What the retriever speaks about, and the ports that its rooms meet through. Standard library only.

Times are microseconds since 1970 in UTC; offsets are Unicode code points of the extracted text.
"""

from services.retriever.domain.documents import (
    DOCX,
    HTML,
    MARKDOWN,
    MAX_DOCUMENT_BYTES,
    MEDIA_TYPES,
    PDF,
    PLAIN,
    Block,
    Chunk,
    DocumentKey,
    Header,
    Kind,
    NewChunk,
    NewDocument,
    ParsedDocument,
    StoredDocument,
    Unreadable,
    Vector,
)
from services.retriever.domain.models import (
    Embedded,
    EmbeddingModel,
)
from services.retriever.domain.ports import (
    Embedder,
    Parser,
    Store,
)
from services.retriever.domain.search import (
    Hit,
    Mode,
    Passage,
    View,
)

__all__ = [
    "DOCX",
    "HTML",
    "MARKDOWN",
    "MAX_DOCUMENT_BYTES",
    "MEDIA_TYPES",
    "PDF",
    "PLAIN",
    "Block",
    "Chunk",
    "DocumentKey",
    "Embedded",
    "Embedder",
    "EmbeddingModel",
    "Header",
    "Hit",
    "Kind",
    "Mode",
    "NewChunk",
    "NewDocument",
    "ParsedDocument",
    "Parser",
    "Passage",
    "Store",
    "StoredDocument",
    "Unreadable",
    "Vector",
    "View",
]
