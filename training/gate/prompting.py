"""Gives the base model its best prompt, chosen on the validation split: what is gained must not be mere form.

An untrained model answers in sentences where an adapter has learnt to be
brief. So it is told so, or shown how, before the two are compared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tandem.prompts import Message
from training.examples import Example

Render = Callable[[Sequence[Message]], tuple[Message, ...]]
_BRIEF = {
    "closed-book": " Give the answer alone, in a few words, not in a sentence.",
    "raft": " Copy the few words of the answer out of the passages and write nothing else.",
    "classification": " Write exactly one of the classes and nothing else.",
    "style": " Follow the form and the tone of the company's letters: short, plain sentences; the outcome first.",
}
NUM_SHOTS = 3


@dataclass(frozen=True)
class Candidate:
    """Is a way to ask the base model."""

    name: str
    render: Render


def as_trained() -> Candidate:
    """Returns the prompt that the adapter learns from and that serving uses."""
    return Candidate("as trained", tuple)


def candidates(form: str, shots: Sequence[Example]) -> list[Candidate]:
    """Returns the ways to try; form is a recipe's name, shots are examples of that form to train on."""
    found = [as_trained()]
    if form in _BRIEF:
        found.append(Candidate("told to be brief", _with_hint(_BRIEF[form])))
    if shots:
        found.append(Candidate(f"{len(shots)} examples shown", _with_shots(shots)))
        if form in _BRIEF:
            hint, shown = _with_hint(_BRIEF[form]), _with_shots(shots)
            found.append(Candidate(f"told, and {len(shots)} examples shown", lambda messages: shown(hint(messages))))
    return found


def chosen_shots(examples: Sequence[Example]) -> list[Example]:
    """Returns examples to show: of as many kinds and answers as there are, the shorter prompts first."""
    by_length = sorted(examples, key=lambda example: (sum(len(m.content) for m in example.messages), example.id))
    short = by_length[: max(NUM_SHOTS, len(by_length) // 4)]
    picked: list[Example] = []
    for name in ("kind", "answer"):
        for example in short:
            fresh = getattr(example, name) not in [getattr(one, name) for one in picked]
            if fresh and len(picked) < NUM_SHOTS:
                picked.append(example)
    return picked


def _with_hint(hint: str) -> Render:
    def render(messages: Sequence[Message]) -> tuple[Message, ...]:
        if messages[0].role != "system":
            return (Message("system", hint.strip()), *messages)
        return (Message("system", messages[0].content + hint), *messages[1:])

    return render


def _with_shots(shots: Sequence[Example]) -> Render:
    turns = [
        turn
        for shot in shots
        for turn in (*(m for m in shot.messages if m.role != "system"), Message("assistant", shot.answer))
    ]

    def render(messages: Sequence[Message]) -> tuple[Message, ...]:
        system = [message for message in messages if message.role == "system"]
        return (*system, *turns, *(message for message in messages if message.role != "system"))

    return render
