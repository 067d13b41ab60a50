"""What every answer is made with."""

from dataclasses import dataclass

from opentelemetry.trace import Tracer

from services.router.domain import Embedder, Generator, Grounding, Retriever
from services.router.engine.adapters import AdapterDirectory
from services.router.engine.judging import Judges
from services.router.metrics import RouterMetrics


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Holds what the operator chose for all questions; what differs by domain stands in the domain."""

    max_answer_tokens: int
    max_prompt_characters: int
    stream_drafts: bool


@dataclass(frozen=True, kw_only=True)
class Tools:
    """Holds what every run works with."""

    embedder: Embedder
    retriever: Retriever
    generator: Generator
    adapters: AdapterDirectory
    grounding: Grounding
    judges: Judges
    metrics: RouterMetrics
    tracer: Tracer
    settings: RunSettings
