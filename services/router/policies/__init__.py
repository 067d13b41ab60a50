"""The policies: each decides, behind services.router.domain.Policy, which path answers."""

from services.router.domain import Policy
from services.router.policies.auto import Auto, Pattern
from services.router.policies.cascade import Cascade
from services.router.policies.dual import Dual
from services.router.policies.ensemble import Ensemble
from services.router.policies.finetuned import Finetuned
from services.router.policies.rag import Rag


def build(*, pattern: Pattern) -> dict[str, Policy]:
    """Returns the policies that this router knows, by name; `pattern` advises `auto` where nothing was measured."""
    paths: tuple[Policy, ...] = (Cascade(), Dual(), Ensemble(), Finetuned(), Rag())
    by_name = {policy.name: policy for policy in paths}
    return dict(sorted({**by_name, Auto.name: Auto(by_name, pattern=pattern)}.items()))


__all__ = ["Auto", "Cascade", "Dual", "Ensemble", "Finetuned", "Pattern", "Rag", "build"]
