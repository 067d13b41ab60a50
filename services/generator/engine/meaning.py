"""Draws several answers to one question and tells how far they disagree in what they say."""

import asyncio
import math
import re
import unicodedata
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from services.generator.domain import Backend, Delta, Event, Finished, FinishReason, GenerateInput, Lineage, Usage
from tandem.errors import Internal
from tandem.scoring import exact_match, f1

SAME_WORDS = 0.8
"""Token F1 from which on two short answers say the same, unless a number, a unit or a negation differs."""

_TOKEN = re.compile(r"(?<!\w)[-−]?\d+(?:[.,]\d+)*|\d+(?:[.,]\d+)*|[^\W\d_]+|[%$€£]")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_NUMBERS = (
    {word: str(number) for number, word in enumerate(_SMALL.split())}
    | {word: f"{number}0" for number, word in enumerate(_TENS.split(), 2)}
    | {"hundred": "100", "thousand": "1000", "million": "1000000"}
)
_MEASURES = "percent dollar euro pound hour day week month quarter year kilometre mile"
_SIGNS = {"%": "percent", "$": "dollar", "€": "euro", "£": "pound"}
_UNITS = (
    _SIGNS
    | {"usd": "dollar", "eur": "euro", "gbp": "pound", "km": "kilometre"}
    | {form: word for word in _MEASURES.split() for form in (word, word + "s")}
)
_FORMS = _NUMBERS | _UNITS
_AMOUNTS = frozenset({*_UNITS.values(), "half", "once", "twice", "every", "each", "per", "working", "business"})
_NEGATIONS = frozenset({"no", "not", "never", "none", "neither", "nor", "without", "nobody", "nothing"})


@dataclass(frozen=True)
class Answer:
    """Is one of several answers; `cluster` numbers what it says, from 0 in order of first appearance."""

    text: str
    cluster: int
    mean_logprob: float
    reason: FinishReason


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Holds the answers in the order of their requests, their disagreement in nats, and what all of them cost."""

    answers: tuple[Answer, ...]
    num_clusters: int
    semantic_entropy: float
    usage: Usage
    lineage: Lineage


async def sample(backend: Backend, requests: Sequence[GenerateInput]) -> Samples:
    """Runs the requests side by side and compares what they say.

    They ask the same with different seeds, at least one. Takes over the pins
    of all of them, whatever becomes of it. The first failure ends the others
    and is raised; so does a caller that leaves.
    """
    async with AsyncExitStack() as stack:
        running: list[AsyncGenerator[Event, None]] = []
        try:
            for request in requests:
                running.append(backend.generate(request))
                stack.push_async_callback(running[-1].aclose)
        except BaseException:
            # The backend has the pins of the request that it refused, and never saw those after it.
            for request in requests[len(running) + 1 :]:
                for pin in request.pins:
                    pin.release()
            raise
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_collected(events)) for events in running]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
    texts, ends = zip(*(task.result() for task in tasks), strict=True)
    # Long answers take a while to compare, and the loop has others to serve.
    clusters = await asyncio.to_thread(cluster, texts)
    return Samples(
        answers=tuple(
            Answer(text, number, end.confidence.mean_logprob, end.reason)
            for text, number, end in zip(texts, clusters, ends, strict=True)
        ),
        num_clusters=len(set(clusters)),
        semantic_entropy=semantic_entropy(clusters),
        usage=Usage(
            input_tokens=sum(end.usage.input_tokens for end in ends),
            output_tokens=sum(end.usage.output_tokens for end in ends),
            cached_tokens=sum(end.usage.cached_tokens for end in ends),
            computed_tokens=sum(end.usage.computed_tokens for end in ends),
        ),
        lineage=ends[0].lineage,
    )


def semantic_entropy(clusters: Sequence[int]) -> float:
    """Returns the entropy over the clusters in nats, each answer counting the same (discrete semantic entropy).

    Kuhn et al., arXiv 2302.09664; Farquhar et al., Nature 630 (2024),
    s41586-024-07421-0. 0 where all say the same, at most log(len(clusters)).
    """
    shares = [count / len(clusters) for count in Counter(clusters).values()]
    return sum(share * math.log(1 / share) for share in shares)


def cluster(texts: Sequence[str]) -> list[int]:
    """Returns the number of each text's cluster, from 0 in order of first appearance.

    Saying the same is not transitive when it rests on shared words: A may be
    close to B and B to C while A and C differ. A text therefore joins the
    first cluster whose first member it agrees with; chains cannot form, and
    the result depends on the order of the texts alone.
    """
    leaders: list[_Said] = []
    numbers: list[int] = []
    for said in map(_Said.of, texts):
        number = next((i for i, leader in enumerate(leaders) if leader.agrees(said)), len(leaders))
        if number == len(leaders):
            leaders.append(said)
        numbers.append(number)
    return numbers


def say_the_same(one: str, other: str) -> bool:
    """Tells whether two short answers say the same, as far as their words show.

    They must be equal but for case, punctuation and articles, or share most
    of their words; never do they if their amounts differ or only one of them
    holds a negation. Synonyms, opposites ("included", "excluded") and the
    order of words are not seen.
    """
    return _Said.of(one).agrees(_Said.of(other))


@dataclass(frozen=True)
class _Said:
    """Holds an answer with numbers, units and negations in one spelling, and those apart."""

    text: str
    amounts: frozenset[str]
    negated: bool

    @classmethod
    def of(cls, text: str) -> "_Said":
        plain = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
        plain = plain.replace("per cent", "%").replace("can't", "can not")
        plain = _TOKEN.sub(_plain_form, plain.replace("cannot", "can not").replace("n't", " not"))
        tokens = _TOKEN.findall(plain)
        amounts = (token for token in tokens if token in _AMOUNTS or token[-1].isdecimal())
        return cls(plain, frozenset(amounts), negated=not _NEGATIONS.isdisjoint(tokens))

    def agrees(self, other: "_Said") -> bool:
        if (self.amounts, self.negated) != (other.amounts, other.negated):
            return False
        return bool(exact_match(self.text, [other.text])) or f1(self.text, [other.text]) >= SAME_WORDS


def _plain_form(found: re.Match[str]) -> str:
    """Returns one form for "1,000.50" and "1000.5", "$" and "dollars", "two" and "2"; other tokens as they are."""
    token = found[0]
    if not token[-1].isdecimal():
        return f" {_FORMS[token]} " if token in _FORMS else token
    sign, digits = ("-", token[1:]) if token[0] in "-−" else ("", token)
    if _THOUSANDS.fullmatch(digits):
        digits = digits.replace(",", "")
    whole, _, part = digits.replace(",", ".").partition(".")
    if "." in part:
        return token
    whole, part = whole.lstrip("0") or "0", part.rstrip("0")
    return sign + whole + (f".{part}" if part else "")


async def _collected(events: AsyncGenerator[Event, None]) -> tuple[str, Finished]:
    """Returns the whole text of a sequence and its end."""
    pieces: list[str] = []
    async for event in events:
        if isinstance(event, Delta):
            pieces.append(event.text)
        elif isinstance(event, Finished):
            return "".join(pieces) + event.tail, event
    raise Internal("a sequence ended without an end")
