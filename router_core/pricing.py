"""What one attempt costs: at the tokens it took, or before it is made. US dollars."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, TypeVar

from router_core.portfolio import Tier

if TYPE_CHECKING:
    from router_core.route import Answer

__all__ = ["attempt_price", "estimate_tokens", "expected_price"]

N = TypeVar("N", int, float)

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
    if told is not None and (told := _counted(tier, "cost", told)) is not None:
        return told
    sent = None if sent is None else _counted(tier, "number of prompt tokens", sent)
    received = None if received is None else _counted(tier, "number of completion tokens", received)
    return tier.price(
        estimate_tokens(prompt) if sent is None else sent,
        estimate_tokens(answer.text) if received is None else received,
    )


def _counted(tier: Tier, what: str, figure: N) -> N | None:
    """The figure, None where it cannot be one."""
    if 0 <= figure < math.inf:
        return figure
    if (tier.name, what) not in _WARNED:
        _WARNED.add((tier.name, what))
        warnings.warn(f"tier {tier.name!r} told a {what} of {figure}; it is estimated instead", stacklevel=4)
    return None


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
