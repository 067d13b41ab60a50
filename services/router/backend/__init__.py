"""The peers: embedder, retriever and generator behind the router's ports.

The channels carry the router's own credential and the caller's identity. Failures come back as TandemError.
"""

from services.router.backend.documents import PeerDocuments
from services.router.backend.embedder import PeerEmbedder
from services.router.backend.generator import PeerGenerator
from services.router.backend.retriever import PeerRetriever

__all__ = ["PeerDocuments", "PeerEmbedder", "PeerGenerator", "PeerRetriever"]
