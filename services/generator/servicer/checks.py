"""Finds every fault of a request, field by field, before anything is done for it."""

import math
from collections.abc import Iterable

from tandem.errors import FieldViolation
from tandem.v1 import generator_service_pb2 as pb

_MAX_CHARACTERS = 65_536
_MAX_TOTAL_CHARACTERS = 1_048_576
_MAX_MESSAGES = 64
_MAX_ADAPTER_CHARACTERS = 1024
_MAX_BIASES = 300

AnyPrompt = pb.GenerateRequest | pb.BlendPrompt | pb.ScoreItem
Faults = Iterable[FieldViolation]


def generate(request: pb.GenerateRequest, *, vocabulary_size: int) -> Faults:
    """Yields the faults of a request for a sequence; a vocabulary_size of 0 is not known."""
    if request.WhichOneof("prompt") == "blend":
        if request.adapter:
            yield FieldViolation("adapter", "must be empty for a blend, whose prompts name their own")
        yield from _blend(request.blend)
    else:
        yield from _adapter("adapter", request.adapter)
        yield from _prompt(request, "", wanted="chat, text or blend")
    yield from _sampling(request.sampling)
    yield from _biases(request.sampling, vocabulary_size)
    yield from _priority(request.priority)
    if not 0 <= request.num_alternatives <= 20:
        yield FieldViolation("num_alternatives", "must be from 0 to 20")
    elif request.num_alternatives and not request.include_token_logprobs:
        yield FieldViolation("num_alternatives", "needs include_token_logprobs")


def score(request: pb.ScoreRequest) -> Faults:
    """Yields the faults of a request for likelihoods."""
    yield from _adapter("adapter", request.adapter)
    yield from _priority(request.priority)
    if not 1 <= len(request.items) <= 256:
        yield FieldViolation("items", "must be 1 to 256")
        return
    for index, item in enumerate(request.items):
        yield from _prompt(item, f"items[{index}].", wanted="chat or text")
        if not 1 <= len(item.continuation) <= _MAX_CHARACTERS:
            yield FieldViolation(f"items[{index}].continuation", "must be 1 to 65,536 characters")
    yield from _total("items", sum(_num_characters(item) + len(item.continuation) for item in request.items))


def sample(request: pb.SampleRequest, *, vocabulary_size: int) -> Faults:
    """Yields the faults of a request for several answers."""
    for fault in generate(request.request, vocabulary_size=vocabulary_size):
        yield FieldViolation(f"request.{fault.field}", fault.description)
    if request.request.sampling.HasField("temperature") and request.request.sampling.temperature == 0:
        yield FieldViolation("request.sampling.temperature", "must be more than 0: at 0 all samples are the same")
    if request.num_samples != 0 and not 2 <= request.num_samples <= 16:
        yield FieldViolation("num_samples", "must be from 2 to 16, or 0 for 5")


def _blend(blend: pb.Blend) -> Faults:
    if blend.mixing not in pb.Mixing.values():
        yield FieldViolation("blend.mixing", "must be MIXING_ARITHMETIC or MIXING_LOGARITHMIC")
    if not 2 <= len(blend.prompts) <= 16:
        yield FieldViolation("blend.prompts", "must be 2 to 16")
        return
    positive = blend.mixing != pb.MIXING_LOGARITHMIC
    for index, prompt in enumerate(blend.prompts):
        place = f"blend.prompts[{index}]."
        yield from _adapter(f"{place}adapter", prompt.adapter)
        yield from _prompt(prompt, place, wanted="chat or text")
        # Written so that NaN fails as well.
        if not -10 <= prompt.weight <= 10 or prompt.weight == 0:
            yield FieldViolation(f"{place}weight", "must be from -10 to 10 and not 0")
        elif positive and prompt.weight < 0:
            yield FieldViolation(f"{place}weight", "must be more than 0 where probabilities are averaged")
    yield from _total("blend.prompts", sum(_num_characters(prompt) for prompt in blend.prompts))


