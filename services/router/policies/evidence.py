"""The evidence path, as far as the parts that are up and the caller's allowance let it go."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from services.router.domain import (
    ABSTAINED_TEXT,
    BUDGET,
    EMBEDDER,
    Below,
    Draft,
    PartDown,
    Passage,
    Paths,
    Route,
    StepKind,
)
from services.router.policies.finetuned import figure, withheld

NOTHING = Draft(route=Route.RAG, text=ABSTAINED_TEXT, abstained=True)
"""Is the evidence path's draft where the search returned nothing."""
NOTHING_FOUND = "the search returned 0 passages"
Other = Callable[[str], Awaitable[Draft]]
"""Takes the path that is left when passages support a draft too little; is given the figures."""


@dataclass(frozen=True)
class Found:
    """Is what a search returned, and what was missing where it went by words alone."""

    passages: tuple[Passage, ...]
    lacking: PartDown | None = None


async def find(paths: Paths, *, embed: bool | None = None) -> Found:
    """Searches by meaning where the allowance has room for that or `embed` says so, else by words; raises PartDown."""
    if embed is None:
        embed = paths.embedded or paths.room(calls=3)
    if not embed:
        return Found(await paths.search(None), PartDown(BUDGET, "no room to embed the question as well"))
    try:
        vector = await paths.embed()
    except PartDown as down:
        return Found(await paths.search(None), down)
    try:
        return Found(await paths.search(vector))
    except PartDown as down:
        if down.component != EMBEDDER:
            raise
        return Found(await paths.search(None), down)


def by_words(paths: Paths, found: Found) -> str:
    """Notes that passages were found by words alone; returns why, "" where they were not."""
    if found.lacking is None:
        return ""
    paths.degrade(found.lacking.component, "passages were found by their words alone, without meaning")
    return f"{found.lacking}; searching by words alone"


async def from_passages(paths: Paths, *, other: Other | None = None) -> Draft:
    """Finds passages and answers from them; raises PartDown where they cannot be found."""
    found = await find(paths)
    reason = by_words(paths, found)
    if reason:
        await paths.step(StepKind.FALL_BACK, Route.RAG, reason)
    if not found.passages:
        await paths.step(StepKind.ABSTAIN, Route.RAG, NOTHING_FOUND)
        return NOTHING
    return await read(paths, found.passages, other=other)


async def read(paths: Paths, passages: tuple[Passage, ...], *, other: Other | None = None) -> Draft:
    """Answers from passages that were found: reads them, or quotes the best where no model can."""
    try:
        draft = await paths.read(passages)
    except PartDown as down:
        return await quote(paths, passages, down)
    return await settle(paths, draft, num_found=len(passages), other=other)


async def quote(paths: Paths, passages: tuple[Passage, ...], down: PartDown) -> Draft:
    """Answers by the best passage itself."""
    paths.degrade(down.component, "the answer is a quotation of the best passage, not written by a model")
    await paths.step(StepKind.FALL_BACK, Route.RAG, f"{down}; quoting the best of {len(passages)} passages")
    return await paths.quote(passages)


async def settle(paths: Paths, draft: Draft, *, num_found: int, other: Other | None = None) -> Draft:
    """Accepts a draft that was read from passages, or does what the domain says of one that they support too little."""
    num_read = len(draft.passages)
    if draft.abstained:
        await paths.step(StepKind.ABSTAIN, draft.route, f"{num_read} passages were read and none holds the answer")
        return draft
    support, enough = _support(paths, draft)
    below = paths.domain.below
    if not enough and below is Below.ESCALATE and other is not None:
        return await other(support)
    if not enough and below is not Below.TELL:
        await paths.step(StepKind.ABSTAIN, draft.route, f"{num_read} passages were read; {support}")
        return withheld(draft)
    left_out = num_found - num_read
    await paths.step(
        StepKind.ACCEPT,
        draft.route,
        f"read {num_read} of {num_found} passages"
        + (f" ({left_out} did not fit the prompt)" if left_out else "")
        + f", {len(draft.citations)} citations; {support}; {figure(draft)}",
    )
    return draft


def _support(paths: Paths, draft: Draft) -> tuple[str, bool]:
    """Returns how far passages support a draft against the domain's limit, in words, and whether that is enough."""
    limit = paths.domain.min_groundedness
    value = None if draft.groundedness is None else draft.groundedness.value
    if value is None:
        return f"no sentence can be compared with them, limit {limit:.2f}", limit <= 0
    return f"groundedness {value:.2f} {'>=' if value >= limit else '<'} limit {limit:.2f}", value >= limit
