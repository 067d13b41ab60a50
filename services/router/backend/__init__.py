"""The peers: embedder, retriever and generator behind the router's ports.

The channels carry the router's own credential and the caller's identity. Failures come back as TandemError.
Each peer has one breaker, whoever calls it.
"""

from services.router.backend.breakers import BREAKER_OPEN, Breaker
from services.router.backend.documents import PeerDocuments
from services.router.backend.embedder import PeerEmbedder
from services.router.backend.generator import PeerGenerator
from services.router.backend.grounding import PeerLikelihoodScorer, PeerPairClassifier, PeerTextEmbedder
from services.router.backend.hedging import Hedge
from services.router.backend.retriever import PeerRetriever

__all__ = [
    "BREAKER_OPEN",
    "Breaker",
    "Hedge",
    "PeerDocuments",
    "PeerEmbedder",
    "PeerGenerator",
    "PeerLikelihoodScorer",
    "PeerPairClassifier",
    "PeerRetriever",
    "PeerTextEmbedder",
]
