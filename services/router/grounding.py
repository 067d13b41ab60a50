"""Which part of which passage supports which sentence of an answer: by words and figures, deterministic, no model.

A sentence of the answer is supported by a passage sentence that holds all of its figures with their units, agrees with
it on negation, and holds at least `SUPPORT` of its content words, not counting those that the passage's title and
headings hold. An answer of a few words ("14 days") has no redundancy to weigh, so it must stand in the passage word for
word, in a sentence or section that speaks of what was asked. Only text that was retrieved can be cited. What is
compared are normal forms: case, inflection ("pays"/"pay"), thousands separators and number words ("six"/"6") do not
matter.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from services.router.domain import Citation, Passage, Span

SUPPORT = 0.6
"""Least share of the answer sentence's own content words that the passage sentence must hold."""
SHORT = 3
"""Most content words of an answer that must match word for word."""
MAX_EXTRACT = 600
"""Most characters of a quotation that stands for an answer."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORD = re.compile(r"\d+(?:[.,'\u2019\u00a0\u202f]\d+)*|\w+(?:['\u2019]\w+)*|%|[€$£]")
# A sentence ends with its mark before white space and something that can begin a sentence; "e.g. 5" must not end one.
_END = re.compile(
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\bNo)(?<!\bArt)(?<!\bca)[.!?][)\"'\u201d\u2019*_]*(?=\s+[\"'(\u201c*_\[]*[A-Z0-9])"
)
_BLOCK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*•|#>]|\d+[.)]\s))|\n(?=[^\n]*\|)")
_ENUMERATOR = re.compile(r"\W*\d{1,3}\W*")
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
_BOUNDS = re.compile(
    r"\b(?:no|not) (?:more|less|later|earlier|fewer|longer) than\b|\bnot only\b|\bno\. ?(?=\d)", re.IGNORECASE
)


@dataclass(frozen=True)
class _Sentence:
    block: int
    start: int
    end: int
    terms: tuple[str, ...]
    content: frozenset[str]
    units: dict[str, frozenset[str]]
    negated: bool
    header: frozenset[str] = frozenset()
    is_pair: bool = False


class LexicalGrounding:
    """Aligns answers with passages by words and figures."""

    def cite(self, question: str, answer: str, passages: Sequence[Passage]) -> tuple[Citation, ...]:
        """Returns a citation for each sentence of the answer that a passage supports, in the order of the answer."""
        candidates = [(passage, _with_pairs(_sentences(passage.text))) for passage in _citable(passages)]
        asked = _content(_terms(question))
        found = []
        for claim in _claims(answer):
            best: tuple[float, Passage, _Sentence] | None = None
            for passage, sentences in candidates:
                about = _about(passage)
                for sentence in sentences:
                    score = _score(claim, sentence, asked=asked, about=about)
                    if score is not None and (best is None or score > best[0] + 1e-9):
                        best = (score, passage, sentence)
            if best is not None:
                found.append(_citation(Span(claim.start, claim.end), best[1], Span(best[2].start, best[2].end)))
        return tuple(found)

    def extract(self, question: str, passage: Passage) -> tuple[str, Citation]:
        """Returns at most MAX_EXTRACT characters of whole sentences around the one nearest to the question."""
        sentences = _sentences(passage.text)
        if not sentences or len(passage.text.strip()) <= MAX_EXTRACT:
            start, end = _trim(passage.text, 0, len(passage.text))
        else:
            asked = _content(_terms(question))
            near = max(range(len(sentences)), key=lambda index: (len(asked & sentences[index].content), -index))
            start, end = sentences[near].start, sentences[near].end
            for sentence in sentences[near + 1 :]:
                if sentence.end - start > MAX_EXTRACT:
                    break
                end = sentence.end
            end = min(end, start + MAX_EXTRACT)
        text = passage.text[start:end]
        return text, _citation(Span(0, len(text)), passage, Span(start, end))


def _claims(answer: str) -> list["_Sentence"]:
    """Returns the sentences of an answer that say something: the "2." of a numbered list matches any figure."""
    sentences = _sentences(answer)
    if len(sentences) == 1:
        return sentences
    return [sentence for sentence in sentences if not _ENUMERATOR.fullmatch(answer, sentence.start, sentence.end)]


def _citable(passages: Sequence[Passage]) -> Iterator[Passage]:
    """Leaves out a passage whose text is not what its offsets say: a quote must be found again in the document."""
    return (passage for passage in passages if passage.span.end - passage.span.start == len(passage.text))


def _about(passage: Passage) -> frozenset[str]:
    """Returns the words of title and headings; a figure in a title names the document, in a heading it counts."""
    headings = _content(_terms(" ".join(passage.headings)))
    return _content(_terms(passage.title)) | {word for word in headings if not word[0].isdigit()}


def _citation(answer: Span, passage: Passage, part: Span) -> Citation:
    return Citation(
        answer_span=answer,
        document_id=passage.document_id,
        chunk_id=passage.chunk_id,
        title=passage.title,
        document_span=Span(passage.span.start + part.start, passage.span.start + part.end),
        quote=passage.text[part.start : part.end],
        page=passage.page,
    )


def _score(claim: _Sentence, sentence: _Sentence, *, asked: frozenset[str], about: frozenset[str]) -> float | None:
    """Returns how well a passage sentence supports a claim, None when it does not.

    What the title and the headings say ("Halden Motor") holds for the sentences under them and need not be repeated.
    """
    about = about | {word for word in sentence.header if not word[0].isdigit()}
    if not claim.terms or not all(_holds(figure, claim, sentence, about) for figure in claim.units):
        return None
    if len(claim.content) <= SHORT:
        if not claim.content or not _contains(sentence.terms, claim.terms):
            return None
        if asked and not asked & (sentence.content | about):
            return None
        support = 1.0
    else:
        own = claim.content - about
        held = own & sentence.content
        if claim.negated != sentence.negated or len(held) < 2:
            return None
        support = len(held) / len(own)
        if support < SUPPORT:
            return None
    # One sentence before two; then the sentence, then the section, that speaks of what was asked; then the shorter one.
    nearness = (len(asked & sentence.content) + 0.5 * len(asked & about - sentence.content)) / (len(asked) or 1)
    return support - 2 * sentence.is_pair + 0.5 * nearness - 0.0002 * (sentence.end - sentence.start)


def _holds(figure: str, claim: _Sentence, sentence: _Sentence, about: frozenset[str]) -> bool:
    """Tells whether the sentence has the figure, of the same thing: EUR 60 is not 60 %."""
    units = claim.units[figure]
    if figure in sentence.units:
        return not units or bool(units & (sentence.units[figure] | sentence.header))
    return figure in about


def _contains(terms: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    return any(terms[at : at + len(wanted)] == wanted for at in range(len(terms) - len(wanted) + 1))


def _sentences(text: str) -> list[_Sentence]:
    found = []
    header: frozenset[str] = frozenset()
    in_table = False
    for block, (block_start, block_end) in enumerate(_cut(text, 0, len(text), _BLOCK, keep=False)):
        is_row = text[block_start:block_end].lstrip().startswith("|")
        if is_row and not in_table:
            header = _content(_terms(text[block_start:block_end]))
        in_table = is_row
        for start, end in _cut(text, block_start, block_end, _END, keep=True):
            start, end = _trim(text, start, end)
            if terms := _terms(text[start:end]):
                found.append(
                    _Sentence(
                        block=block,
                        start=start,
                        end=end,
                        terms=terms,
                        content=_content(terms),
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
            near = _content((*terms[max(0, at - 1) : at], *terms[at + 1 : at + 3]))
            units[term] = units.get(term, frozenset()) | near
    return units


def _is_negated(text: str) -> bool:
    words = _WORD.findall(_BOUNDS.sub(" ", text).lower())
    return any(word in _NEGATIONS or word.endswith(("n't", "n\u2019t")) for word in words)


def _with_pairs(sentences: list[_Sentence]) -> list[_Sentence]:
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


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _terms(text: str) -> tuple[str, ...]:
    """Returns the normal forms of the words, articles left out."""
    words = (_normal(word) for word in _WORD.findall(unicodedata.normalize("NFKC", text).lower().replace("_", " ")))
    return tuple(word for word in words if word not in ("a", "an", "the"))


def _normal(word: str) -> str:
    if word[0].isdigit():
        plain = re.sub(r"[,'\u2019\u00a0\u202f]", "", word) if _GROUPED.fullmatch(word) else word
        return re.sub(r"\.0+$", "", plain)
    word = _NUMBERS.get(word, _SAME.get(word, word))
    for ending, rest in (("ies", "y"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("es", "e"), ("s", ""), ("'s", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith(("ss", "us")):
            word = word[: -len(ending)] + rest
            break
    return word.removesuffix("e") if len(word) > 4 else word


def _content(terms: tuple[str, ...]) -> frozenset[str]:
    return frozenset(term for term in terms if term not in _STOP and term not in _NEGATIONS)
