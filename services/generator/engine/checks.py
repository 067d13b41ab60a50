"""What is refused before it waits: features that lack, tokens that are none, prompts that never fit."""

from collections.abc import Iterable

from services.generator.domain import Feature, GenerateInput, ModelInfo, ScoreInput
from services.generator.engine.scheduler import Scheduler
from tandem.errors import FailedPrecondition, FieldViolation, InvalidInput


def check_features(request: GenerateInput | ScoreInput, features: frozenset[Feature]) -> None:
    """Raises FailedPrecondition for what the backend cannot do."""
    for feature in _wanted(request):
        if feature not in features:
            raise FailedPrecondition(f"the backend has no {feature.value}", reason="UNSUPPORTED_BY_BACKEND")


def check_request(request: GenerateInput | ScoreInput, model: ModelInfo) -> None:
    """Raises InvalidInput for a request for nothing, and for a token that the model lacks."""
    if isinstance(request, ScoreInput):
        if not request.items:
            raise InvalidInput.of("items", "is empty")
        return
    if not request.streams:
        raise InvalidInput.of("prompt", "is missing")
    if request.sampling.max_tokens < 1:
        raise InvalidInput.of("sampling.max_tokens", "must be at least 1")
    for token, _ in request.sampling.logit_bias:
        if token < 0 or (model.vocabulary_size and token >= model.vocabulary_size):
            raise InvalidInput.of("sampling.logit_bias", f"names token {token}, which the model does not have")


def fit_output(prompts: list[list[int]], *, wanted: int, model: ModelInfo, scheduler: Scheduler) -> int:
    """Returns how many tokens may be produced; raises InvalidInput for a prompt that leaves room for none."""
    for index, prompt in enumerate(prompts):
        field = "prompt" if len(prompts) == 1 else f"blend.prompts[{index}].prompt"
        if not prompt:
            raise InvalidInput.of(field, "has no tokens")
        if len(prompt) >= model.max_context_tokens:
            raise too_long(field, len(prompt), model.max_context_tokens)
    lengths = [len(prompt) for prompt in prompts]
    room = scheduler.room(lengths, min(wanted, model.max_context_tokens - max(lengths)))
    if not room:
        pool = scheduler.pool
        raise too_long("prompt" if len(prompts) == 1 else "blend", sum(lengths), pool.num_blocks * pool.block_size)
    return room


def check_score(index: int, prompt: list[int], continuation: list[int], model: ModelInfo, scheduler: Scheduler) -> None:
    """Raises InvalidInput for a continuation that cannot be scored."""
    if not prompt:
        raise InvalidInput.of(f"items[{index}].prompt", "has no tokens")
    if not continuation:
        raise InvalidInput.of(f"items[{index}].continuation", "has no tokens")
    length = len(prompt) + len(continuation)
    pool = scheduler.pool
    if length > model.max_context_tokens:
        raise too_long(f"items[{index}].prompt", length, model.max_context_tokens)
    if not scheduler.room([length - 1], 1):
        raise too_long(f"items[{index}].prompt", length, pool.num_blocks * pool.block_size)


def too_long(field: str, length: int, limit: int) -> InvalidInput:
    """Returns the error for a prompt that does not fit."""
    description = f"has {length} tokens; with what follows at most {limit} fit"
    return InvalidInput(
        f"{field} {description}",
        [FieldViolation(field, description)],
        metadata={"tokens": str(length), "limit": str(limit)},
        reason="PROMPT_TOO_LONG",
    )


def _wanted(request: GenerateInput | ScoreInput) -> Iterable[Feature]:
    if isinstance(request, ScoreInput):
        yield Feature.SCORING
        if request.pin is not None:
            yield Feature.ADAPTERS
        return
    if request.pins:
        yield Feature.ADAPTERS
    if len(request.streams) > 1:
        yield Feature.BLENDING
