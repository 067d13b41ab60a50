"""Worlds whose generator is scripted, and what a caller in them is left with."""

from services.router.domain import Delta, StepKind
from tandem import errors
from tests.fakes.router import FakeGenerator, World, Written

DOWN = errors.Unavailable("connection refused")


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
        elif getattr(event, "kind", None) in (StepKind.ESCALATE, StepKind.FALL_BACK, StepKind.ABSTAIN):
            text = ""
    return text.strip()
