"""How a model's own token counts compare with the estimates: learnt from complete answers.

The rates are kept in each proxy's memory, not in the ledger: an event carries the estimate itself, so that all replicas
agree on what was charged, and fold stays free of it. A process begins with the published rates, and needs a few answers
to know better.

Not here: what is counted in an answer (`usage_estimate`).
"""

from collections import OrderedDict
from typing import Final, Literal, get_args

from msgspec import Struct

RateKind = Literal["ascii", "latin", "han", "hangul", "cyrillic", "other", "input", "thinking", "hidden"]
"""Visible text by its script, the input of tools, thinking as shown (often a summary), and thinking that is counted but
not shown."""

PUBLISHED: Final[dict[RateKind, float]] = {
    "ascii": 1.0,
    "latin": 1.06,
    "han": 1.0,
    "hangul": 1.0,
    "cyrillic": 1.0,
    "other": 1.0,
    "input": 1.0,
    "thinking": 1.0,
    "hidden": 1.0,
}
"""Tokens for each estimated one: the means of three public tokenizers. Of hidden thinking the provider tells a coarse
count itself."""
PUBLISHED_PER_S = 60.0
"""Tokens that a model generates in a second, of providers' published speeds."""
PUBLISHED_ANSWER = 500.0
"""Tokens of a whole answer."""
MOST_MODELS = 64
"""Clients may send any model name."""
MEMORY = 16
"""A rate follows the last answers, about so many."""
LEARNT_FIRST = 32
LEARN_EVERY = 32
"""The first answers of a model are looked at, and of later ones one in so many."""
FURTHEST = 4.0
"""An observation that is further off than this factor is of something else, such as a tool of the provider's."""


class Mean(Struct):
    """A mean that follows the last MEMORY values."""

    value: float
    count: int = 0

    def follow(self, value: float) -> None:
        """Take in a value; the published one that it begins with counts as none."""
        self.count += 1
        self.value += (value - self.value) / min(self.count, MEMORY)


class ModelRates(Struct):
    """What is known of one model."""

    rates: dict[RateKind, Mean]
    per_s: Mean
    answer: Mean
    answers: int = 0

    def rate(self, kind: RateKind) -> float:
        """Return the tokens for each estimated one."""
        return self.rates[kind].value

    def learn(self, kind: RateKind, estimated: float, counted: float) -> None:
        """Compare an estimate with what the provider has counted."""
        observed = counted / estimated
        if 1 / FURTHEST <= observed / PUBLISHED[kind] <= FURTHEST:
            self.rates[kind].follow(observed)

    @property
    def is_due(self) -> bool:
        """True if the next answer is worth looking at."""
        return self.answers < LEARNT_FIRST or self.answers % LEARN_EVERY == 0


class TokenRates:
    """The rates of the models that were used last."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, ModelRates] = OrderedDict()

    def of(self, model: str) -> ModelRates:
        """Return what is known of a model, the published rates for a new one."""
        known = self._known.get(model)
        if known is None:
            known = self._known[model] = ModelRates(
                {kind: Mean(PUBLISHED[kind]) for kind in get_args(RateKind)},
                Mean(PUBLISHED_PER_S),
                Mean(PUBLISHED_ANSWER),
            )
            if len(self._known) > MOST_MODELS:
                self._known.popitem(last=False)
        self._known.move_to_end(model)
        return known
