"""Says a question in other words by rule: facts are learnt from many wordings, not from one repeated.

A small model that has seen a fact in one wording does not know it in another
(arXiv 2309.14316). Rules cannot do what people do, so given paraphrases come
first; these frames only make up the number.
"""

import re
from collections.abc import Iterator

from training.recipes.asked import drawn

_TURNED = re.compile(r"^(What|Who|Where) (is|are|was|were) (?!there\b)([^?,]{1,80})\?$")
_OPENINGS = ("Could you tell me {}?", "Do you know {}?", "I would like to know {}.", "Please tell me {}.")
_FRAMES = (
    "Can you help me with this: {}",
    "A customer asks: {}",
    "Quick question: {}",
    "Hello, a colleague wants to know: {}",
    "I need this for a file. {}",
    "{} Please be brief.",
    "Question: {}",
)


def paraphrases(question: str, *, seed: int) -> list[str]:
    """Returns about ten other wordings; the seed decides their order."""
    return sorted(dict.fromkeys(_wordings(question.strip())), key=lambda text: drawn(seed, question, text))


def _wordings(question: str) -> Iterator[str]:
    if match := _TURNED.match(question):
        word, verb, subject = match.groups()
        yield from (opening.format(f"{word.lower()} {subject} {verb}") for opening in _OPENINGS)
    for frame in _FRAMES:
        yield frame.format(question)
    plain = question.rstrip("?. ")
    if plain and plain != question:
        yield plain[0].lower() + plain[1:]