def _prompt(owner: AnyPrompt, place: str, *, wanted: str) -> Faults:
    kind = owner.WhichOneof("prompt")
    if kind is None:
        yield FieldViolation(f"{place}prompt", f"must be set: {wanted}")
    elif kind == "text":
        if not 1 <= len(owner.text) <= _MAX_CHARACTERS:
            yield FieldViolation(f"{place}text", "must be 1 to 65,536 characters")
    else:
        yield from _chat(owner.chat, place)


def _chat(chat: pb.ChatPrompt, within: str) -> Faults:
    place = f"{within}chat.messages"
    if not 1 <= len(chat.messages) <= _MAX_MESSAGES:
        yield FieldViolation(place, "must be 1 to 64 turns")
        return
    for index, message in enumerate(chat.messages):
        if message.role not in ("system", "user", "assistant"):
            yield FieldViolation(f"{place}[{index}].role", 'must be "system", "user" or "assistant"')
        elif message.role == "system" and index > 0:
            yield FieldViolation(f"{place}[{index}].role", 'may be "system" only in the first message')
        if not 1 <= len(message.content) <= _MAX_CHARACTERS:
            yield FieldViolation(f"{place}[{index}].content", "must be 1 to 65,536 characters")
    if chat.messages[-1].role != "user":
        yield FieldViolation(place, "must end with a turn of the user")
    yield from _total(place, sum(len(message.content) for message in chat.messages))


def _sampling(sampling: pb.Sampling) -> Faults:
    def within(name: str, low: float, high: float, text: str) -> Faults:
        # Written so that NaN fails as well.
        if sampling.HasField(name) and not low <= getattr(sampling, name) <= high:  # type: ignore[arg-type]
            yield FieldViolation(f"sampling.{name}", f"must be {text}")

    yield from within("max_tokens", 1, 4096, "from 1 to 4,096")
    yield from within("temperature", 0, 2, "from 0 to 2")
    yield from within("top_p", math.ulp(0.0), 1, "more than 0 and at most 1")
    yield from within("top_k", 0, 1000, "from 0 to 1,000")
    yield from within("min_p", 0, 1, "from 0 to 1")
    yield from within("repetition_penalty", 0.5, 2, "from 0.5 to 2")
    if len(sampling.stop) > 8:
        yield FieldViolation("sampling.stop", "must be at most 8 strings")
    for index, stop in enumerate(sampling.stop):
        if not 1 <= len(stop) <= 64:
            yield FieldViolation(f"sampling.stop[{index}]", "must be 1 to 64 characters")


def _biases(sampling: pb.Sampling, vocabulary_size: int) -> Faults:
    if len(sampling.logit_bias) > _MAX_BIASES:
        yield FieldViolation("sampling.logit_bias", "must be at most 300 tokens")
        return
    seen: set[int] = set()
    for index, item in enumerate(sampling.logit_bias):
        place = f"sampling.logit_bias[{index}]"
        if item.token_id < 0 or (vocabulary_size and item.token_id >= vocabulary_size):
            yield FieldViolation(f"{place}.token_id", "is not in the model's vocabulary")
        elif item.token_id in seen:
            yield FieldViolation(f"{place}.token_id", "is there twice")
        seen.add(item.token_id)
        if not -100 <= item.bias <= 100:
            yield FieldViolation(f"{place}.bias", "must be from -100 to 100")


def _adapter(place: str, name: str) -> Faults:
    if len(name) > _MAX_ADAPTER_CHARACTERS:
        yield FieldViolation(place, "must be at most 1,024 characters")


def _priority(priority: int) -> Faults:
    if priority not in pb.Priority.values():
        yield FieldViolation("priority", "must be PRIORITY_INTERACTIVE or PRIORITY_BATCH")


def _num_characters(owner: AnyPrompt) -> int:
    return len(owner.text) + sum(len(message.content) for message in owner.chat.messages)


def _total(place: str, num_characters: int) -> Faults:
    if num_characters > _MAX_TOTAL_CHARACTERS:
        yield FieldViolation(place, "must be at most 1,048,576 characters together")
