"""Makes a follow-up question self-contained, by rules: pure, deterministic, no model.

A question that leans on the conversation ("And for motorcycles?", "By when must it be opened?") finds nothing when it
is embedded alone. Three things are told apart:

- a replacement ("for motorcycles", "the Premium plan", "if it is stolen") takes the place of its counterpart in the
  earlier question, or is added to it where it has none;
- a full question with a gap (a pronoun without antecedent, "then", "on top") is put after the earlier question;
- everything else stands by itself and stays as it is.

Turns are resolved one after the other, so that a follow-up to a follow-up leans on a self-contained form. The rules
know English; a question in another language stays as it is unless it is shorter than three words.
"""

import re
from collections.abc import Sequence

from services.router.domain import Turn

MAX_CHARACTERS = 4096
_MAX_CONTEXT = 800


def _words(text: str) -> frozenset[str]:
    return frozenset(text.replace("|", " ").split())


_LEAD = re.compile(r"(?:(?:and|or|but|so|ok|okay|also|then|now)\b[\s,]*)+", re.IGNORECASE)
_ABOUT = re.compile(r"(?:what|how)\s+about\s+|(?:what|how)\s+(?=if\b)", re.IGNORECASE)
_WH = "what|which|who|whom|whose|when|where|why|how"
_AUX = (
    "is|are|was|were|do|does|did|can|could|may|might|must|shall|should|will|would|has|have|had|am|isn't|aren't|doesn't"
    "|don't|can't|won't"
)
_PREPOSITIONS = (
    "for|in|on|at|under|with|without|by|from|to|of|during|after|before|outside|inside|within|above|below|until|up to"
    "|over|between|as|since"
)
_FULL = re.compile(
    rf"(?:(?:{_PREPOSITIONS})\s+)?(?:what|which|who|whom|whose|where|why|how)\b|(?:(?:{_PREPOSITIONS})\s+)?when\s+(?:{_AUX})\b"
    rf"|(?:{_AUX})\b",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"(?:if|when|while|unless|once|as soon as|in case|because)\b", re.IGNORECASE)
_PREPOSITION = re.compile(rf"(?P<word>{_PREPOSITIONS})\s+(?P<rest>.+)", re.IGNORECASE | re.DOTALL)
_DETERMINER = re.compile(r"(?:the|a|an|my|our|your|his|her|their|its|this|that|these|those)\s+", re.IGNORECASE)
_VERBS = "starts?|begins?|ends?|appl(?:y|ies)|costs?|lasts?|expires?|pays?|covers?|covered|insured|paid"
_BOUNDARY = rf"(?=\s*(?:[,;.?!]|$)|\s+(?:{_PREPOSITIONS}|if|when|while|unless|that|which|who|and|or|{_AUX}|{_VERBS})\b)"
_INNER_QUESTION = re.compile(rf",\s+(?:(?:{_PREPOSITIONS})\s+)?(?:{_WH}|{_AUX})\b", re.IGNORECASE)
_ANOTHER = re.compile(r"(?:\w+ )?(?:a|an|the) (?P<kind>[\w-]+) ones?", re.IGNORECASE)
_OWN_PRODUCT = re.compile(
    r"\b(?:my|our|his|her|their)\b.*\b(?:policy|insurance|contract|plan|product|tariff)\b", re.IGNORECASE
)
_ABOUT_FORM = re.compile(r'About "(?P<about>.+)": (?P<then>.*)', re.DOTALL)
_NAME = r"[A-Z][\w-]*(?:\s+[A-Z][\w-]*)*"

