"""What the caller hears, in which order, and what stands after each decision; and work that is done once for all."""

import asyncio

import pytest

from services.router.domain import Cited, DecisionStep, Delta, Draft, Event, Route, Sources, StepKind
from services.router.domain.grounding import Groundedness, GroundingStatus
from services.router.engine.once import Once
from services.router.engine.telling import Telling
from tests.fakes.router import PASSAGES

GROUNDED = Groundedness(status=GroundingStatus.MEASURED, value=0.9)


class Heard:
    """Keeps what was told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.telling = Telling(self.emit)

    async def emit(self, event: Event) -> None:
        self.events.append(event)

    async def decide(self, kind: StepKind, route: Route) -> None:
        await self.telling.decided(DecisionStep(kind, route, ""))

    def told(self) -> list[str]:
        names = []
        for event in self.events:
            if isinstance(event, DecisionStep):
                names.append(f"{event.kind}:{event.route}")
            else:
                names.append(event.text if isinstance(event, Delta) else type(event).__name__)
        return names


async def test_what_is_held_back_comes_with_the_acceptance_in_its_order():
    heard = Heard()
    voice = heard.telling.voice(Route.RAG, held=True)
    for event in (Sources(PASSAGES), Delta("a "), Delta("b"), Cited((), GROUNDED)):
        await voice.say(event)
    assert heard.events == []
    await heard.decide(StepKind.ACCEPT, Route.RAG)
    assert heard.told() == ["Sources", "a b", "Cited", "accept:rag"]


async def test_what_is_held_back_follows_the_decision_for_its_path_and_goes_on_live():
    heard = Heard()
    other, voice = heard.telling.voice(Route.FINETUNED, held=True), heard.telling.voice(Route.RAG, held=True)
    await other.say(Delta("weights"))
    await voice.say(Delta("a "))
    await heard.decide(StepKind.ESCALATE, Route.RAG)
    await voice.say(Delta("b"))
    await heard.decide(StepKind.ACCEPT, Route.RAG)
    assert heard.told() == ["escalate:rag", "a ", "b", "accept:rag"]


async def test_a_draft_is_shown_once_and_again_after_it_was_discarded():
    heard = Heard()
    draft = Draft(route=Route.FINETUNED, text="a b", groundedness=GROUNDED)
    await heard.telling.voice(Route.FINETUNED, held=False).say(Delta("a b "))
    await heard.telling.show(draft)
    await heard.telling.show(draft)
    await heard.decide(StepKind.FALL_BACK, Route.FINETUNED)
    await heard.telling.show(draft)
    assert heard.told() == ["a b ", "Cited", "fall_back:finetuned", "a b", "Cited"]


async def test_work_is_done_once_for_all_who_ask_at_the_same_time():
    starts = 0
    ready = asyncio.Event()

    async def work() -> int:
        nonlocal starts
        starts += 1
        await ready.wait()
        return starts

    once = Once(work)
    asking = [asyncio.create_task(once.get()) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asking[0].cancel()
    ready.set()
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert found[1:] == [1, 1]
    assert await once.get() == 1


async def test_a_failure_is_the_same_for_all_who_ask():
    async def work() -> int:
        raise ZeroDivisionError

    once = Once(work)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await once.get()


async def test_work_ends_with_the_last_who_waits_and_may_begin_anew():
    begun: list[int] = []

    async def work() -> int:
        begun.append(1)
        if len(begun) == 1:
            await asyncio.Event().wait()
        return 7

    once = Once(work)
    asking = asyncio.create_task(once.get())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not once.begun
    assert await once.get() == 7
