"""What one attempt costs: at the tokens it took, or before it is made. US dollars."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from router_core.portfolio import Tier

if TYPE_CHECKING:
    from router_core.route import Answer

__all__ = ["attempt_price", "estimate_tokens", "expected_price"]

_CHARACTERS_PER_TOKEN = 4


def estimate_tokens(text: str) -> int:
    """Tokens of a text whose tier does not say: one for every four UTF-8 bytes, rounded up."""
    return math.ceil(len(text.encode("utf-8", "surrogatepass")) / _CHARACTERS_PER_TOKEN)


def attempt_price(tier: Tier, prompt: str, answer: Answer) -> float:
    """US dollars of one attempt: the caller's figure, else tokens at the portfolio's prices.

    Tokens the tier does not report are estimated at four UTF-8 bytes each.

    Parameters
    ----------
    tier
        Who answered.
    prompt
        What is priced where the tier does not say how many tokens it was sent.
    answer
        What it returned.
    """
    if answer.cost_usd is not None:
        return answer.cost_usd
    sent = estimate_tokens(prompt) if answer.prompt_tokens is None else answer.prompt_tokens
    received = estimate_tokens(answer.text) if answer.completion_tokens is None else answer.completion_tokens
    return tier.price(sent, received)


def expected_price(tier: Tier, sent: int, mean_usd: float | None) -> float:
    """US dollars that one attempt is expected to cost, before it is made.

    The portfolio's prices at these prompt tokens and the tier's ``assumed_completion_tokens``. Where no length is
    assumed, the mean cost of the tier's train answers in this scope, or the price of the prompt alone if that is more.

    Parameters
    ----------
    tier
        Who would be asked.
    sent
        Tokens it would be sent.
    mean_usd
        Mean cost of its train answers in the query's scope, None where it is not known.
    """
    if tier.assumed_completion_tokens is not None:
        return tier.price(sent, tier.assumed_completion_tokens)
    return max(tier.price(sent, 0), mean_usd or 0.0)
