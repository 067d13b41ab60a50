"""What an answer has taken so far, and whether the caller's allowance has room for more."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.router.domain import BUDGET, Allowance, Cost, PartDown, Passage, Prompt, Usage
from services.router.domain.advice import Costs
from services.router.domain.domains import Depth
from services.router.domain.grounding import Groundedness, Signal

_CHARACTERS_PER_TOKEN = 3
"""Less than English has on average (about 4), so that an estimate is rather too high than too low."""


@dataclass
class Charge:
    """Is what some calls take: the most that they may until it is settled."""

    num_calls: int
    amount: float


class Spending:
    """Counts the calls of one answer and their price by the domain's costs."""

    def __init__(self, allowance: Allowance, costs: Costs | None) -> None:
        self._allowance = allowance
        self._costs = costs or Costs()
        self._priced = costs is not None
        self._charges: list[Charge] = []

    def room(self, *, calls: int, amount: float = 0.0) -> bool:
        """Tells whether so many more calls, at this price together, are within the allowance."""
        return not self._shortfall(calls, amount)

    def take(self, *, calls: int = 1, amount: float = 0.0) -> Charge:
        """Counts calls that begin now; raises PartDown where the allowance has no room for them."""
        shortfall = self._shortfall(calls, amount)
        if shortfall:
            raise PartDown(BUDGET, shortfall)
        charge = Charge(calls, amount)
        self._charges.append(charge)
        return charge

    def embed(self) -> None:
        """Counts an embedding; raises PartDown."""
        self.take(amount=self._costs.per_embedding)

    def search(self) -> None:
        """Counts a search; raises PartDown."""
        self.take(amount=self._costs.per_search)

    def write(self, prompts: Sequence[Prompt], *, max_tokens: int) -> Charge:
        """Counts a generation at the price of an answer of full length; raises PartDown."""
        return self.take(calls=len(prompts), amount=self.price(Usage(read_tokens(prompts), max_tokens)))

    def price(self, usage: Usage) -> float:
        """Returns the price of so many tokens."""
        costs = self._costs
        return (
            usage.input_tokens * costs.per_1000_input_tokens + usage.output_tokens * costs.per_1000_output_tokens
        ) / 1000

    def ground(self, wanted: Depth, *, calls: int, answer: str, passages: Sequence[Passage]) -> tuple[Depth, Charge]:
        """Counts what judging support may take; by words alone where the allowance has no room for what is wanted."""
        amount = self._grounding(wanted, answer, passages)
        if not self.room(calls=calls, amount=amount):
            return Depth.WORDS, Charge(0, 0.0)
        return wanted, self.take(calls=calls, amount=amount)

    def grounded(self, charge: Charge, groundedness: Groundedness, *, answer: str, passages: Sequence[Passage]) -> None:
        """Settles what judging support has taken."""
        scored = Signal.LIKELIHOOD in {*groundedness.rests_on, *(one.signal for one in groundedness.absent)}
        depth = Depth.LIKELIHOOD if scored else Depth.VECTORS if groundedness.num_calls else Depth.WORDS
        charge.num_calls = groundedness.num_calls
        charge.amount = self._grounding(depth, answer, passages)

    @property
    def num_calls(self) -> int:
        """Is how many calls were made so far."""
        return sum(charge.num_calls for charge in self._charges)

    @property
    def amount(self) -> float:
        """Is the price so far, in the domain's currency."""
        return sum(charge.amount for charge in self._charges)

    def cost(self) -> Cost:
        """Returns what was taken so far."""
        if not self._priced:
            return Cost(self.num_calls)
        return Cost(self.num_calls, self.amount, self._costs.currency)

    def _grounding(self, depth: Depth, answer: str, passages: Sequence[Passage]) -> float:
        """Returns the price of judging support: an Embed, or pairs of it, and reading the answer twice to score it."""
        price = self._costs.per_embedding if depth is not Depth.WORDS else 0.0
        if depth in (Depth.LIKELIHOOD, Depth.ENTAILMENT):
            characters = 2 * len(answer) + sum(len(passage.text) for passage in passages)
            price += self.price(Usage(characters // _CHARACTERS_PER_TOKEN))
        return price

    def _shortfall(self, calls: int, amount: float) -> str:
        """Returns what the allowance has no room for, in words; "" where it has."""
        most, dearest = self._allowance.max_calls, self._allowance.max_cost
        if most is not None and self.num_calls + calls > most:
            return f"no room for {calls} more {'call' if calls == 1 else 'calls'}: {self.num_calls} of {most} made"
        if dearest is not None and self.amount + amount > dearest:
            currency = self._costs.currency
            return f"no room for {amount:.6g} {currency} more: {self.amount:.6g} of {dearest:.6g} spent"
        return ""


def read_tokens(prompts: Sequence[Prompt]) -> int:
    """Returns about how many tokens the prompts have."""
    return sum(len(message.content) for prompt in prompts for message in prompt.messages) // _CHARACTERS_PER_TOKEN
