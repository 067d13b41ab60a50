"""finetuned, rag and cascade decide over scripted paths."""

from dataclasses import replace

import pytest

from services.router.domain import ABSTAINED_TEXT, Below, NoAdapter, PartDown, Route
from services.router.policies import Cascade, Finetuned, Rag, build
from services.router.policies.auto import LEAST_QUESTIONS
from tests.fakes.router import DOMAIN, PASSAGES
from tests.fakes.router_calibration import artefact_of
from tests.fakes.router_paths import OUTSIDE, FakePaths, reading, silent, weights

DOWN = PartDown("generator", "is not available")
NO_RETRIEVER = PartDown("retriever", "is not available")


async def test_finetuned_asks_the_adapter_alone():
    paths = FakePaths(adapter=weights(0.1))
    draft = await Finetuned().decide(paths)
    assert draft.text == "weights"
    assert paths.calls == ["finetuned"]
    assert paths.kinds() == ["choose:finetuned", "accept:finetuned"]
    assert "0.100" in paths.steps[-1].reason


@pytest.mark.parametrize("error", [NoAdapter("answers"), DOWN])
async def test_finetuned_has_nothing_to_fall_back_on(error: Exception):
    with pytest.raises(type(error)):
        await Finetuned().decide(FakePaths(adapter=error))


async def test_rag_embeds_once_searches_and_reads():
    paths = FakePaths()
    draft = await Rag().decide(paths)
    assert draft.text == "read"
    assert paths.calls == ["embed", "search", "read"]
    assert paths.kinds() == ["choose:rag", "accept:rag"]
    assert "groundedness 0.90 >= limit 0.50" in paths.steps[-1].reason


async def test_rag_without_passages_abstains_without_a_model():
    paths = FakePaths(passages=())
    assert (await Rag().decide(paths)).abstained
    assert paths.calls == ["embed", "search"]
    assert paths.kinds()[-1] == "abstain:rag"
    assert "0 passages" in paths.steps[-1].reason


async def test_rag_withholds_what_passages_support_too_little():
    paths = FakePaths(reading=reading(0.2))
    draft = await Rag().decide(paths)
    assert (draft.abstained, draft.text, draft.citations) == (True, ABSTAINED_TEXT, ())
    assert draft.passages == PASSAGES
    assert paths.kinds()[-1] == "abstain:rag"
    assert "groundedness 0.20 < limit 0.50" in paths.steps[-1].reason


async def test_rag_gives_what_passages_support_too_little_where_the_domain_wants_it_told():
    paths = FakePaths(reading=reading(0.2), domain=replace(DOMAIN, below=Below.TELL))
    assert not (await Rag().decide(paths)).abstained
    assert "groundedness 0.20 < limit 0.50" in paths.steps[-1].reason


async def test_a_text_without_a_figure_of_support_counts_as_unsupported():
    bare = replace(reading(), groundedness=None)
    assert (await Rag().decide(FakePaths(reading=bare))).abstained
    paths = FakePaths(reading=bare, domain=replace(DOMAIN, min_groundedness=0.0))
    assert not (await Rag().decide(paths)).abstained


async def test_rag_gives_an_unsupported_question_to_the_adapter_where_the_domain_escalates():
    escalating = replace(DOMAIN, below=Below.ESCALATE)
    paths = FakePaths(reading=reading(0.2), domain=escalating)
    assert (await Rag().decide(paths)).text == "weights"
    assert paths.kinds() == ["choose:rag", "escalate:finetuned", "accept:finetuned"]
    for adapter in (weights(0.1), NoAdapter("answers"), DOWN):
        paths = FakePaths(reading=reading(0.2), adapter=adapter, domain=escalating)
        assert (await Rag().decide(paths)).text == ABSTAINED_TEXT
        assert paths.kinds()[-1] == "abstain:finetuned"


async def test_rag_without_an_embedder_searches_by_words_and_says_so():
    paths = FakePaths(vector=PartDown("embedder", "is not available"))
    assert (await Rag().decide(paths)).text == "read"
    assert paths.calls == ["embed", "search by words", "read"]
    assert paths.degraded == ["embedder"]
    assert "fall_back:rag" in paths.kinds()


async def test_rag_without_a_generator_quotes_and_says_so():
    paths = FakePaths(reading=DOWN)
    draft = await Rag().decide(paths)
    assert draft.text == PASSAGES[0].text
    assert paths.calls == ["embed", "search", "read", "quote"]
    assert paths.degraded == ["generator"]


async def test_rag_without_a_retriever_has_nothing_left():
    with pytest.raises(PartDown, match="retriever"):
        await Rag().decide(FakePaths(passages=NO_RETRIEVER))


