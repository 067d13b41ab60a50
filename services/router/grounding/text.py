"""What a text says, in normal forms: sentences, words, figures with their units, negation, names. No model.

What is compared are normal forms: case, inflection ("pays"/"pay"), thousands separators and number words ("six"/"6") do
not matter. Offsets are those of the text as it was given, in code points.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORD = re.compile(r"\d+(?:[.,'\u2019\u00a0\u202f]\d+)*|\w+(?:['\u2019]\w+)*|%|[€$£]")
# A sentence ends with its mark before white space and something that can begin a sentence; "e.g. 5" must not end one.
_END = re.compile(
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\bNo)(?<!\bArt)(?<!\bca)[.!?][)\"'\u201d\u2019*_]*(?=\s+[\"'(\u201c*_\[]*[A-Z0-9])"
)
_BLOCK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*•|#>]|\d+[.)]\s))|\n(?=[^\n]*\|)")
_ENUMERATOR = re.compile(r"\W*\d{1,3}\W*")
_GLUED = re.compile(r"(?<=[a-z0-9.!?)\]\"\u201d])(?=[A-Z])")
_GROUPED = re.compile(r"\d{1,3}(?:[,'\u2019\u00a0\u202f]\d{3})+(?:\.\d+)?")
# "one" is left out: it is a pronoun more often than a number.
_NUMBERS = {
    "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
    "ten": "10",
    "eleven": "11", "twelve": "12", "thirteen": "13", "fourteen": "14", "fifteen": "15", "sixteen": "16",
    "seventeen": "17", "eighteen": "18", "nineteen": "19", "twenty": "20", "thirty": "30", "forty": "40", "fifty": "50",
    "sixty": "60", "ninety": "90",
}  # fmt: skip
_SAME = {
    "€": "eur",
    "euro": "eur",
    "euros": "eur",
    "$": "usd",
    "£": "gbp",
    "percent": "%",
    "kilometre": "km",
    "kilometres": "km",
}
_STOP = _words(
    "a an the of in on at to for from by with and or as is are was were be been being it its this that these those "
    "there which who whom whose what when where how why do does did has have had will would can could may might shall "
    "should must i you he she we they me him her us them my your his our their if then than so up such also only "
    "per each any all about into under over within after before during between"
)
_NO_WORDS: frozenset[str] = frozenset()
_NEGATIONS = _words("not no never neither nor without cannot none nothing")
# What says no of something else than the sentence: bounds ("no more than"), names ("no-claims class"), side clauses
# ("if you cannot drive on, we pay for towing"), conditions that fall away ("without giving a reason").
_ASIDE = re.compile(
    r"\b(?:no|not) (?:more|less|later|earlier|fewer|longer) than\b|\bnot only\b|\bno\. ?(?=\d)|\bno-(?=\w)|\bwithout\b"
    r"|\b(?:if|unless|who|whose|which|when|where|because|although)\b[^,.;:|]*",
    re.IGNORECASE,
)

SHORT_TITLE = 3
"""Most words of a text whose capitals are believed even where all words have one."""
MOSTLY = 0.6
"""Share of capitalised words above which a text is taken for a headline."""


@dataclass(frozen=True)
class Sentence:
    """Is a sentence, a table row, or two neighbouring sentences, at text[start:end]; content leaves out small words."""

    block: int
    start: int
    end: int
    terms: tuple[str, ...]
    content: frozenset[str]
    units: dict[str, frozenset[str]]
    negated: bool
    header: frozenset[str] = frozenset()
    is_pair: bool = False


def claims(answer: str) -> list[Sentence]:
    """Returns the sentences of an answer that say something: the "2." of a numbered list matches any figure."""
    sentences = sentences_of(answer)
    if len(sentences) == 1:
        return sentences
    return [sentence for sentence in sentences if not _ENUMERATOR.fullmatch(answer, sentence.start, sentence.end)]


def sentences_of(text: str) -> list[Sentence]:
    """Returns the sentences and table rows that hold a word, in order."""
    found = []
    header: frozenset[str] = frozenset()
    in_table = False
    for block, (block_start, block_end) in enumerate(_cut(text, 0, len(text), _BLOCK, keep=False)):
        is_row = text[block_start:block_end].lstrip().startswith("|")
        if is_row and not in_table:
            header = content_of(terms_of(text[block_start:block_end]))
        in_table = is_row
        for start, end in _cut(text, block_start, block_end, _END, keep=True):
            start, end = trim(text, start, end)
            if terms := terms_of(text[start:end]):
                found.append(
                    Sentence(
                        block=block,
                        start=start,
                        end=end,
                        terms=terms,
                        content=content_of(terms),
                        units=_units(terms),
                        negated=_is_negated(text[start:end]),
                        header=header if is_row else frozenset(),
                    )
                )
    return found


def _units(terms: tuple[str, ...]) -> dict[str, frozenset[str]]:
    """Returns the figures, each with the words that say of what: the one before it and the two after."""
    units: dict[str, frozenset[str]] = {}
    for at, term in enumerate(terms):
        if term[0].isdigit():
            near = content_of((*terms[max(0, at - 1) : at], *terms[at + 1 : at + 3]))
            units[term] = units.get(term, frozenset()) | near
    return units


def _is_negated(text: str) -> bool:
    words = _WORD.findall(_ASIDE.sub(" ", text).lower())
    return any(word in _NEGATIONS or word.endswith(("n't", "n\u2019t")) for word in words)


def with_pairs(sentences: list[Sentence]) -> list[Sentence]:
    """Adds each two neighbours of a paragraph as one: an answer may draw on both."""
    pairs = [
        replace(
            one,
            is_pair=True,
            end=two.end,
            terms=one.terms + two.terms,
            content=one.content | two.content,
            units={f: one.units.get(f, _NO_WORDS) | two.units.get(f, _NO_WORDS) for f in {*one.units, *two.units}},
            negated=one.negated or two.negated,
        )
        for one, two in pairwise(sentences)
        if one.block == two.block
    ]
    return sentences + pairs


def _cut(text: str, start: int, end: int, mark: re.Pattern[str], *, keep: bool) -> Iterator[tuple[int, int]]:
    at = start
    for match in mark.finditer(text, start, end):
        yield at, match.end() if keep else match.start()
        at = match.end()
    yield at, end


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Returns the range without white space at its ends."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def terms_of(text: str) -> tuple[str, ...]:
    """Returns the normal forms of the words, articles left out."""
    words = (_normal(word) for word in _WORD.findall(unicodedata.normalize("NFKC", text).lower().replace("_", " ")))
    return tuple(word for word in words if word not in ("a", "an", "the"))


@lru_cache(maxsize=16_384)
def _normal(word: str) -> str:
    # Kept, for the same words come again and again, within a passage and from one to the next.
    if word[0].isdigit():
        plain = re.sub(r"[,'\u2019\u00a0\u202f]", "", word) if _GROUPED.fullmatch(word) else word
        return re.sub(r"\.0+$", "", plain)
    word = _NUMBERS.get(word, _SAME.get(word, word))
    for ending, rest in (("ies", "y"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("es", "e"), ("s", ""), ("'s", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith(("ss", "us")):
            word = word[: -len(ending)] + rest
            break
    return word.removesuffix("e") if len(word) > 4 else word


def content_of(terms: tuple[str, ...]) -> frozenset[str]:
    """Returns the terms that say something: not articles, prepositions, auxiliaries or negations."""
    return frozenset(term for term in terms if term not in _STOP and term not in _NEGATIONS)


def names_of(text: str) -> frozenset[str]:
    """Returns the normal forms of capitalised words that are no small words, the first word only before another name.

    A text that is capitalised throughout, or not at all, has none: its capitals tell nothing.
    """
    words = [word for word in _WORD.findall(unicodedata.normalize("NFKC", text)) if word[0].isalpha()]
    big = [word[0].isupper() for word in words]
    if len(words) > SHORT_TITLE and sum(big) > MOSTLY * len(words):
        return _NO_WORDS
    found = [
        word
        for at, word in enumerate(words)
        if big[at] and (at > 0 or (len(words) > 1 and big[1])) and word.lower() not in _STOP
    ]
    return content_of(tuple(_normal(word.lower()) for word in found))


def unglued(text: str) -> str:
    """Returns the text with a blank where a small letter, figure or mark meets a capital: "RememberA Walk".

    Text taken out of pages and PDFs loses blanks; "McDonald" is cut too, so this is read beside the text as it is.
    """
    return _GLUED.sub(" ", text)
