"""Turns the domain's events, scores and adapters into the contract's messages."""

from collections.abc import Iterable

from services.generator.domain import (
    Finished,
    FinishReason,
    Lineage,
    ModelInfo,
    Pin,
    Score,
    Started,
    StreamCost,
    Token,
    Usage,
)
from services.generator.engine.meaning import Samples
from services.generator.registry import Shown, ShownVersion, VersionState
from tandem.v1 import common_pb2
from tandem.v1 import generator_service_pb2 as pb

_STATES = {
    VersionState.LOADED: pb.ADAPTER_VERSION_STATE_LOADED,
    VersionState.RETIRED: pb.ADAPTER_VERSION_STATE_RETIRED,
    VersionState.STORED: pb.ADAPTER_VERSION_STATE_STORED,
}
REASONS = {FinishReason.STOP: pb.FINISH_REASON_STOP, FinishReason.LENGTH: pb.FINISH_REASON_LENGTH}


def started(event: Started) -> pb.StreamGenerateResponse:
    """Returns the message that opens a stream."""
    opened = pb.GenerationStarted(lineage=lineage(event.lineage), input_tokens=event.input_tokens)
    return pb.StreamGenerateResponse(started=opened)


def delta(text: str, tokens: Iterable[Token] = ()) -> pb.StreamGenerateResponse:
    """Returns the message of a piece of text."""
    piece = pb.GenerationDelta(text=text, tokens=[token_logprob(token) for token in tokens])
    return pb.StreamGenerateResponse(delta=piece)


def finished(event: Finished) -> pb.GenerationFinished:
    """Returns how a sequence ended, and what it cost."""
    confidence = event.confidence
    message = pb.GenerationFinished(
        finish_reason=REASONS[event.reason],
        usage=usage(event.usage),
        lineage=lineage(event.lineage),
        mean_logprob=confidence.mean_logprob,
        min_logprob=confidence.min_logprob,
        mean_entropy=confidence.mean_entropy,
        max_entropy=confidence.max_entropy,
        mean_margin=confidence.mean_margin,
        min_margin=confidence.min_margin,
        streams=[_stream_cost(stream) for stream in event.streams],
    )
    stages = (("queue", event.queue_seconds), ("prefill", event.prefill_seconds), ("decode", event.decode_seconds))
    for stage, seconds in stages:
        timing = message.timings.add(stage=stage)
        timing.duration.FromNanoseconds(max(0, round(seconds * 1e9)))
    return message


def score(item: Score, *, with_tokens: bool) -> pb.ContinuationScore:
    """Returns the likelihood of one continuation."""
    return pb.ContinuationScore(
        sum_logprob=item.sum_logprob,
        num_tokens=len(item.tokens),
        greedy=item.greedy,
        tokens=[token_logprob(token) for token in item.tokens] if with_tokens else [],
    )


def samples(drawn: Samples) -> pb.SampleResponse:
    """Returns several answers and how far they disagree."""
    return pb.SampleResponse(
        samples=[
            pb.SampledText(
                text=answer.text,
                cluster=answer.cluster,
                mean_logprob=answer.mean_logprob,
                finish_reason=REASONS[answer.reason],
            )
            for answer in drawn.answers
        ],
        num_clusters=drawn.num_clusters,
        semantic_entropy=drawn.semantic_entropy,
        usage=usage(drawn.usage),
        lineage=lineage(drawn.lineage),
    )


def token_logprob(token: Token) -> pb.TokenLogprob:
    """Returns a token with what is told of it."""
    return pb.TokenLogprob(
        token_id=token.token_id,
        token=token.text,
        logprob=token.logprob,
        entropy=token.entropy,
        alternatives=[
            pb.TokenAlternative(token_id=other.token_id, token=other.text, logprob=other.logprob)
            for other in token.alternatives
        ],
    )


def usage(count: Usage) -> common_pb2.Usage:
    """Returns the counts of tokens."""
    return common_pb2.Usage(
        input_tokens=count.input_tokens,
        output_tokens=count.output_tokens,
        cached_tokens=count.cached_tokens,
        computed_tokens=count.computed_tokens,
    )


def lineage(names: Lineage) -> common_pb2.Lineage:
    """Returns the weights that an output came from."""
    return common_pb2.Lineage(
        model=names.model,
        model_sha256=names.model_sha256,
        adapter=names.adapter,
        adapter_sha256=names.adapter_sha256,
        signer_key_id=names.signer_key_id,
        cipher=names.cipher,
        cipher_key_id=names.cipher_key_id,
    )


def lineage_of(model: ModelInfo, pin: Pin | None = None) -> common_pb2.Lineage:
    """Returns the base model's lineage, with the pinned adapter's if there is one."""
    return lineage(model.lineage(pin.adapter if pin is not None else None))


def adapter(shown: Shown, *, explained: bool = True) -> pb.Adapter:
    """Returns the description of an adapter; `explained` tells refusals in words, which are an operator's to read.

    The sequences on a shared adapter are many tenants', so none is told how many there are.
    """
    known = shown.adapter
    return pb.Adapter(
        name=known.name,
        sha256=known.sha256,
        rank=known.rank,
        num_parameters=known.num_parameters,
        num_sequences=0 if shown.shared else shown.num_sequences,
        version=known.version,
        candidate_version=shown.candidate,
        canary_share=shown.canary_share,
        previous_version=shown.previous,
        versions=[_version(version, shared=shown.shared, explained=explained) for version in shown.versions],
        shared=shown.shared,
    )


def _version(shown: ShownVersion, *, shared: bool, explained: bool) -> pb.AdapterVersion:
    return pb.AdapterVersion(
        version=shown.version,
        aliases=shown.aliases,
        state=_STATES[shown.state],
        sha256=shown.sha256,
        num_sequences=0 if shared else shown.num_sequences,
        refusal=shown.refusal if explained else shown.refusal.partition(":")[0],
    )


def _stream_cost(stream: StreamCost) -> pb.StreamCost:
    return pb.StreamCost(
        lineage=lineage(stream.lineage),
        weight=stream.weight,
        input_tokens=stream.input_tokens,
        cached_tokens=stream.cached_tokens,
    )