@pytest.mark.parametrize(
    ("max_calls", "calls"),
    [
        (3, ["embed", "search", "read"]),
        (2, ["search by words", "read"]),
        (1, ["search by words", "quote"]),
    ],
)
async def test_rag_takes_what_the_budget_has_room_for(max_calls: int, calls: list[str]):
    paths = FakePaths(max_calls=max_calls)
    await Rag().decide(paths)
    assert paths.calls == calls
    assert set(paths.degraded) == ({"budget"} if max_calls < 3 else set())


async def test_cascade_accepts_at_the_threshold_and_reads_nothing():
    paths = FakePaths(adapter=weights(0.75))
    assert (await Cascade().decide(paths)).route is Route.FINETUNED
    assert paths.calls == ["finetuned"]
    assert "0.750" in paths.steps[-1].reason
    assert paths.kinds() == ["choose:finetuned", "accept:finetuned"]


async def test_cascade_escalates_below_the_threshold_with_the_figures():
    paths = FakePaths(adapter=weights(0.7))
    assert (await Cascade().decide(paths)).text == "read"
    assert paths.kinds() == ["choose:finetuned", "escalate:rag", "accept:rag"]
    assert "0.700 (uncalibrated) < threshold 0.750" in paths.steps[1].reason


async def test_cascade_without_an_adapter_escalates_and_names_it():
    paths = FakePaths(adapter=NoAdapter("answers"))
    assert (await Cascade().decide(paths)).text == "read"
    assert paths.kinds()[1] == "escalate:rag"
    assert '"answers"' in paths.steps[1].reason
    assert paths.degraded == []


async def test_cascade_withholds_what_no_passage_supports_also_where_it_may_escalate():
    paths = FakePaths(adapter=weights(0.1), reading=reading(0.2), domain=replace(DOMAIN, below=Below.ESCALATE))
    assert (await Cascade().decide(paths)).abstained
    assert paths.kinds() == ["choose:finetuned", "escalate:rag", "abstain:rag"]


async def test_cascade_without_a_retriever_keeps_even_a_poor_draft_and_says_so():
    paths = FakePaths(adapter=weights(0.1), passages=NO_RETRIEVER)
    assert (await Cascade().decide(paths)).text == "weights"
    assert paths.degraded == ["retriever"]
    assert paths.kinds() == ["choose:finetuned", "escalate:rag", "fall_back:finetuned"]
    # The escalation discarded the deltas: the draft is sent again.
    assert paths.calls[-1] == "show finetuned"


@pytest.mark.parametrize("adapter", [NoAdapter("answers"), silent(weights())])
async def test_cascade_with_nothing_left_names_the_part(adapter: Exception):
    with pytest.raises(PartDown, match="retriever"):
        await Cascade().decide(FakePaths(adapter=adapter, passages=NO_RETRIEVER))


async def test_cascade_without_a_generator_quotes():
    paths = FakePaths(adapter=DOWN, reading=DOWN)
    assert (await Cascade().decide(paths)).route is Route.RAG
    assert paths.kinds() == ["choose:finetuned", "fall_back:rag", "fall_back:rag"]
    assert paths.calls == ["finetuned", "embed", "search", "read", "quote"]


async def test_cascade_without_room_for_passages_keeps_the_draft_and_names_the_budget():
    paths = FakePaths(adapter=weights(0.1), max_calls=1)
    assert (await Cascade().decide(paths)).text == "weights"
    assert paths.degraded == ["budget"]


async def test_cascade_embeds_beside_the_draft_where_its_calibration_needs_the_distance():
    calibrated = replace(DOMAIN, artefact=artefact_of(threshold=0.7, features=("scope_distance",)))
    paths = FakePaths(adapter=weights(0.1), place=OUTSIDE, domain=calibrated)
    await Cascade().decide(paths)
    assert sorted(paths.calls) == ["embed", "finetuned", "read", "scope", "search"]
    down = FakePaths(place=PartDown("embedder", "is not available"), domain=calibrated)
    assert (await Cascade().decide(down)).text == "weights"


async def test_cascade_without_a_certified_threshold_reads_at_once_and_says_so():
    uncertified = replace(DOMAIN, artefact=artefact_of(threshold=None))
    paths = FakePaths(domain=uncertified)
    assert (await Cascade().decide(paths)).text == "read"
    assert paths.calls == ["embed", "search", "read"]
    assert "everything escalates" in paths.steps[0].reason
    paths = FakePaths(domain=uncertified, passages=NO_RETRIEVER)
    assert (await Cascade().decide(paths)).text == "weights"
    assert paths.kinds() == ["escalate:rag", "fall_back:finetuned"]
    with pytest.raises(PartDown, match="retriever"):
        await Cascade().decide(FakePaths(domain=uncertified, passages=NO_RETRIEVER, adapter=NoAdapter("answers")))


def test_the_policies_are_listed_by_name():
    assert LEAST_QUESTIONS == 30
    assert list(build(pattern=lambda _: "rag")) == ["auto", "cascade", "dual", "ensemble", "finetuned", "rag"]
