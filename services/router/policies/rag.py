"""rag: retrieve, answer from the passages with citations."""

from dataclasses import replace

from services.router.domain import (
    ABSTAINED_TEXT,
    EMBEDDER,
    Draft,
    PartDown,
    Passage,
    Paths,
    QueryVector,
    Route,
    StepKind,
)
from services.router.policies.finetuned import figure


class Rag:
    """Answers from retrieved passages."""

    name = "rag"
    description = "Passages are retrieved and the answer is read from them, with citations."

    def __init__(self, *, min_support: float = 0.5) -> None:
        self._min_support = min_support

    async def decide(self, paths: Paths) -> Draft:
        """Returns the answer read from passages; raises PartDown when the retriever is down."""
        await paths.step(StepKind.CHOOSE, Route.RAG, "the policy reads retrieved passages")
        return await answer_from_passages(paths, min_support=self._min_support)


async def answer_from_passages(paths: Paths, *, min_support: float) -> Draft:
    """Takes the evidence path as far as the parts that are up allow; raises PartDown without a retriever.

    An answer is withheld when passages support less than min_support of its characters.
    """
    passages = await _find(paths)
    if not passages:
        await paths.step(StepKind.ABSTAIN, Route.RAG, "the search returned 0 passages")
        return Draft(route=Route.RAG, text=ABSTAINED_TEXT, abstained=True)
    try:
        draft = await paths.read(passages)
    except PartDown as down:
        return await _quote(paths, passages, down)
    if draft.abstained:
        reason = f"{len(draft.passages)} passages were read and none holds the answer"
        await paths.step(StepKind.ABSTAIN, Route.RAG, reason)
        return draft
    support = _support(draft)
    if support < min_support:
        reason = (
            f"{len(draft.passages)} passages were read; they support {support:.0%} of the answer < {min_support:.0%}"
        )
        await paths.step(StepKind.ABSTAIN, Route.RAG, reason)
        # The citations go with the text whose sentences they are about.
        return replace(draft, text=ABSTAINED_TEXT, citations=(), abstained=True)
    left_out = len(passages) - len(draft.passages)
    await paths.step(
        StepKind.ACCEPT,
        Route.RAG,
        f"read {len(draft.passages)} of {len(passages)} passages"
        + (f" ({left_out} did not fit the prompt)" if left_out else "")
        + f", {len(draft.citations)} citations; {figure(draft)}",
    )
    return draft


def _support(draft: Draft) -> float:
    """Returns the share of the answer's characters that lie in cited sentences."""
    cited = sum(citation.answer_span.end - citation.answer_span.start for citation in draft.citations)
    return min(1.0, cited / max(1, len(draft.text.strip())))


async def _find(paths: Paths) -> tuple[Passage, ...]:
    try:
        vector: QueryVector | None = await paths.embed()
    except PartDown as down:
        vector = None
        await _by_words(paths, down)
    try:
        return await paths.search(vector)
    except PartDown as down:
        if vector is None or down.component != EMBEDDER:
            raise
        await _by_words(paths, down)
        return await paths.search(None)


async def _by_words(paths: Paths, down: PartDown) -> None:
    paths.degrade(EMBEDDER, "passages were found by their words alone, without meaning")
    await paths.step(StepKind.FALL_BACK, Route.RAG, f"{down}; searching by words alone")


async def _quote(paths: Paths, passages: tuple[Passage, ...], down: PartDown) -> Draft:
    paths.degrade(down.component, "the answer is a quotation of the best passage, not written by a model")
    reason = f"{down}; quoting the best of {len(passages)} passages"
    await paths.step(StepKind.FALL_BACK, Route.RAG, reason)
    draft = await paths.quote(passages)
    await paths.show(draft)
    return draft
