"""The wire format of OpenAI-compatible servers: what is asked, what comes back, and what the dialects differ in.

A server that does not know a field ignores it, and one whose defaults are
not neutral (llama.cpp samples with top-k 40 and min-p 0.05, vLLM with what
the model's generation_config.json says) applies them. So every knob is sent,
under the name that the server at hand is known to honour, and what a server
is not known to honour is refused.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import httpx2

from services.generator.domain import Alternative, GenerateInput, Message, ModelInfo, Sampling, Token
from tandem.errors import FailedPrecondition, FieldViolation, InvalidInput, Overloaded, TandemError, Unavailable

Json = Mapping[str, Any]

_CONTROL = re.compile(
    r"<[|｜][^|｜<>\n]{1,64}[|｜]>|</?s>|<(?:bos|eos|pad|unk)>|\[/?[A-Z_]{3,32}\]|<</?SYS>>|<(?:start|end)_of_turn>"
)
_TOO_LONG = re.compile(r"context (?:length|size|window)|input tokens", re.IGNORECASE)
_SEEDS = 2**31
_LEAST_ALTERNATIVES = 2
"""What the margin needs; fewer would also make some servers tell no logprobs at all."""


class Dialect(Enum):
    """Says which server speaks, by what its list of models calls the owner."""

    VLLM = "vllm"
    LLAMA_CPP = "llamacpp"
    OTHER = "other"


@dataclass(frozen=True)
class Served:
    """Is a model that a server lists."""

    model: ModelInfo
    dialect: Dialect


@dataclass(frozen=True)
class Counts:
    """Tells the tokens of a sequence as far as the server has counted."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True)
class Chunk:
    """Is one event of a stream; `tokens` are those that the server tells, in order."""

    text: str = ""
    tokens: tuple[Token, ...] = ()
    finish: str | None = None
    counts: Counts | None = None


def served(body: Json) -> list[Served]:
    """Reads the answer to GET /models, without vLLM's adapters; raises Unavailable for what is no list of models."""
    try:
        return [_served(card) for card in body["data"] if not card.get("parent")]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Unavailable("the model server's list of models cannot be read") from error


def _served(card: Json) -> Served:
    owner = card.get("owned_by")
    dialect = next((known for known in Dialect if known.value == owner), Dialect.OTHER)
    meta = card.get("meta") or {}
    model = ModelInfo(
        name=str(card["id"]),
        # Nothing that a server says proves which weights it holds.
        sha256="",
        max_context_tokens=int(card.get("max_model_len") or meta.get("n_ctx") or 0),
        precision=str(meta.get("ftype") or ""),
        vocabulary_size=int(meta.get("n_vocab") or 0),
    )
    return Served(model, dialect)


def unsupported(feature: str, what: str) -> FailedPrecondition:
    """Returns the refusal of what the backend lacks."""
    return FailedPrecondition(
        f"the backend openai has no {what}",
        reason="UNSUPPORTED_BY_BACKEND",
        metadata={"feature": feature, "backend": "openai"},
    )


