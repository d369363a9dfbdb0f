"""Two price lists: the paper's nominal ratios, and measured CPU time beside a declared reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from protocol import DECLARED, NOMINAL, REFERENCE, TIERS, USD_PER_CPU_HOUR

from router_core.portfolio import Portfolio, Tier

__all__ = ["measured_usd", "nominal_portfolio", "nominal_usd", "tokens"]

_BYTES_PER_TOKEN = 4


def tokens(text: str) -> int:
    """Tokens of a text: one for every four UTF-8 bytes, rounded up, whoever reads it."""
    return -(-len(text.encode()) // _BYTES_PER_TOKEN)


def nominal_portfolio(tiers: Sequence[str] = TIERS) -> Portfolio:
    """Tiers at nominal prices, US dollars per 1M tokens of the prompt."""
    return Portfolio(tuple(Tier(name, 1000 * NOMINAL[name], 0.0) for name in tiers))


def nominal_usd(prompts: list[str]) -> NDArray[np.float64]:
    """Nominal cost of every call, float64 [n, K], US dollars."""
    read = np.array([tokens(prompt) for prompt in prompts], dtype=np.float64)
    return np.asarray(read[:, None] * np.array([NOMINAL[name] for name in TIERS]) / 1000)


def measured_usd(prompts: list[str], golds: list[str], cpu_s: Mapping[str, float]) -> NDArray[np.float64]:
    """Measured cost of every call, float64 [n, K], US dollars.

    Parameters
    ----------
    prompts, golds
        Queries and what the reference says.
    cpu_s
        CPU seconds of one answer by tier; the reference is billed by declared prices, a tier that is not there has no
        calls to bill.
    """
    found = np.empty((len(prompts), len(TIERS)))
    for k, name in enumerate(TIERS):
        if name == REFERENCE:
            found[:, k] = [
                (tokens(p) * DECLARED["input_usd_per_m"] + tokens(g) * DECLARED["output_usd_per_m"]) / 1e6
                for p, g in zip(prompts, golds, strict=True)
            ]
        else:
            found[:, k] = cpu_s.get(name, 0.0) * USD_PER_CPU_HOUR / 3600
    return found
