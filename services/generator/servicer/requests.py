"""Turns checked requests into the domain's, with the adapters that they name pinned.

A pin that was taken is either part of the request that is returned, or
released again before the failure is raised.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace

from services.generator.domain import (
    GenerateInput,
    Message,
    Mixing,
    Pin,
    Priority,
    Prompt,
    Sampling,
    ScoreInput,
    ScoreItem,
    StreamInput,
)
from services.generator.servicer.checks import AnyPrompt, Faults
from tandem.errors import FieldViolation, InvalidInput
from tandem.rpc import call
from tandem.v1 import generator_service_pb2 as pb

TakePin = Callable[[str], Pin]
"""Returns a pin on the adapter of that name; raises NotFound."""

_DEFAULT_SAMPLES = 5
_SEEDS = 2**63
_PRIORITIES = {pb.PRIORITY_INTERACTIVE: Priority.INTERACTIVE, pb.PRIORITY_BATCH: Priority.BATCH}


def refuse(faults: Faults, *, within: str = "") -> None:
    """Raises InvalidInput that names every fault, if there is any."""
    named = [FieldViolation(within + fault.field, fault.description) for fault in faults]
    if named:
        raise InvalidInput(f"{named[0].field} {named[0].description}", named)


def generate_input(request: pb.GenerateRequest, *, tenant: str, pin: TakePin) -> GenerateInput:
    """Returns what a faultless request asks for."""
    blend = request.blend if request.WhichOneof("prompt") == "blend" else None
    logarithmic = blend is not None and blend.mixing == pb.MIXING_LOGARITHMIC
    owners: list[tuple[AnyPrompt, str, float]] = [(request, request.adapter, 1.0)]
    if blend is not None:
        total = 1.0 if logarithmic else sum(prompt.weight for prompt in blend.prompts)
        owners = [(prompt, prompt.adapter, prompt.weight / total) for prompt in blend.prompts]
    prompts = [_prompt(owner) for owner, _, _ in owners]
    sampling = _sampling(request.sampling)
    pins = _pins((name for _, name, _ in owners), pin)
    return GenerateInput(
        streams=tuple(
            StreamInput(prompt=prompt, pin=pins.get(name), weight=weight)
            for prompt, (_, name, weight) in zip(prompts, owners, strict=True)
        ),
        tenant=tenant,
        mixing=Mixing.LOGARITHMIC if logarithmic else Mixing.ARITHMETIC,
        sampling=sampling,
        num_alternatives=request.num_alternatives,
        priority=_PRIORITIES.get(request.priority, Priority.INTERACTIVE),
        deadline=_deadline(),
    )


def sample_inputs(request: pb.SampleRequest, *, tenant: str, pin: TakePin) -> tuple[GenerateInput, ...]:
    """Returns the sequences that a faultless request asks for, each with its own pins, and a seed if one is given."""
    asked = request.request
    inputs: list[GenerateInput] = []
    for number in range(request.num_samples or _DEFAULT_SAMPLES):
        # What the first one found, the others find as well: nothing happens in between.
        one = generate_input(asked, tenant=tenant, pin=pin)
        sampling = one.sampling
        if not asked.sampling.HasField("temperature"):
            sampling = replace(sampling, temperature=1.0)
        if sampling.seed is not None:
            sampling = replace(sampling, seed=(sampling.seed + number) % _SEEDS)
        inputs.append(replace(one, sampling=sampling, num_alternatives=0))
    return tuple(inputs)


def score_input(request: pb.ScoreRequest, *, tenant: str, pin: TakePin) -> ScoreInput:
    """Returns what a faultless request asks for."""
    items = tuple(ScoreItem(prompt=_prompt(item), continuation=item.continuation) for item in request.items)
    return ScoreInput(
        items=items,
        tenant=tenant,
        pin=_pins((request.adapter,), pin).get(request.adapter),
        priority=_PRIORITIES.get(request.priority, Priority.BATCH),
        deadline=_deadline(),
    )


def _pins(names: Iterable[str], pin: TakePin) -> dict[str, Pin]:
    """Pins each named adapter once; when one is not found the others are released."""
    held: dict[str, Pin] = {}
    with ExitStack() as undo:
        for name in names:
            if name and name not in held:
                held[name] = pin(name)
                undo.callback(held[name].release)
        undo.pop_all()
    return held


def _prompt(owner: AnyPrompt) -> Prompt:
    if owner.WhichOneof("prompt") == "text":
        return owner.text
    return tuple(Message(message.role, message.content) for message in owner.chat.messages)


def _sampling(sampling: pb.Sampling) -> Sampling:
    default = Sampling()
    return Sampling(
        max_tokens=sampling.max_tokens if sampling.HasField("max_tokens") else default.max_tokens,
        temperature=sampling.temperature if sampling.HasField("temperature") else default.temperature,
        top_p=sampling.top_p if sampling.HasField("top_p") else default.top_p,
        top_k=sampling.top_k if sampling.HasField("top_k") else default.top_k,
        min_p=sampling.min_p if sampling.HasField("min_p") else default.min_p,
        seed=sampling.seed if sampling.HasField("seed") else None,
        stop=tuple(sampling.stop),
        repetition_penalty=(
            sampling.repetition_penalty if sampling.HasField("repetition_penalty") else default.repetition_penalty
        ),
        logit_bias=tuple((item.token_id, item.bias) for item in sampling.logit_bias),
    )


def _deadline() -> float | None:
    left = call.remaining()
    return None if left is None else time.monotonic() + left