def body(request: GenerateInput, at: Served, *, max_tokens: int | None = None) -> dict[str, Any]:
    """Returns the body of a streamed completion; raises FailedPrecondition for sampling that the server lacks."""
    sampling = request.sampling
    prompt = request.streams[0].prompt
    count = max(_LEAST_ALTERNATIVES, request.num_alternatives)
    # vLLM refuses more than the context at once; what is left of it beside the prompt, the server knows.
    room = max(1, at.model.max_context_tokens - 1) if at.model.max_context_tokens else sampling.max_tokens
    asked: dict[str, Any] = {
        "model": at.model.name,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": min(sampling.max_tokens, room) if max_tokens is None else max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    if sampling.stop:
        asked["stop"] = list(sampling.stop)
    if sampling.logit_bias:
        asked["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
    if isinstance(prompt, str):
        asked |= {"prompt": prompt, "logprobs": count}
    else:
        asked |= {"messages": messages(prompt), "logprobs": True, "top_logprobs": count}
    if sampling.seed is not None:
        # Servers take 32 bits, and some take -1 for "any".
        asked["seed"] = sampling.seed % _SEEDS
    return asked | _particular(at, sampling, tenant=request.tenant)


def _particular(at: Served, sampling: Sampling, *, tenant: str) -> dict[str, Any]:
    """Returns the fields that only this kind of server knows; none shares cached prefixes between tenants."""
    filters: dict[str, Any] = {"top_k": sampling.top_k, "min_p": sampling.min_p}
    if at.dialect is Dialect.VLLM:
        return filters | {
            "repetition_penalty": sampling.repetition_penalty,
            "cache_salt": hashlib.sha256(f"tandem tenant {tenant}".encode()).hexdigest(),
            "return_token_ids": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
    if at.dialect is Dialect.LLAMA_CPP:
        return filters | {
            "repeat_penalty": sampling.repetition_penalty,
            # Counts the whole sequence, as the penalty is defined; the server refuses its own -1 for that.
            "repeat_last_n": at.model.max_context_tokens,
            "samplers": ["penalties", "temperature", "top_k", "top_p", "min_p"],
            "mirostat": 0,
            # Its cache knows no tenants: who asks next would feel what another tenant has asked before.
            "cache_prompt": False,
            "timings_per_token": True,
        }
    for feature, value, neutral in (
        ("top_k", sampling.top_k, 0),
        ("min_p", sampling.min_p, 0.0),
        ("repetition_penalty", sampling.repetition_penalty, 1.0),
    ):
        if value != neutral:
            raise unsupported(feature, f"{feature} on this server")
    return {}


def messages(prompt: Sequence[Message]) -> list[dict[str, str]]:
    """Returns the turns for the server's chat template, with the control tokens of common model families broken up.

    Servers recognise control tokens in a turn's content: without this a user
    or a passage could open another speaker's turn.
    """
    return [{"role": turn.role, "content": _CONTROL.sub(_broken, turn.content)} for turn in prompt]


def _broken(match: re.Match[str]) -> str:
    return f"{match[0][0]} {match[0][1:]}"


def chunk(data: str, *, num_alternatives: int) -> Chunk:
    """Reads one event of a stream; raises Unavailable for one that tells an error or cannot be read."""
    try:
        event = json.loads(data)
        if error := event.get("error"):
            raise Unavailable("the model server ended the sequence", metadata={"server_code": _code(error)})
        choice = event["choices"][0] if event["choices"] else {}
        text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
        if not isinstance(text, str):
            raise TypeError
        tokens = _tokens(choice.get("logprobs") or {}, choice.get("token_ids") or (), num_alternatives)
        return Chunk(text, tuple(tokens), choice.get("finish_reason"), _counts(event))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Unavailable("the model server sent an event that cannot be read") from error


def _code(error: object) -> str:
    code = error.get("code") if isinstance(error, dict) else None
    return str(code) if isinstance(code, int) else ""


def _counts(event: Json) -> Counts | None:
    if usage := event.get("usage"):
        details = usage.get("prompt_tokens_details") or {}
        cached = int(details.get("cached_tokens") or 0)
        return Counts(int(usage["prompt_tokens"]), int(usage["completion_tokens"]), cached)
    if timings := event.get("timings"):
        cached = int(timings.get("cache_n") or 0)
        return Counts(int(timings["prompt_n"]) + cached, int(timings["predicted_n"]), cached)
    return None


def _tokens(logprobs: Json, ids: Sequence[int], num_alternatives: int) -> list[Token]:
    """Reads the tokens of a choice from either form of logprobs; ids are vLLM's, which has them apart."""
    if (content := logprobs.get("content")) is not None:
        entries = [(item, item.get("top_logprobs") or ()) for item in content]
    else:
        tops = logprobs.get("top_logprobs") or ()
        pairs = zip(logprobs.get("tokens") or (), logprobs.get("token_logprobs") or (), strict=True)
        entries = [
            (
                {"token": text, "logprob": logprob},
                [{"token": key, "logprob": value} for key, value in (tops[i] or {}).items()] if tops else (),
            )
            for i, (text, logprob) in enumerate(pairs)
        ]
    told = ids if len(ids) == len(entries) else [None] * len(entries)
    return [
        _token(item, top, token_id, num_alternatives)
        for (item, top), token_id in zip(entries, told, strict=True)
        if item["logprob"] is not None
    ]


def _token(item: Json, top: Sequence[Json], token_id: int | None, num_alternatives: int) -> Token:
    """Returns the token; ids that the server does not tell are -1."""
    number = int(item.get("id", -1)) if token_id is None else int(token_id)
    likeliest = sorted((_alternative(other, item, number) for other in top), key=lambda other: -other.logprob)
    margin = None
    if len(likeliest) >= _LEAST_ALTERNATIVES:
        margin = math.exp(likeliest[0].logprob) - math.exp(likeliest[1].logprob)
    # llama.cpp gives a token inside a character, or a stop string, another text than its own; the alternatives do not.
    own = next((other.text for other in likeliest if other.token_id == number >= 0), str(item["token"]))
    return Token(
        number, own, _logprob(item["logprob"]), margin=margin, alternatives=tuple(likeliest[:num_alternatives])
    )


def _alternative(other: Json, chosen: Json, number: int) -> Alternative:
    same = other["token"] == chosen["token"] and other["logprob"] == chosen["logprob"]
    return Alternative(int(other.get("id", number if same else -1)), str(other["token"]), _logprob(other["logprob"]))


def _logprob(value: Any) -> float:
    logprob = float(value)
    if math.isnan(logprob):
        raise ValueError("a logprob is not a number")
    return max(-9999.0, min(0.0, logprob))


def failure(response: httpx2.Response, content: bytes) -> TandemError:
    """Returns what a refusal of the server means; nothing that the server wrote is passed on, it may quote prompts."""
    status = response.status_code
    if status == 429:
        return Overloaded("the model server takes no more sequences", retry_after_s=_retry_after(response) or 1.0)
    if status in (400, 413, 422):
        if _TOO_LONG.search(content.decode(errors="replace")):
            return prompt_too_long()
        return InvalidInput("the model server refused the request", reason="REFUSED_BY_SERVER")
    if status in (401, 403):
        return FailedPrecondition("the model server does not accept the API key", reason="SERVER_REFUSED_KEY")
    if status == 404:
        return FailedPrecondition("the model server no longer serves the model", reason="MODEL_NOT_SERVED")
    return Unavailable(f"the model server answered {status}", retry_after_s=_retry_after(response))


def error_type(content: bytes) -> str:
    """Returns the word that classifies a refusal: nothing else of it may stand in a log, it may quote prompts."""
    try:
        word = json.loads(content)["error"]["type"]
    except (ValueError, LookupError, TypeError):
        return ""
    return word if isinstance(word, str) and re.fullmatch(r"[A-Za-z_]{1,40}", word) else ""


def prompt_too_long() -> InvalidInput:
    """Returns the refusal of a prompt beyond the context of the server's model."""
    fault = FieldViolation("prompt", "does not fit the model's context")
    return InvalidInput("the prompt does not fit the model's context", [fault], reason="PROMPT_TOO_LONG")


def _retry_after(response: httpx2.Response) -> float | None:
    """Reads Retry-After in seconds; the form with a date is not worth a parser."""
    value = response.headers.get("retry-after", "")
    return min(600.0, float(value)) if re.fullmatch(r"\d{1,9}", value) else None
