"""The life of an answer over fake parts."""

import asyncio
import math

import pytest

from services.router.domain import ABSTAINED_TEXT, Delta, Outcome, Route, Sources, Started, StepKind
from tandem import errors
from tandem.prompts import ABSTENTION
from tests.fakes.router import (
    NEVER,
    FakeAudit,
    FakeEmbedder,
    FakeGenerator,
    FakeRetriever,
    Script,
    World,
    Written,
    history,
    passage,
    question,
)

DOWN = errors.Unavailable("connection refused")


def world_with(**sequences: Written) -> World:
    generator = FakeGenerator()
    generator.sequences.update({name.replace("base", ""): made for name, made in sequences.items()})
    return World(generator=generator)


def deltas_after_last_discard(world: World) -> str:
    text = ""
    for event in world.events:
        if isinstance(event, Delta):
            text += event.text
        elif getattr(event, "kind", None) in (StepKind.ESCALATE, StepKind.FALL_BACK, StepKind.ABSTAIN):
            text = ""
    return text.strip()


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


async def test_the_opened_record_is_there_before_anything_is_said():
    world = World()
    seen: list[int] = []

    async def emit(event: object) -> None:
        seen.append(len(world.audit.opened))
        assert world.audit.closed == []

    await world.engine().answer(question(), emit)
    assert set(seen) == {1}
    assert [closing.outcome for closing in world.audit.closed] == [Outcome.ANSWERED]


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
    stages = [timing.stage for timing in answer.timings]
    assert stages == ["rewrite", "audit", "embed", "search", "generate.rag", "cite", "total"]


async def test_rag_tells_its_sources_before_its_text():
    world = World()
    await world.ask(question(policy="rag"))
    names = [type(event).__name__ for event in world.events]
    assert names.index("Sources") < names.index("Delta")
    assert isinstance(world.events[0], Started)


async def test_rag_reads_with_the_base_model_where_no_reading_adapter_is_loaded():
    world = World()
    world.generator.loaded = frozenset({"answers"})
    answer = await world.ask(question(policy="rag"))
    assert answer.draft.lineage is not None
    assert answer.draft.lineage.adapter == ""


async def test_rag_reads_with_the_base_model_when_the_adapter_has_just_gone():
    world = World()
    del world.generator.sequences["reading"]
    answer = await world.ask(question(policy="rag"))
    assert answer.draft.lineage is not None
    assert answer.draft.lineage.adapter == ""
    assert [adapter for adapter, _ in world.generator.prompts] == ["reading", ""]


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
    assert [event.text for event in world.events if isinstance(event, Delta)] == [answer.draft.text]


async def test_without_an_answer_adapter_finetuned_is_refused_and_recorded():
    world = World()
    world.generator.loaded = frozenset()
    with pytest.raises(errors.FailedPrecondition) as caught:
        await world.ask(question(policy="finetuned"))
    assert caught.value.metadata == {"adapter": "answers"}
    (closing,) = world.audit.closed
    assert (closing.outcome, closing.error_code) == (Outcome.FAILED, "FAILED_PRECONDITION")


async def test_an_adapter_that_has_just_gone_counts_as_missing():
    world = World()
    del world.generator.sequences["answers"]
    with pytest.raises(errors.FailedPrecondition):
        await world.ask(question(policy="finetuned"))


async def test_the_base_model_is_never_labelled_fine_tuned():
    world = world_with(answers=Written(lineage_adapter=""))
    with pytest.raises(errors.FailedPrecondition):
        await world.ask(question(policy="finetuned"))


async def test_the_list_of_adapters_is_kept_for_a_while_for_each_tenant():
    world = World()
    engine = world.engine()
    await engine.answer(question(), world.emit)
    await engine.answer(question(), world.emit)
    assert world.generator.num_listings == 1


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
    assert "0% of the answer" in answer.steps[-1].reason


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


async def test_embedder_down_searches_by_words():
    world = World(embedder=FakeEmbedder(error=DOWN))
    answer = await world.ask(question(policy="rag"))
    assert [note.component for note in answer.degraded] == ["embedder"]
    assert world.retriever.queries[0][1] is None
    assert answer.draft.citations


