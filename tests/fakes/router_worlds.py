"""Worlds whose generator is scripted, and what a caller in them is left with."""

import asyncio

from services.router.domain import (
    ABSTAINED_TEXT,
    Answer,
    Citation,
    Cited,
    Closing,
    DecisionStep,
    Delta,
    Outcome,
    Route,
    Started,
    StepKind,
)
from tandem import errors
from tests.fakes.router import FakeGenerator, World, Written

DOWN = errors.Unavailable("connection refused")
_DISCARDING = (StepKind.ESCALATE, StepKind.FALL_BACK, StepKind.ABSTAIN)


def world_with(**sequences: Written) -> World:
    """Returns a world whose adapters write what is given; "base" stands for the base model."""
    generator = FakeGenerator()
    generator.sequences.update({name.replace("base", ""): made for name, made in sequences.items()})
    return World(generator=generator)


def deltas_after_last_discard(world: World) -> str:
    """Returns the text that stands at the end: drafts that were replaced are gone."""
    text = ""
    for event in world.events:
        if isinstance(event, Delta):
            text += event.text
        elif getattr(event, "kind", None) in _DISCARDING:
            text = ""
    return text.strip()


def calls_of(world: World) -> int:
    """Returns how many calls the parts saw, as a budget counts them."""
    written = len(world.generator.prompts) + len(world.generator.blends)
    return len(world.embedder.texts) + len(world.retriever.queries) + written


def check_end(world: World, asking: "asyncio.Task[Answer]") -> None:
    """Checks what holds however an answer ended: one status or one answer, one record, nothing left open."""
    assert world.generator.num_running == 0
    assert world.registry.get_sample_value("tandem_router_open_answers") in (0, None)
    _check_records(world, asking)
    if asking.cancelled():
        return
    error = asking.exception()
    if error is None:
        _check_answer(world, asking.result())
        return
    assert isinstance(error, errors.TandemError)
    assert error.code not in ("INTERNAL", "UNKNOWN", "NOT_FOUND")


def _check_records(world: World, asking: "asyncio.Task[Answer]") -> None:
    started = [event for event in world.events if isinstance(event, Started)]
    assert len(started) <= 1
    assert world.events[:1] == started
    audit = world.audit
    assert audit.given_up == []
    assert len(audit.opened) <= 1
    endings = [*audit.closed, *(entry for entry in audit.refused if isinstance(entry, Closing))]
    if not audit.opened:
        assert endings == []
        assert world.events == []
        return
    (closing,) = endings
    if not audit.closed:
        assert asking.cancelled() or asking.exception() is not None
        return
    if asking.cancelled():
        # Who leaves while the record of a finished answer is being written does not change the record.
        assert closing.outcome is not Outcome.INTERRUPTED
    elif asking.exception() is None:
        assert closing.outcome in (Outcome.ANSWERED, Outcome.ABSTAINED)
        assert any(draft.finished for draft in closing.drafts) or asking.result().draft.lineage is None
    else:
        assert closing.outcome is Outcome.FAILED
        assert closing.error_code


def _check_answer(world: World, answer: Answer) -> None:
    draft = answer.draft
    assert draft.text
    assert draft.abstained == (draft.text == ABSTAINED_TEXT)
    assert tuple(event for event in world.events if isinstance(event, DecisionStep)) == answer.steps
    assert answer.timings[-1].stage == "total"
    if draft.route is Route.FINETUNED and not draft.abstained:
        assert draft.lineage is not None
        assert draft.lineage.adapter == "answers"
    for citation in draft.citations:
        assert citation.chunk_id in {passage.chunk_id for passage in draft.passages}
    if draft.abstained:
        assert draft.citations == ()
        return
    assert deltas_after_last_discard(world) == draft.text
    assert cited_after_last_discard(world) == ([] if draft.groundedness is None else [draft.citations])


def cited_after_last_discard(world: World) -> list[tuple[Citation, ...]]:
    """Returns the citations told for the text that stands at the end, each time they were told."""
    told: list[tuple[Citation, ...]] = []
    for event in world.events:
        if isinstance(event, Cited):
            told.append(event.citations)
        elif getattr(event, "kind", None) in _DISCARDING:
            told = []
    return told
