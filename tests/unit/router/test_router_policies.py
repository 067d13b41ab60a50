"""Policies decide over scripted paths."""

import pytest

from services.router.domain import ABSTAINED_TEXT, Confidence, Draft, NoAdapter, PartDown, Route
from services.router.policies import Cascade, Finetuned, Rag, build
from tests.fakes.router import CITATIONS, PASSAGES, FakePaths


def adapter_draft(confidence: float) -> Draft:
    return Draft(route=Route.FINETUNED, text="weights", confidence=Confidence(confidence))


def kinds(paths: FakePaths) -> list[str]:
    return [f"{step.kind}:{step.route}" for step in paths.steps]


async def test_finetuned_asks_the_adapter_alone():
    paths = FakePaths(adapter=adapter_draft(0.1))
    draft = await Finetuned().decide(paths)
    assert draft.text == "weights"
    assert paths.calls == ["finetuned"]
    assert kinds(paths) == ["choose:finetuned", "accept:finetuned"]
    assert "0.100" in paths.steps[-1].reason


@pytest.mark.parametrize("error", [NoAdapter("answers"), PartDown("generator", "is not available")])
async def test_finetuned_has_nothing_to_fall_back_on(error: Exception):
    with pytest.raises(type(error)):
        await Finetuned().decide(FakePaths(adapter=error))


async def test_rag_embeds_once_searches_and_reads():
    paths = FakePaths()
    draft = await Rag().decide(paths)
    assert draft.text == "read"
    assert paths.calls == ["embed", "search", "read"]
    assert kinds(paths) == ["choose:rag", "accept:rag"]


async def test_rag_without_passages_abstains_without_a_model():
    paths = FakePaths(passages=())
    draft = await Rag().decide(paths)
    assert draft.abstained
    assert paths.calls == ["embed", "search"]
    assert kinds(paths)[-1] == "abstain:rag"
    assert "0 passages" in paths.steps[-1].reason


async def test_rag_withholds_what_no_passage_supports():
    invented = Draft(route=Route.RAG, text="invented", passages=PASSAGES)
    paths = FakePaths(reading=invented)
    draft = await Rag().decide(paths)
    assert draft.abstained
    assert draft.text == ABSTAINED_TEXT
    assert draft.passages == PASSAGES
    assert kinds(paths)[-1] == "abstain:rag"
    assert await Rag(min_support=0).decide(FakePaths(reading=invented)) == invented


async def test_cascade_withholds_what_no_passage_supports():
    paths = FakePaths(adapter=adapter_draft(0.1), reading=Draft(route=Route.RAG, text="invented", passages=PASSAGES))
    assert (await Cascade(threshold=0.5).decide(paths)).abstained
    assert kinds(paths) == ["choose:finetuned", "escalate:rag", "abstain:rag"]


async def test_rag_without_an_embedder_searches_by_words_and_says_so():
    paths = FakePaths(vector=PartDown("embedder", "is not available"))
    draft = await Rag().decide(paths)
    assert draft.text == "read"
    assert paths.calls == ["embed", "search by words", "read"]
    assert paths.degraded == ["embedder"]
    assert "fall_back:rag" in kinds(paths)


async def test_rag_without_a_generator_quotes_and_says_so():
    paths = FakePaths(reading=PartDown("generator", "is not available"))
    draft = await Rag().decide(paths)
    assert draft.text == draft.passages[0].text
    assert paths.calls == ["embed", "search", "read", "quote", "show rag"]
    assert paths.degraded == ["generator"]


async def test_rag_without_a_retriever_has_nothing_left():
    with pytest.raises(PartDown) as caught:
        await Rag().decide(FakePaths(passages=PartDown("retriever", "is not available")))
    assert caught.value.component == "retriever"


async def test_cascade_accepts_at_the_threshold_and_reads_nothing():
    paths = FakePaths(adapter=adapter_draft(0.75))
    draft = await Cascade(threshold=0.75).decide(paths)
    assert draft.route is Route.FINETUNED
    assert paths.calls == ["finetuned"]
    assert "0.750" in paths.steps[-1].reason
    assert kinds(paths) == ["choose:finetuned", "accept:finetuned"]


async def test_cascade_escalates_below_the_threshold_with_the_figures():
    paths = FakePaths(adapter=adapter_draft(0.7499))
    draft = await Cascade(threshold=0.8).decide(paths)
    assert draft.text == "read"
    assert kinds(paths) == ["choose:finetuned", "escalate:rag", "accept:rag"]
    assert "0.750 (uncalibrated) < threshold 0.800" in paths.steps[1].reason


async def test_cascade_without_an_adapter_escalates_and_names_it():
    paths = FakePaths(adapter=NoAdapter("answers"))
    assert (await Cascade(threshold=0.5).decide(paths)).text == "read"
    assert kinds(paths)[1] == "escalate:rag"
    assert '"answers"' in paths.steps[1].reason
    assert paths.degraded == []


async def test_cascade_without_a_retriever_keeps_even_a_poor_draft_and_says_so():
    paths = FakePaths(adapter=adapter_draft(0.1), passages=PartDown("retriever", "is not available"))
    draft = await Cascade(threshold=0.9).decide(paths)
    assert draft.text == "weights"
    assert paths.degraded == ["retriever"]
    assert kinds(paths) == ["choose:finetuned", "escalate:rag", "fall_back:finetuned"]
    # The escalation discarded the deltas: the draft is sent again.
    assert paths.calls[-1] == "show finetuned"


async def test_cascade_with_nothing_left_names_the_part():
    paths = FakePaths(adapter=NoAdapter("answers"), passages=PartDown("retriever", "is not available"))
    with pytest.raises(PartDown, match="retriever"):
        await Cascade(threshold=0.9).decide(paths)


async def test_cascade_does_not_fall_back_to_a_draft_that_says_nothing():
    empty = Draft(route=Route.FINETUNED, text="nothing", confidence=Confidence(1.0), abstained=True)
    paths = FakePaths(adapter=empty, passages=PartDown("retriever", "is not available"))
    with pytest.raises(PartDown):
        await Cascade(threshold=0.5).decide(paths)


async def test_cascade_without_a_generator_quotes():
    down = PartDown("generator", "is not available")
    paths = FakePaths(adapter=down, reading=down)
    draft = await Cascade(threshold=0.5).decide(paths)
    assert draft.route is Route.RAG
    assert kinds(paths) == ["choose:finetuned", "fall_back:rag", "fall_back:rag"]
    assert paths.calls == ["finetuned", "embed", "search", "read", "quote", "show rag"]


def test_the_policies_are_listed_by_name():
    known = build(cascade_threshold=0.6)
    assert list(known) == ["cascade", "finetuned", "rag"]
    assert "0.6" in known["cascade"].description


async def test_rag_withholds_an_answer_that_is_mostly_unsupported():
    text = "read and then a great deal that no passage says"
    paths = FakePaths(reading=Draft(route=Route.RAG, text=text, passages=PASSAGES, citations=CITATIONS))
    withheld = await Rag(min_support=0.5).decide(paths)
    assert withheld.abstained
    assert withheld.citations == ()
    assert "9% of the answer < 50%" in paths.steps[-1].reason
    kept = FakePaths(reading=paths.reading)
    assert not (await Rag(min_support=0.05).decide(kept)).abstained
