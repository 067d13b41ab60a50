"""Chooses the next token of each sequence from its logits, and scores given tokens."""

from collections.abc import Sequence

from torch import Tensor

from services.generator.domain import Choice, Draw, TokenScore


def choose(logits: Tensor, draws: Sequence[Draw]) -> list[Choice]:
    """Returns the next token of each draw; logits is (B, V), the rows of each draw's works one after the other.

    B is the sum of len(draw.works). Raises NotFinite where logits are NaN or
    infinite.
    """
    raise NotImplementedError


def score(logits: Tensor, targets: Sequence[int], *, works: Sequence[int] = ()) -> list[TokenScore]:
    """Returns the score of one target after each row of logits (N, V).

    Raises NotFinite where logits are NaN or infinite; `works` names the work
    of each row for that case.
    """
    raise NotImplementedError
