"""The policies: each decides, behind services.router.domain.Policy, which path answers."""

from services.router.domain import Policy
from services.router.policies.cascade import Cascade
from services.router.policies.finetuned import Finetuned
from services.router.policies.rag import Rag


def build(*, cascade_threshold: float, min_support: float = 0.5) -> dict[str, Policy]:
    """Returns the policies that this router knows, by name."""
    policies: tuple[Policy, ...] = (
        Cascade(threshold=cascade_threshold, min_support=min_support),
        Finetuned(),
        Rag(min_support=min_support),
    )
    return {policy.name: policy for policy in sorted(policies, key=lambda policy: policy.name)}


__all__ = ["Cascade", "Finetuned", "Rag", "build"]
