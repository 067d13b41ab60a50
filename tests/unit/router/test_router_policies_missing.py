"""Every policy in every state of its parts: what is left is given and what is missing is named."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import pytest

from services.router.domain import Draft, NoAdapter, PartDown, Route
from services.router.policies import build
from tests.fakes.router import PASSAGES
from tests.fakes.router_paths import INSIDE, NO_SCOPE, OUTSIDE, FakePaths, reading, silent, weights

NO_EMBEDDER, NO_RETRIEVER, NO_GENERATOR = (PartDown(part, "is down") for part in ("embedder", "retriever", "generator"))
POLICIES = build(pattern=lambda _: "rag")
STATES = {
    "adapter": (weights(0.99), weights(0.1), silent(weights()), NoAdapter("answers"), NO_GENERATOR),
    "vector": (None, NO_EMBEDDER),
    "passages": (PASSAGES, (), NO_RETRIEVER),
    "reading": (reading(), reading(0.0), silent(reading()), NO_GENERATOR),
    "blended": (reading(route=Route.ENSEMBLE), NoAdapter("answers"), NO_GENERATOR),
    "own_weight": (0.5, 0.01, 0.99),
    "place": (NO_SCOPE, INSIDE, OUTSIDE, NO_EMBEDDER),
}
MATTERS = {
    "finetuned": {"adapter"},
    "rag": {"vector", "passages", "reading"},
    "cascade": {"adapter", "vector", "passages", "reading"},
    "auto": {"adapter", "vector", "passages", "reading"},
    "dual": {"adapter", "vector", "passages", "reading", "place"},
    "ensemble": {"adapter", "vector", "passages", "reading", "blended", "own_weight"},
}


@dataclass
class Ended:
    """Is how one question ended in one state."""

    paths: FakePaths
    draft: Draft | None = None
    error: PartDown | NoAdapter | None = None


async def ended(policy: str) -> list[Ended]:
    """Decides one question in every state that matters to a policy."""
    return [await _one(policy, paths) for paths in states(policy)]


async def _one(policy: str, paths: FakePaths) -> Ended:
    try:
        return Ended(paths, draft=await POLICIES[policy].decide(paths))
    except (PartDown, NoAdapter) as error:
        return Ended(paths, error=error)


def states(policy: str) -> Iterator[FakePaths]:
    matters = {name: values if name in MATTERS[policy] else values[:1] for name, values in STATES.items()}
    for values in product(*matters.values()):
        state = {name: value for name, value in zip(matters, values, strict=True) if value is not None}
        # The place is known by the embedding alone.
        if state["place"] in ((INSIDE, OUTSIDE) if "vector" in state else (NO_EMBEDDER,)):
            continue
        yield FakePaths(**state)


def needed(policy: str, one: Ended) -> Iterator[tuple[str, object]]:
    """Yields what was asked and would have added to the answer, with its state."""
    paths, calls = one.paths, {call.partition(" ")[0] for call in one.paths.calls}
    if "scope" in calls:
        yield "embedder", paths.place
    if policy == "dual" and paths.kinds()[-1] == "accept:finetuned":
        return  # whatever the reading beside it would have brought
    if "search" in calls:
        # Without documents nothing lacks the vector to find them by.
        yield ("retriever", paths.passages) if isinstance(paths.passages, PartDown) else ("embedder", paths.vector)
    if "finetuned" in calls and paths.place is not OUTSIDE:
        yield "generator", paths.adapter
    if "read" in calls:
        yield "generator", paths.reading
    if "blend" in calls:
        yield "generator", paths.blended


EVERY_POLICY = pytest.mark.parametrize("policy", POLICIES)


@EVERY_POLICY
async def test_where_a_search_is_possible_there_is_an_answer(policy: str):
    if policy == "finetuned":
        return
    lost = [one for one in await ended(policy) if not isinstance(one.paths.passages, Exception) and one.error]
    assert lost == []


@EVERY_POLICY
async def test_what_passages_answer_is_answered_without_an_adapter(policy: str):
    if policy == "finetuned":
        return
    for one in await ended(policy):
        readable = one.paths.reading is NO_GENERATOR or one.paths.reading is STATES["reading"][0]
        if one.paths.passages is PASSAGES and readable and not isinstance(one.paths.adapter, Draft):
            assert one.draft is not None
            assert not one.draft.abstained
            assert one.draft.citations or one.paths.calls[-1] == "quote"


@EVERY_POLICY
async def test_where_the_adapter_answers_there_is_an_answer(policy: str):
    if policy == "rag":
        return
    lost = [
        one
        for one in await ended(policy)
        if isinstance(one.paths.adapter, Draft) and not one.paths.adapter.abstained and one.error
    ]
    assert [one for one in lost if not (policy == "dual" and one.paths.place is OUTSIDE)] == []


@EVERY_POLICY
async def test_what_is_refused_names_a_part_that_is_missing(policy: str):
    for one in await ended(policy):
        if isinstance(one.error, PartDown):
            assert one.error in vars(one.paths).values()
        elif one.error is not None:
            assert one.error is one.paths.adapter


@EVERY_POLICY
async def test_an_answer_without_a_part_that_was_asked_names_it(policy: str):
    for one in await ended(policy):
        if one.draft is None:
            continue
        missing = {part for part, state in needed(policy, one) if isinstance(state, PartDown)}
        assert missing <= set(one.paths.degraded), (missing, one.paths)


@EVERY_POLICY
async def test_an_answer_without_a_model_quotes_and_nothing_is_invented(policy: str):
    for one in await ended(policy):
        if one.draft is None or one.draft.abstained:
            continue
        if isinstance(one.paths.passages, Exception) or not one.paths.passages:
            assert one.draft.citations == ()
        writing = {"adapter", "reading", "blended"} & MATTERS[policy]
        if all(vars(one.paths)[name] is NO_GENERATOR for name in writing):
            assert one.draft.text == PASSAGES[0].text