_PRONOUNS = _words("it its they them their he she him his her this these those that")
_ORDINALS = _words("second first third other next last former latter")
_POINTERS = _words("this that these those")
_POINTING = re.compile(
    r"\b(?:on top|the same(?=\s*[?,]|\s+(?:for|in|with|true|apply)\b)|as well)\b"
    r"|\b(?:in that case|in this case|in addition|instead|otherwise|else)\b|\bthen\s*\?*$"
    rf"|^(?:{_WH})\s+(?:\w+\s+)?then\b"
    r"|\b(?:the|that|this) (?:second|first|third|other|next|last|former|latter) ?(?:one)?\s*\?*$"
    r"|\b(?:the|that|this) ones?\b",
    re.IGNORECASE,
)
_EMPTY = _words(
    f"a an the this that these those i you he she it we they me him her us them my your his its our their {_AUX} {_WH} "
    f"{_PREPOSITIONS} and or but if so not no yes be been being there here much many long often soon far old high low "
    "large big small more less most least also only just still please exactly apply get give take mean happen work "
    "need count covered cover pay paid pays"
)
_WORD = re.compile(r"[\w'’-]+")


def rewrite(question: str, history: Sequence[Turn]) -> str:
    """Returns the self-contained form of the question; the question itself where nothing is missing."""
    context = ""
    for turn in history:
        context = _resolve(turn.question.strip(), context)
    return _resolve(question.strip(), context)


def _resolve(question: str, context: str) -> str:
    if not context or not question:
        return question
    lead = _LEAD.match(question)
    rest = question[lead.end() :] if lead else question
    about = _ABOUT.match(rest)
    rest = rest[about.end() :] if about else rest
    led = bool(lead or about)
    if not led and rest[1:2].islower() and not _FULL.match(rest) and _is_fragment(rest, rest.rstrip(" ?!.")):
        # A capital at the start of a sentence says nothing, and would say something in its middle.
        rest = rest[0].lower() + rest[1:]
    bare = rest.rstrip(" ?!.")
    if not bare:
        return _after(context, question)
    if _FULL.match(rest) and not about:
        return _after(context, rest) if _has_gap(rest, led=led) else _capital(rest)
    if _INNER_QUESTION.search(rest):
        return _after(context, rest) if led else question
    if led or _is_fragment(rest, bare):
        return _replace(context, bare)
    return _after(context, question) if _has_gap(rest, led=False) else question


def _has_gap(question: str, *, led: bool) -> bool:
    """Tells whether a full question leans on what came before it."""
    words = _WORD.findall(question.lower())
    content = [word for word in words if word not in _EMPTY]
    if _has_name(question) and content:
        return False
    if led or _POINTING.search(question) or not content:
        return True
    before = 0
    for index, word in enumerate(words):
        if word in _PRONOUNS and before <= (word in _POINTERS) and not _is_conjunction(words, index):
            return True
        before += word not in _EMPTY
    personal = any(word in ("i", "my", "me", "we", "our", "us") for word in words)
    return len(content) <= 2 and len(words) <= 7 and "the" in words and not personal


def _is_conjunction(words: Sequence[str], index: int) -> bool:
    """Tells "that" and "it" that point at nothing: "the day that I ...", "what does it cost to"."""
    following = [*words[index + 1 : index + 3], "", ""]
    if words[index] == "that":
        return following[0] in ("i", "we", "you", "the", "a", "an", "my", "our")
    if words[index] != "it":
        return False
    opened = any(word in ("to", "when", "if", "that") for word in words[index + 2 :])
    return following[1] in ("to", "that", "if") or (following[0] in ("cost", "take", "costs", "takes") and opened)


def _is_fragment(rest: str, bare: str) -> bool:
    words = _WORD.findall(bare)
    if len(words) <= 2:
        return rest.rstrip().endswith("?")
    if _has_name(rest) and len(words) > 4:
        return False
    opens = _PREPOSITION.match(bare) or _CLAUSE.match(bare) or _DETERMINER.match(bare)
    return bool(opens) and rest.rstrip().endswith("?") and "." not in bare