async def test_a_vector_that_does_not_fit_searches_by_words():
    world = World(retriever=FakeRetriever(vector_error=errors.InvalidInput("wrong dimension")))
    answer = await world.ask(question(policy="rag"))
    assert [note.component for note in answer.degraded] == ["embedder"]
    assert [vector is None for _, vector in world.retriever.queries] == [False, True]


async def test_generator_down_quotes_the_best_passage():
    world = World()
    world.generator.listing = Script(error=DOWN)
    answer = await world.ask(question(policy="rag"))
    assert answer.draft.text == world.retriever.passages[0].text
    (citation,) = answer.draft.citations
    assert citation.quote == answer.draft.text
    assert answer.draft.confidence is None
    assert answer.draft.lineage is None
    assert [note.component for note in answer.degraded] == ["generator"]
    assert deltas_after_last_discard(world) == answer.draft.text


async def test_a_generator_that_dies_in_mid_stream_is_replaced_by_a_quotation():
    world = world_with(reading=Written(text="The excess is EUR", late_error=DOWN))
    answer = await world.ask(question(policy="rag"))
    assert answer.draft.text == world.retriever.passages[0].text
    assert deltas_after_last_discard(world) == answer.draft.text


async def test_retriever_down_leaves_the_adapter():
    world = World(retriever=FakeRetriever(error=DOWN))
    world.generator.sequences["answers"].mean_logprob = -3.0
    answer = await world.ask(question())
    assert answer.draft.route is Route.FINETUNED
    assert [note.component for note in answer.degraded] == ["retriever"]
    assert deltas_after_last_discard(world) == answer.draft.text


@pytest.mark.parametrize("policy", ["finetuned", "rag", "cascade"])
async def test_nothing_left_is_unavailable_and_names_the_part(policy: str):
    world = World(retriever=FakeRetriever(error=DOWN))
    world.generator.listing = Script(error=DOWN)
    with pytest.raises(errors.Unavailable) as caught:
        await world.ask(question(policy=policy))
    assert caught.value.metadata["component"] == ("generator" if policy == "finetuned" else "retriever")
    assert world.audit.closed[0].error_code == "UNAVAILABLE"


async def test_an_overloaded_part_says_when_to_come_back():
    world = World()
    world.generator.sequences["answers"].error = errors.Overloaded("full", retry_after_s=2.5)
    with pytest.raises(errors.Overloaded) as caught:
        await world.ask(question(policy="finetuned"))
    assert caught.value.retry_after_s == 2.5


async def test_a_stage_beyond_its_share_counts_as_down():
    world = World(embedder=FakeEmbedder(delay_s=NEVER))
    answer = await world.ask(question(policy="rag", timeout_s=1.0))
    assert [note.component for note in answer.degraded] == ["embedder"]
    assert answer.draft.citations


async def test_the_deadline_ends_an_answer_and_its_record():
    world = world_with(answers=Written(delay_s=NEVER))
    with pytest.raises(errors.DeadlineExceeded):
        await world.ask(question(policy="finetuned", timeout_s=0.1))
    assert world.generator.num_running == 0
    assert world.audit.closed[0].error_code == "DEADLINE_EXCEEDED"


async def test_a_prompt_that_is_too_long_is_read_with_fewer_passages():
    many = tuple(passage(f"Clause {n}: the excess for collision is EUR 500. " * 20, number=n) for n in range(8))
    long = errors.InvalidInput("the prompt has 9000 tokens", reason="PROMPT_TOO_LONG")
    world = World(retriever=FakeRetriever(passages=many))
    world.generator.sequences["reading"] = Written(max_characters=2500, too_long=long)
    answer = await world.ask(question(policy="rag", max_passages=8))
    assert 1 <= len(answer.draft.passages) < 8
    sources = [event for event in world.events if isinstance(event, Sources)]
    assert [event.passages for event in sources] == [answer.draft.passages]
    assert "did not fit" in answer.steps[-1].reason


