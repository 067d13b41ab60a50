"""The life of an answer over fake parts: what it holds, in which order it is told, when it abstains."""

import math
from dataclasses import replace

import pytest

from services.router.domain import ABSTAINED_TEXT, Delta, Outcome, Route, Started
from tandem.prompts import ABSTENTION
from tests.fakes.router import DOMAIN, EMBEDDER_SHA256, FakeRetriever, World, Written, history, question
from tests.fakes.router_calibration import FAR, NEAR, artefact_of
from tests.fakes.router_worlds import DOWN, deltas_after_last_discard, world_with


async def test_an_accepted_cascade_has_lineage_confidence_usage_and_timings():
    world = World()
    answer = await world.ask(question())
    draft = answer.draft
    assert draft.route is Route.FINETUNED
    assert draft.lineage is not None
    assert draft.lineage.adapter == "answers"
    assert draft.confidence is not None
    assert math.isclose(draft.confidence.value, math.exp(-0.05))
    assert draft.citations == ()
    assert draft.passages == ()
    assert answer.usage.output_tokens == 7
    stages = [timing.stage for timing in answer.timings]
    assert stages == ["rewrite", "audit", "generate.finetuned", "total"]
    assert world.retriever.queries == []
    assert world.embedder.texts == []


async def test_rag_cites_what_it_read_and_embeds_once():
    world = World()
    answer = await world.ask(question(policy="rag"))
    (citation,) = answer.draft.citations
    assert citation.quote == "The excess for collision is EUR 500."
    assert citation.document_span.start == 100 + world.retriever.passages[0].text.index("The excess")
    assert len(world.embedder.texts) == 1
    ((query, vector),) = world.retriever.queries
    assert query == world.embedder.texts[0]
    assert vector is not None
    assert vector.model_sha256 == EMBEDDER_SHA256
    stages = [timing.stage for timing in answer.timings]
    assert stages == ["rewrite", "audit", "embed", "search", "generate.rag", "ground", "total"]


async def test_rag_tells_its_sources_before_its_text():
    world = World()
    await world.ask(question(policy="rag"))
    names = [type(event).__name__ for event in world.events]
    assert names.index("Sources") < names.index("Delta")
    assert isinstance(world.events[0], Started)


async def test_a_replaced_draft_is_never_the_last_text():
    world = world_with(answers=Written(text="Wrong answer.", mean_logprob=-2.0))
    answer = await world.ask(question())
    assert answer.draft.route is Route.RAG
    assert deltas_after_last_discard(world) == answer.draft.text
    assert world.kinds() == ["choose:finetuned", "escalate:rag", "accept:rag"]


async def test_drafts_can_be_held_back():
    world = world_with(answers=Written(text="Wrong answer.", mean_logprob=-2.0))
    world.stream_drafts = False
    answer = await world.ask(question())
    assert "".join(e.text for e in world.events if isinstance(e, Delta)).strip() == answer.draft.text


async def test_a_draft_that_was_held_back_is_shown_once_it_is_accepted():
    world = World(stream_drafts=False)
    answer = await world.ask(question())
    assert [event.text.strip() for event in world.events if isinstance(event, Delta)] == [answer.draft.text]


@pytest.mark.parametrize("words", [ABSTENTION, f'"{ABSTENTION}"', ABSTENTION.rstrip("."), "", "   "])
async def test_the_model_that_finds_nothing_abstains(words: str):
    world = world_with(reading=Written(text=words))
    answer = await world.ask(question(policy="rag"))
    assert answer.draft.abstained
    assert answer.draft.text == ABSTAINED_TEXT
    assert answer.draft.citations == ()
    assert not any(isinstance(event, Delta) for event in world.events)
    assert world.audit.closed[0].outcome is Outcome.ABSTAINED


async def test_text_that_only_begins_like_the_abstention_is_shown_in_full():
    world = world_with(reading=Written(text="The passages do say EUR 500."))
    answer = await world.ask(question(policy="rag"))
    shown = "".join(event.text for event in world.events if isinstance(event, Delta))
    assert shown.strip() == "The passages do say EUR 500."
    assert answer.draft.text == shown.strip()


async def test_nothing_found_abstains():
    world = World(retriever=FakeRetriever(passages=()))
    answer = await world.ask(question(policy="rag"))
    assert answer.draft.abstained
    assert answer.draft.text == ABSTAINED_TEXT
    assert world.generator.prompts == []


async def test_an_answer_that_no_passage_supports_has_no_citation():
    world = world_with(reading=Written(text="The excess is EUR 900."))
    answer = await world.ask(question(policy="rag"))
    assert answer.draft.citations == ()


async def test_a_follow_up_is_embedded_searched_and_asked_in_its_self_contained_form():
    world = World()
    turns = history("What is the excess for collision in Halden Motor?")
    answer = await world.ask(question("And for motorcycles?", policy="rag", history=turns))
    assert "motorcycles" in answer.rewritten_question
    assert "Halden Motor" in answer.rewritten_question
    assert world.embedder.texts == [answer.rewritten_question]
    assert answer.rewritten_question in world.generator.prompts[0][1]
    started = world.events[0]
    assert isinstance(started, Started)
    assert started.rewritten_question == answer.rewritten_question


@pytest.mark.parametrize(("vector", "counted"), [(NEAR, [1, None]), (FAR, [None, 1])])
async def test_questions_are_counted_by_where_they_lie(vector, counted):
    world = World(domain=replace(DOMAIN, artefact=artefact_of(threshold=0.5, features=("scope_distance",))))
    world.embedder.vector = vector
    await world.ask(question(policy="dual"))
    value = world.registry.get_sample_value
    assert [value("tandem_router_scope_total", {"lies": side}) for side in ("inside", "outside")] == counted


async def test_metrics_are_counted_without_ids():
    world = World(retriever=FakeRetriever(error=DOWN))
    world.generator.sequences["answers"].mean_logprob = -3.0
    await world.ask(question())
    value = world.registry.get_sample_value
    labels = {"policy": "cascade", "route": "finetuned", "outcome": "answered"}
    assert value("tandem_router_answers_total", labels) == 1
    assert value("tandem_router_escalations_total", {"policy": "cascade"}) == 1
    assert value("tandem_router_degraded_total", {"component": "retriever"}) == 1
    assert value("tandem_router_stage_seconds_count", {"stage": "generate.finetuned"}) == 1
    assert value("tandem_router_confidence_ratio_count", {"route": "finetuned"}) == 1
    assert value("tandem_router_tokens_total", {"route": "finetuned", "direction": "output"}) == 7
