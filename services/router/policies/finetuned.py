"""finetuned: the adapter answers from its weights, or there is no answer."""

from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from services.router.domain import ABSTAINED_TEXT, Confidence, Draft, PartDown, Paths, Route, StepKind
from tandem.tasks import Together

T = TypeVar("T")


class Finetuned:
    """Answers from the adapter's weights alone; never from the base model."""

    name = "finetuned"
    description = "The domain's answer adapter answers from its weights; no document is read."

    async def decide(self, paths: Paths) -> Draft:
        """Returns the adapter's answer; raises NoAdapter or PartDown."""
        await paths.step(StepKind.CHOOSE, Route.FINETUNED, "the policy asks the answer adapter alone")
        tried = judged(paths, await located(paths, paths.finetuned(share=1.0, tentative=False)))
        if tried.draft.abstained:
            await paths.step(StepKind.ABSTAIN, Route.FINETUNED, tried.reason)
        else:
            await paths.step(StepKind.ACCEPT, Route.FINETUNED, f"{figure(tried.draft)}; the policy sets no threshold")
        return tried.draft


@dataclass(frozen=True)
class Judged:
    """Is a draft of the adapter's with its confidence, whether that is enough, and the figures compared."""

    draft: Draft
    accepted: bool
    reason: str


async def located(paths: Paths, drafting: Coroutine[Any, Any, T]) -> T:
    """Returns what is drafted; the question is embedded beside it where the domain's calibration needs its distance."""
    artefact = paths.domain.artefact
    wanted = artefact is not None and any(one.name == "scope_distance" for one in artefact.features)
    async with Together() as together:
        locating = together.start(_locate(paths)) if wanted and paths.room(calls=2) else None
        draft = await drafting
        if locating is not None:
            await locating
    return draft


async def _locate(paths: Paths) -> None:
    # Without a scope the draft cannot be judged, and the reason says so.
    with suppress(PartDown):
        await paths.scope()


def judged(paths: Paths, draft: Draft) -> Judged:
    """Returns a draft with what the domain's calibration says of it."""
    found = paths.judge(draft)
    if draft.abstained:
        return Judged(draft, False, "the adapter gave no answer")
    if found.confidence is not None:
        draft = replace(draft, confidence=Confidence(found.confidence, found.version))
    return Judged(draft, found.accepted, found.reason)


async def answer_if_sure(paths: Paths) -> Draft:
    """Returns the adapter's answer, withheld where its confidence is not enough; raises NoAdapter or PartDown."""
    return await given_if_sure(paths, await paths.finetuned(share=1.0, tentative=True))


async def given_if_sure(paths: Paths, draft: Draft) -> Draft:
    """Returns a draft of the adapter's, withheld where its confidence is not enough."""
    tried = judged(paths, draft)
    if tried.accepted:
        await paths.step(StepKind.ACCEPT, Route.FINETUNED, tried.reason)
        return tried.draft
    await paths.step(StepKind.ABSTAIN, Route.FINETUNED, tried.reason)
    return withheld(tried.draft)


def withheld(draft: Draft) -> Draft:
    """Returns what is given in place of a draft; its citations go with the text whose sentences they are about."""
    return replace(draft, text=ABSTAINED_TEXT, citations=(), abstained=True)


def figure(draft: Draft) -> str:
    """Returns the draft's confidence in words."""
    if draft.confidence is None:
        return "no confidence is known"
    calibration = draft.confidence.calibration
    kind = f"calibrated by {calibration[:12]}" if calibration else "uncalibrated"
    return f"confidence {draft.confidence.value:.3f} ({kind})"