async def test_a_question_that_no_prompt_can_hold_is_the_callers_fault():
    long = errors.InvalidInput("the prompt has 9000 tokens", reason="PROMPT_TOO_LONG")
    for policy in ("rag", "cascade", "finetuned"):
        world = World()
        for name in ("answers", "reading"):
            world.generator.sequences[name] = Written(max_characters=10, too_long=long)
        with pytest.raises(errors.InvalidInput) as caught:
            await world.ask(question(policy=policy))
        assert [violation.field for violation in caught.value.violations] == ["question"]


async def test_a_prompt_refused_for_anything_but_its_length_is_no_fault_of_the_caller_and_not_tried_again():
    many = tuple(passage(f"Clause {n}: the excess for collision is EUR 500.", number=n) for n in range(4))
    refused = errors.InvalidInput("roles are wrong", [errors.FieldViolation("chat.messages[0].role", "is wrong")])
    world = World(retriever=FakeRetriever(passages=many))
    world.generator.sequences["reading"] = Written(max_characters=10, too_long=refused)
    answer = await world.ask(question(policy="rag", max_passages=4))
    assert len(world.generator.prompts) == 1
    assert [(note.component, "quotation" in note.effect) for note in answer.degraded] == [("generator", True)]
    world = World()
    world.generator.sequences["answers"] = Written(max_characters=10, too_long=refused)
    with pytest.raises(errors.Unavailable, match="refused the prompt"):
        await world.ask(question(policy="finetuned"))


async def test_an_unknown_policy_lists_the_known_ones_and_leaves_no_record():
    world = World()
    with pytest.raises(errors.InvalidInput, match="cascade, finetuned, rag"):
        await world.ask(question(policy="oracle"))
    assert world.audit.opened == []


async def test_without_an_opened_record_nothing_is_said():
    world = World(audit=FakeAudit(opening=Script(error=errors.Unavailable("disk full"))))
    with pytest.raises(errors.Unavailable):
        await world.ask(question())
    assert world.events == []
    assert world.generator.prompts == []
    assert world.audit.closed == []


async def test_without_a_closed_record_the_answer_is_not_given():
    world = World(audit=FakeAudit(closing=Script(error=errors.Unavailable("disk full"))))
    with pytest.raises(errors.Unavailable):
        await world.ask(question())


async def test_a_failure_is_not_hidden_by_a_record_that_cannot_be_closed():
    world = World(audit=FakeAudit(closing=Script(error=errors.Unavailable("disk full"))))
    world.generator.loaded = frozenset()
    with pytest.raises(errors.FailedPrecondition):
        await world.ask(question(policy="finetuned"))


async def test_a_bug_in_a_part_is_recorded_as_failed():
    world = World(retriever=FakeRetriever(error=ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        await world.ask(question(policy="rag"))
    assert world.audit.closed[0].error_code == "INTERNAL"


async def test_a_caller_who_leaves_takes_the_sequence_along_and_is_recorded():
    world = world_with(answers=Written(delay_s=NEVER))
    asking = asyncio.create_task(world.ask(question()))
    await world.generator.running.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert world.generator.num_running == 0
    assert [closing.outcome for closing in world.audit.closed] == [Outcome.CANCELLED]


async def test_a_caller_who_leaves_while_the_record_opens_is_recorded_too():
    world = World(audit=FakeAudit(opening=Script(delay_s=0.02)))
    engine = world.engine()
    asking = asyncio.create_task(engine.answer(question(), world.emit))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await engine.stop()
    assert len(world.audit.opened) == 1
    assert [closing.outcome for closing in world.audit.closed] == [Outcome.CANCELLED]


async def test_too_many_questions_are_refused_at_the_door():
    world = world_with(answers=Written(delay_s=NEVER))
    world.max_running, world.max_waiting = 1, 1
    engine = world.engine()
    tasks = [asyncio.create_task(engine.answer(question(policy="finetuned"), world.emit)) for _ in range(2)]
    await world.generator.running.wait()
    with pytest.raises(errors.Overloaded) as caught:
        await engine.answer(question(), world.emit)
    assert caught.value.retry_after_s > 0
    assert len(world.audit.opened) == 1
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert world.registry.get_sample_value("tandem_router_open_answers") == 0
    assert world.registry.get_sample_value("tandem_router_waiting_answers") == 0


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
