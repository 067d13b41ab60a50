"""How promoting, rolling back and a canary change what an adapter's aliases stand for."""

from dataclasses import replace

from tandem.adapters import Aliases
from tandem.errors import FailedPrecondition

_MAX_HISTORY = 32


def promote(aliases: Aliases, version: str = "") -> Aliases:
    """Makes the version, or else the candidate, the stable one; raises FailedPrecondition (NO_CANDIDATE).

    What was stable joins the history. A candidate that is another version
    stays what it is, with its share.
    """
    target = version or aliases.candidate
    if target is None:
        raise FailedPrecondition("there is no candidate to promote", reason="NO_CANDIDATE")
    if target == aliases.candidate:
        aliases = replace(aliases, candidate=None, canary_share=0.0)
    if target == aliases.stable:
        return aliases
    return replace(aliases, stable=target, history=(*aliases.history, aliases.stable)[-_MAX_HISTORY:])


def roll_back(aliases: Aliases) -> Aliases:
    """Makes what was stable before stable again; raises FailedPrecondition (NO_EARLIER_VERSION).

    What was stable loses its alias. A candidate that becomes stable is no
    candidate any more.
    """
    if not aliases.history:
        raise FailedPrecondition("no other version was stable before", reason="NO_EARLIER_VERSION")
    target = aliases.history[-1]
    if target == aliases.candidate:
        aliases = replace(aliases, candidate=None, canary_share=0.0)
    return replace(aliases, stable=target, history=aliases.history[:-1])


def canary(aliases: Aliases, share: float, version: str = "") -> Aliases:
    """Gives the candidate, or the version as the new candidate, a share of the calls.

    Raises FailedPrecondition (NO_CANDIDATE) where there is none, or where the
    version is the stable one.
    """
    target = version or aliases.candidate
    if target is None:
        raise FailedPrecondition("there is no candidate to give a share to", reason="NO_CANDIDATE")
    if target == aliases.stable:
        raise FailedPrecondition("the version is the stable one", reason="NO_CANDIDATE")
    return replace(aliases, candidate=target, canary_share=share)
