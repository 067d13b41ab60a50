"""Compares texts by their words: case, articles and the punctuation of any script do not count, decimal marks do.

Scoring counts as SQuAD does (tandem/scoring.py), where "3.5 %" and "35 %" are the same; what may be trained on needs to
tell them apart.
"""

import re
import string
import unicodedata

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?!,?\d)|(?<![\d.,])[1-9]\d{0,2}(?:\.\d{3})+(?!\.?\d)")
_DECIMAL = re.compile(r"(?<=\d)[.,](?=\d)")
_MARK = "\ue000"
"""Stands for a decimal mark while punctuation is removed; it belongs to no script."""
_LONG_DASHES = "\u2014\u2015"
_LOW_QUOTES = "\u201a\u201e"


class _Punctuation(dict[int, str]):
    """Says what a character is replaced by; it is asked once for each."""

    def __missing__(self, point: int) -> str:
        """Returns nothing for a mark within words, a blank for one between them, other characters as they are."""
        character, category = chr(point), unicodedata.category(chr(point))
        if character in string.punctuation or category in ("Pi", "Pf") or character in _LOW_QUOTES:
            found = ""
        elif category == "Pd":
            found = " " if character in _LONG_DASHES else ""
        else:
            found = " " if category.startswith("P") else character
        self[point] = found
        return found


_PUNCTUATION = _Punctuation()


def plain(text: str) -> str:
    """Returns the text in lower case without punctuation, articles, thousands separators and repeated blanks.

    A point or comma between digits stays, as a point: 3.5 and 3,5 are the same, 3.5 and 35 are not.
    """
    text = _THOUSANDS.sub(lambda match: re.sub("[.,]", "", match.group()), text.casefold())
    text = _DECIMAL.sub(_MARK, text).translate(_PUNCTUATION).replace(_MARK, ".")
    return " ".join(_ARTICLES.sub(" ", text).split())


def key(text: str) -> str:
    """Returns by what a text is known: its plain words, or the text itself where it has none."""
    return plain(text) or " ".join(text.split())


def asked(question: str) -> str:
    """Returns by what a question is known word for word: case, spacing and the marks at its end do not count."""
    text = " ".join(question.casefold().split())
    end = len(text)
    while end and (text[end - 1].isspace() or unicodedata.category(text[end - 1]).startswith("P")):
        end -= 1
    return text[:end] or text
