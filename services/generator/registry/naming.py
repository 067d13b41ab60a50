"""What a call names when it names an adapter: the adapter, or one of its versions by alias or by hash."""

from dataclasses import dataclass

from tandem.adapters import NAME, VERSION
from tandem.errors import InvalidInput, NotFound

STABLE = "stable"
CANDIDATE = "candidate"


@dataclass(frozen=True)
class Reference:
    """Is "claims", "claims@stable", "claims@candidate" or "claims@<version>"; without a selector the canary decides."""

    name: str
    selector: str = ""


def parse(text: str) -> Reference:
    """Returns what the text refers to; raises NotFound for what can name no adapter."""
    name, sign, selector = text.partition("@")
    known = selector in (STABLE, CANDIDATE) or VERSION.fullmatch(selector)
    if not NAME.fullmatch(name) or (sign and not known):
        raise not_found(text)
    return Reference(name, selector)


def parse_loadable(text: str) -> Reference:
    """Returns an adapter or one version of it by hash; raises NotFound, and InvalidInput for an alias."""
    reference = parse(text)
    if reference.selector in (STABLE, CANDIDATE):
        raise InvalidInput.of("name", 'must be a name, or a name, "@" and 16 hexadecimal digits; aliases come along')
    return reference


def parse_name(text: str) -> str:
    """Returns the name of an adapter; raises NotFound, and InvalidInput where a version or alias is named too."""
    if parse(text).selector:
        raise InvalidInput.of("name", 'must be an adapter\'s name without "@"')
    return text


def parse_version(text: str) -> str:
    """Returns a version or nothing; raises InvalidInput for what is neither."""
    if text and not VERSION.fullmatch(text):
        raise InvalidInput.of("version", "must be 16 hexadecimal digits in lower case, or empty")
    return text


def not_found(text: str) -> NotFound:
    """Returns the error for an adapter that is not there, or not for this caller."""
    return NotFound("no such adapter is loaded", metadata={"adapter": text[:64]})
