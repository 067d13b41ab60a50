"""dual over scripted paths: who counts, who is cancelled, what is left when one of the two fails."""

import asyncio
from dataclasses import replace

import pytest

from services.router.domain import Below, Draft, NoAdapter, PartDown, Route
from services.router.policies.dual import Dual
from tests.fakes.router import DOMAIN
from tests.fakes.router_paths import CITATIONS, INSIDE, OUTSIDE, FakePaths, reading, silent, weights

NO_RETRIEVER = PartDown("retriever", "is not available")


async def decided(paths: FakePaths) -> Draft:
    draft = await Dual().decide(paths)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return draft


async def test_inside_the_scope_a_sure_adapter_answers_and_the_reading_is_cancelled():
    paths = FakePaths(place=INSIDE, waits={"read": asyncio.Event()})
    draft = await decided(paths)
    assert (draft.route, draft.citations) == (Route.FINETUNED, CITATIONS)
    assert paths.cancelled == ["read"]
    assert paths.kinds() == ["choose:finetuned", "accept:finetuned"]
    assert "0.100 <= scope" in paths.steps[-1].reason


async def test_what_was_not_found_yet_supports_nothing():
    paths = FakePaths(place=INSIDE, waits={"search": asyncio.Event()})
    assert (await decided(paths)).citations == ()
    assert paths.cancelled == ["search"]
    assert "support" not in paths.calls


async def test_outside_the_scope_the_adapter_is_cancelled_and_evidence_answers():
    paths = FakePaths(place=OUTSIDE, waits={"finetuned": asyncio.Event()})
    assert (await decided(paths)).text == "read"
    assert paths.cancelled == ["finetuned"]
    assert paths.kinds() == ["choose:finetuned", "escalate:rag", "accept:rag"]
    assert "0.900 > scope" in paths.steps[1].reason


async def test_both_paths_run_at_the_same_time():
    paths = FakePaths(place=INSIDE, waits={"finetuned": asyncio.Event(), "read": asyncio.Event()})
    deciding = asyncio.create_task(Dual().decide(paths))
    await paths.reached("read")
    assert "finetuned" in paths.calls
    paths.waits["finetuned"].set()
    assert (await deciding).route is Route.FINETUNED


async def test_an_unknown_scope_counts_as_inside():
    paths = FakePaths(waits={"read": asyncio.Event()})
    assert (await decided(paths)).route is Route.FINETUNED
    down = FakePaths(place=PartDown("embedder", "is not available"), waits={"read": asyncio.Event()})
    assert (await decided(down)).route is Route.FINETUNED
    assert "scope unknown: embedder" in down.steps[-1].reason


@pytest.mark.parametrize(
    ("adapter", "kind"),
    [
        (weights(0.1), "escalate:rag"),
        (silent(weights()), "escalate:rag"),
        (NoAdapter("answers"), "escalate:rag"),
        (PartDown("generator", "is not available"), "fall_back:rag"),
    ],
)
async def test_an_adapter_that_is_not_accepted_leaves_it_to_the_evidence(adapter: Draft | Exception, kind: str):
    paths = FakePaths(place=INSIDE, adapter=adapter)
    assert (await decided(paths)).text == "read"
    assert paths.kinds() == ["choose:finetuned", kind, "accept:rag"]


async def test_evidence_found_by_words_alone_is_one_decision():
    paths = FakePaths(adapter=weights(0.1), vector=PartDown("embedder", "is not available"))
    assert (await decided(paths)).text == "read"
    assert paths.kinds() == ["choose:finetuned", "escalate:rag", "accept:rag"]
    assert "searching by words alone" in paths.steps[1].reason
    assert paths.degraded == ["embedder"]


async def test_a_generator_that_cannot_read_leaves_a_quotation():
    paths = FakePaths(place=OUTSIDE, reading=PartDown("generator", "is not available"))
    assert (await decided(paths)).lineage is None
    assert paths.calls[-1] == "quote"


@pytest.mark.parametrize("nothing", ["passages", "reading"])
async def test_where_evidence_has_no_answer_a_draft_from_inside_is_kept(nothing: str):
    paths = FakePaths(place=INSIDE, adapter=weights(0.1))
    if nothing == "passages":
        paths.passages = ()
    else:
        paths.reading = silent(reading())
    assert (await decided(paths)).text == "weights"
    assert paths.kinds() == ["choose:finetuned", "escalate:rag", "escalate:finetuned"]
    assert paths.calls[-1] == "show finetuned"
    paths = replace(paths, place=OUTSIDE, calls=[], steps=[])
    assert (await decided(paths)).abstained
    assert paths.kinds()[-1] == "abstain:rag"


async def test_without_a_retriever_a_draft_from_inside_is_kept_and_that_is_said():
    paths = FakePaths(place=INSIDE, adapter=weights(0.1), passages=NO_RETRIEVER)
    assert (await decided(paths)).text == "weights"
    assert paths.degraded == ["retriever"]
    assert paths.kinds() == ["choose:finetuned", "fall_back:finetuned"]


@pytest.mark.parametrize("adapter", [weights(), NoAdapter("answers"), silent(weights())])
async def test_without_a_retriever_nothing_is_left_outside_or_without_a_draft(adapter: Draft | Exception):
    place = OUTSIDE if adapter == weights() else INSIDE
    with pytest.raises(PartDown, match="retriever"):
        await Dual().decide(FakePaths(place=place, adapter=adapter, passages=NO_RETRIEVER))
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_passages_support_too_little_is_withheld_as_the_adapter_was_asked_before():
    domain = replace(DOMAIN, below=Below.ESCALATE)
    paths = FakePaths(place=INSIDE, adapter=weights(0.1), reading=reading(0.2), domain=domain)
    assert (await decided(paths)).abstained
    assert paths.kinds()[-1] == "abstain:rag"


@pytest.mark.parametrize(("max_calls", "vector"), [(4, True), (3, False)])
async def test_with_room_for_three_calls_both_run_without_an_embedding(max_calls: int, vector: bool):
    paths = FakePaths(place=INSIDE, adapter=weights(0.1), max_calls=max_calls)
    assert (await decided(paths)).text == "read"
    assert ("embed" in paths.calls) is vector
    assert paths.degraded == ([] if vector else ["budget"])


async def test_with_less_room_the_paths_are_tried_in_turn():
    paths = FakePaths(place=INSIDE, adapter=weights(0.1), max_calls=2)
    assert (await decided(paths)).text
    assert paths.calls == ["finetuned", "search by words", "quote"]
    assert set(paths.degraded) == {"budget"}


async def test_who_leaves_takes_both_paths_along():
    paths = FakePaths(place=INSIDE, waits={"finetuned": asyncio.Event(), "read": asyncio.Event()})
    deciding = asyncio.create_task(Dual().decide(paths))
    await paths.reached("read")
    deciding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await deciding
    assert sorted(paths.cancelled) == ["finetuned", "read"]
    assert asyncio.all_tasks() == {asyncio.current_task()}
