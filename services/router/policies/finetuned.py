"""finetuned: the adapter answers from its weights, or there is no answer."""

from services.router.domain import Draft, Paths, Route, StepKind


class Finetuned:
    """Answers from the adapter's weights alone; never from the base model."""

    name = "finetuned"
    description = "The tenant's answer adapter answers from its weights; no document is read."

    async def decide(self, paths: Paths) -> Draft:
        """Returns the adapter's answer; raises NoAdapter or PartDown."""
        await paths.step(StepKind.CHOOSE, Route.FINETUNED, "the policy asks the answer adapter alone")
        draft = await paths.finetuned(share=1.0, tentative=False)
        if draft.abstained:
            await paths.step(StepKind.ABSTAIN, Route.FINETUNED, "the adapter gave no answer")
        else:
            await paths.step(StepKind.ACCEPT, Route.FINETUNED, f"{figure(draft)}; the policy sets no threshold")
        return draft


def figure(draft: Draft) -> str:
    """Returns the draft's confidence in words."""
    if draft.confidence is None:
        return "no confidence is known"
    kind = f"calibrated by {draft.confidence.calibration}" if draft.confidence.calibration else "uncalibrated"
    return f"confidence {draft.confidence.value:.3f} ({kind})"
