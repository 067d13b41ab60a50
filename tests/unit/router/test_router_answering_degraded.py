"""What is left of an answer when parts are down, full or too slow."""

import pytest

from services.router.domain import Route
from tandem import errors
from tests.fakes.router import NEVER, FakeEmbedder, FakeRetriever, Script, World, Written, question
from tests.fakes.router_worlds import DOWN, deltas_after_last_discard, world_with


async def test_embedder_down_searches_by_words():
    world = World(embedder=FakeEmbedder(error=DOWN))
    answer = await world.ask(question(policy="rag"))
    assert [note.component for note in answer.degraded] == ["embedder"]
    assert world.retriever.queries[0][1] is None
    assert answer.draft.citations


OTHER_MODEL = errors.FailedPrecondition("another model", reason="EMBEDDING_MODEL_MISMATCH")


@pytest.mark.parametrize("error", [errors.InvalidInput("wrong dimension"), OTHER_MODEL])
async def test_a_vector_that_does_not_fit_searches_by_words(error: errors.TandemError):
    world = World(retriever=FakeRetriever(vector_error=error))
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


@pytest.mark.parametrize(("told", "seconds"), [(4.5, 4.5), (None, 1.0)])
async def test_a_part_that_is_left_alone_says_when_it_is_asked_again(told: float | None, seconds: float):
    left_alone = errors.Unavailable("its last calls failed", retry_after_s=told, reason="BREAKER_OPEN")
    world = World(retriever=FakeRetriever(error=left_alone))
    with pytest.raises(errors.Unavailable) as caught:
        await world.ask(question(policy="rag"))
    assert (caught.value.reason, caught.value.retry_after_s) == ("PART_DOWN", seconds)


async def test_a_stage_beyond_its_share_counts_as_down():
    world = World(embedder=FakeEmbedder(delay_s=NEVER))
    answer = await world.ask(question(policy="rag", timeout_s=1.0))
    assert [note.component for note in answer.degraded] == ["embedder"]
    assert answer.draft.citations
