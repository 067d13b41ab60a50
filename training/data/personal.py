"""Finds personal data whose form gives them away: addresses of mail, telephone numbers, accounts, cards, national ids.

Numbers with check digits are counted only where these are right. Names and postal addresses are not looked for: that
takes a model, and a promise to find them all would be wrong. What is found is told by kind and place, never by value.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import import_module

from training.data.rows import Row

_MAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_IBAN = re.compile(r"(?<!\w)[A-Za-z]{2}[0-9]{2}(?: ?[A-Za-z0-9]{4}){2,7}(?: ?[A-Za-z0-9]{1,3})?(?!\w)")
_CARD = re.compile(
    r"(?<![\w.,-])(?:(?:[2-6][0-9]|18)[0-9]{2}(?:[ -]?[0-9]{4}){2}[ -]?[0-9]{1,7}"
    r"|3[47][0-9]{2}[ -]?[0-9]{6}[ -]?[0-9]{5})(?![\w-])"
)
_TWO_DIGITS = re.compile(r"[0-9]{2}")
_SEVEN_DIGITS = re.compile(r"(?:[0-9][^\w\n]{0,3}){6}[0-9]")

# Written as in the country itself: plain runs of digits are told apart from other numbers by their check digits only,
# so kinds whose check lets one in ten numbers through need their usual separators here.
_IDS: Mapping[str, re.Pattern[str]] = {
    "us.ssn": re.compile(r"(?<![\w-])[0-9]{3}-[0-9]{2}-[0-9]{4}(?![\w-])"),
    "gb.nhs": re.compile(r"(?<![\w-])[0-9]{3}[ -][0-9]{3}[ -][0-9]{4}(?![\w-])"),
    "de.idnr": re.compile(r"(?<![\w.,-])[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}(?![\w-])"),
    "fr.nir": re.compile(r"(?<!\w)[12] ?[0-9]{2} ?[0-9]{2} ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}(?!\w)"),
    "es.dni": re.compile(r"(?<!\w)[0-9]{8}-?[A-Z](?!\w)"),
    "es.nie": re.compile(r"(?<!\w)[XYZ]-?[0-9]{7}-?[A-Z](?!\w)"),
    "it.codicefiscale": re.compile(r"(?<!\w)[A-Z]{6}[0-9]{2}[A-EHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z](?!\w)"),
    "pl.pesel": re.compile(r"(?<![\w.,-])[0-9]{11}(?![\w-])"),
    "be.nn": re.compile(r"(?<!\w)[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}(?!\w)"),
    "ch.ssn": re.compile(r"(?<!\w)756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}(?!\w)"),
    "dk.cpr": re.compile(r"(?<!\w)[0-9]{6}-[0-9]{4}(?!\w)"),
    "fi.hetu": re.compile(r"(?<!\w)[0-9]{6}[-+A][0-9]{3}[0-9A-Y](?!\w)"),
    "se.personnummer": re.compile(r"(?<!\w)(?:[0-9]{2})?[0-9]{6}[-+][0-9]{4}(?!\w)"),
    "br.cpf": re.compile(r"(?<!\w)[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}(?!\w)"),
}

Spans = list[tuple[int, int]]
OnProgress = Callable[[str, int, int], None]


def personal_rows(
    rows: Sequence[Row], *, regions: tuple[str, ...], on_progress: OnProgress | None = None
) -> tuple[list[Row], dict[str, int], str]:
    """Returns the rows that seem to hold personal data, the number of finds by kind, and a sentence about them."""
    kinds: Counter[str] = Counter()
    found: list[Row] = []
    for number, row in enumerate(rows, 1):
        here = [kind for text in row.shown() for kind in find_personal(text, regions=regions)]
        kinds.update(here)
        found += [row] * bool(here)
        if on_progress:
            on_progress("looking for personal data", number, len(rows))
    counts = dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0])))
    listed = ", ".join(f"{kind} {count:,}" for kind, count in counts.items())
    text = f"{len(found):,} rows seem to hold personal data ({listed}); what an adapter learns it may tell anybody."
    return found, counts, text


def find_personal(text: str, *, regions: tuple[str, ...]) -> Iterator[str]:
    """Yields the kind of each find: "e-mail", "iban", "card", "national id (us.ssn)", "phone".

    A stretch of text counts once, as the first of these kinds that it fits.
    """
    taken: Spans = []
    yield from _checked(text, "e-mail", _MAIL, lambda _: True, taken)
    if not _TWO_DIGITS.search(text):
        return
    yield from _checked(text, "iban", _IBAN, _is_iban, taken)
    yield from _checked(text, "card", _CARD, _is_card, taken)
    for name, pattern in _IDS.items():
        yield from _checked(text, f"national id ({name})", pattern, _validator(name), taken)
    if _SEVEN_DIGITS.search(text):
        yield from _phones(text, regions, taken)


def _checked(
    text: str, kind: str, pattern: re.Pattern[str], valid: Callable[[str], bool], taken: Spans
) -> Iterator[str]:
    for match in pattern.finditer(text):
        if _free(match.span(), taken) and valid(match.group()):
            taken.append(match.span())
            yield kind


def _free(span: tuple[int, int], taken: Spans) -> bool:
    return all(span[1] <= start or end <= span[0] for start, end in taken)


@lru_cache
def _validator(name: str) -> Callable[[str], bool]:
    valid: Callable[[str], bool] = import_module(f"stdnum.{name}").is_valid
    return valid


def _is_iban(found: str) -> bool:
    """Tells whether an IBAN stands at the beginning; the pattern may have taken the word after it along."""
    from stdnum import iban

    parts = found.split(" ")
    return any(iban.is_valid("".join(parts[:end])) for end in range(len(parts), 0, -1))


def _is_card(found: str) -> bool:
    from stdnum import luhn

    digits = re.sub(r"\D", "", found)
    return 13 <= len(digits) <= 19 and bool(luhn.is_valid(digits)) and len(set(digits)) > 1


def _phones(text: str, regions: tuple[str, ...], taken: Spans) -> Iterator[str]:
    from phonenumbers import Leniency, PhoneNumberMatcher

    for region in regions or (None,):
        # An unbounded number of tries on a long text of digits takes minutes.
        for match in PhoneNumberMatcher(text, region, leniency=Leniency.VALID, max_tries=1000):
            if _free((match.start, match.end), taken):
                taken.append((match.start, match.end))
                yield "phone"
