"""What one attempt costs: at the tokens it took, or before it is made. US dollars."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

from router_core.portfolio import Tier

if TYPE_CHECKING:
    from router_core.route import Answer

__all__ = ["attempt_price", "estimate_tokens", "expected_price"]

_CHARACTERS_PER_TOKEN = 4
_WARNED: set[tuple[str, str]] = set()


def estimate_tokens(text: str) -> int:
    """Tokens of a text whose tier does not say: one for every four UTF-8 bytes, rounded up."""
    return math.ceil(len(text.encode("utf-8", "surrogatepass")) / _CHARACTERS_PER_TOKEN)


def attempt_price(tier: Tier, prompt: str, answer: Answer) -> float:
    """US dollars of one attempt: the caller's figure, else tokens at the portfolio's prices.

    Tokens the tier does not report are estimated at four UTF-8 bytes each. A negative figure is none, and warned about
    once: it would give money back to a budget.

    Parameters
    ----------
    tier
        Who answered.
    prompt
        What is priced where the tier does not say how many tokens it was sent.
    answer
        What it returned.
    """
    told, sent, received = answer.cost_usd, answer.prompt_tokens, answer.completion_tokens
    if told is not None:
        if 0 <= told < math.inf:
            return told
        _warn(tier, "cost", told)
    if sent is None or not 0 <= sent < math.inf:
        sent = _estimated(tier, "number of prompt tokens", sent, prompt)
    if received is None or not 0 <= received < math.inf:
        received = _estimated(tier, "number of completion tokens", received, answer.text)
    return tier.price(sent, received)


def _estimated(tier: Tier, what: str, told: float | None, text: str) -> int:
    if told is not None:
        _warn(tier, what, told)
    return estimate_tokens(text)


def _warn(tier: Tier, what: str, told: float) -> None:
    if (tier.name, what) not in _WARNED:
        _WARNED.add((tier.name, what))
        warnings.warn(f"tier {tier.name!r} told a {what} of {told}; it is estimated instead", stacklevel=4)


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