def _replace(context: str, fragment: str) -> str:
    """Puts a fragment into the earlier question."""
    if words := _WORD.findall(fragment.lower()):
        if words[0] in ("its", "their") and (name := _names(context)):
            return f"What is the {' '.join(fragment.split()[1:])} of {name}?"
        if (another := _ANOTHER.fullmatch(fragment)) and (swapped := _swap_kind(context, another["kind"])):
            return swapped
        if all(word in _EMPTY or word in _PRONOUNS for word in words) or _POINTING.search(fragment):
            return _after(context, fragment)
    base = _head(context)
    if _CLAUSE.match(fragment):
        return _put(
            base, fragment, re.compile(r",?\s*\b(?:if|when|while|unless|once)\b(?!\s+(?:" + _AUX + r")\b)[^,?]*")
        )
    preposition = _PREPOSITION.match(fragment)
    noun = preposition["rest"] if preposition else fragment
    if swapped := _swap_same_head(base, noun) or _swap_name(base, noun):
        return _finish(swapped)
    if _OWN_PRODUCT.search(noun):
        base = re.sub(rf"\s+(?:under|in|with|to|of|for|by|at|from)\s+{_NAME}(?=\W|$)", "", base)
    word = preposition["word"] if preposition else "for"
    phrase = f"{word} {noun}"
    # Not at the start: "For how long" asks, it does not name.
    if re.match(_NAME, noun):
        return _finish(f"{base}, {phrase}")
    counterpart = rf"(?<=\S) (?i:{re.escape(word)}) (?!{_NAME}\b)[^,;.?!]{{1,120}}?{_BOUNDARY}"
    return _put(base, phrase, re.compile(counterpart))


def _put(base: str, phrase: str, counterpart: re.Pattern[str]) -> str:
    found = list(counterpart.finditer(base))
    if found and found[-1].start() > 0:
        last = found[-1]
        lost = _names(last.group())
        kept = f" ({lost})" if lost else ""
        return _finish(f"{base[: last.start()].rstrip()} {phrase}{base[last.end() :]}{kept}")
    return _finish(f"{base}, {phrase}")


def _swap_same_head(base: str, noun: str) -> str | None:
    """Replaces "the Basic plan" by "the Premium plan": the same last word, another word before it."""
    words = _WORD.findall(noun)
    if len(words) < 2:
        return None
    head = re.escape(words[-1])
    match = re.search(rf"\b(?:(?:the|a|an|my|our)\s+)(?:[\w-]+\s+){{0,2}}{head}\b", base, re.IGNORECASE)
    if match is None or match.group().lower() == noun.lower():
        return None
    return f"{base[: match.start()]}{noun}{base[match.end() :]}"


def _swap_name(base: str, noun: str) -> str | None:
    """Replaces "Halden Motor" by "Halden Home": names that begin with the same word."""
    if not re.fullmatch(_NAME, noun) or " " not in noun:
        return None
    family = noun.split()[0]
    found = [match for match in re.finditer(_NAME, base) if match.group().split()[0] == family]
    return f"{base[: found[-1].start()]}{noun}{base[found[-1].end() :]}" if found else None


def _swap_kind(context: str, kind: str) -> str | None:
    """Replaces "a compact car" by "a large car" for "a large one"."""
    base = _head(context)
    found = list(re.finditer(r"\b(?:a|an|the) (?P<kind>[\w-]+) [\w-]+", base))
    if not found or kind.lower() in _ORDINALS:
        return None
    return _finish(f"{base[: found[-1].start('kind')]}{kind}{base[found[-1].end('kind') :]}")


def _after(context: str, question: str) -> str:
    """Puts a question after the one that it leans on."""
    tail = question.strip()
    tail = tail if tail.endswith(("?", ".", "!")) else f"{tail}?"
    nested = _ABOUT_FORM.match(context)
    about = f"{nested['about']} {nested['then']}" if nested else context
    return f'About "{about[:_MAX_CONTEXT]}": {tail}'[:MAX_CHARACTERS]


def _head(context: str) -> str:
    """Returns the question proper of the context: of 'About "A": B?' it is A, of "S. Q?" it is all."""
    match = _ABOUT_FORM.match(context)
    return " ".join((match["about"] if match else context)[:_MAX_CONTEXT].split()).rstrip(" ?!.")


def _finish(text: str) -> str:
    return _capital(re.sub(r"\s+", " ", text).strip())[: MAX_CHARACTERS - 1] + "?"


def _names(text: str) -> str:
    found = re.findall(rf"(?<=[a-z,] ){_NAME}", text)
    return next((name for name in reversed(found) if name != "I"), "")


def _has_name(text: str) -> bool:
    return bool(_names(text))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
