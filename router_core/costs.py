"""What every recorded answer cost: as recorded, else at portfolio prices, else at assumed lengths."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from router_core.errors import InputError
from router_core.portfolio import Portfolio
from router_core.rows import Rows

__all__ = ["row_costs"]


def row_costs(
    rows: Rows, models: npt.NDArray[np.intp], names: tuple[str, ...], portfolio: Portfolio | None
) -> tuple[npt.NDArray[np.float64], str]:
    """Give every row its cost in US dollars, nan where it cannot be known, and name the weakest basis in use.

    Parameters
    ----------
    rows
        Rows with columns ``cost_usd``, ``prompt_tokens``, ``completion_tokens``, ``cost_basis``, all
        optional.
    models, names
        Per row the number of its model, and the models' names.
    portfolio
        Prices for rows without a recorded cost. Missing prompt tokens are estimated at four bytes of UTF-8
        each; missing completion tokens are the tier's ``assumed_completion_tokens``.

    Raises
    ------
    InputError
        If no row has a cost.
    """
    cost = rows.numbers("cost_usd").copy()
    recorded = ~np.isnan(cost)
    words = zip(rows.texts("cost_basis"), recorded.tolist(), strict=True)
    said = {word for word, known in words if known and word}
    basis = said.pop() if len(said) == 1 else "recorded"
    computed = assumed = False
    for tier in portfolio.tiers if portfolio else ():
        if tier.name not in names or not tier.priced:
            continue
        at = np.flatnonzero((models == names.index(tier.name)) & ~recorded)
        price_in, price_out = tier.input_usd_per_m or 0.0, tier.output_usd_per_m or 0.0
        p, c = rows.numbers("prompt_tokens")[at], rows.numbers("completion_tokens")[at]
        guessed = (np.isnan(p) & (price_in > 0)) | (np.isnan(c) & (price_out > 0))
        prompts = rows.texts("prompt")
        p = np.where(np.isnan(p), [_token_estimate(prompts[i] or "") for i in at], p)
        # A tier that charges nothing for output needs no assumption about its length.
        default = tier.assumed_completion_tokens if price_out > 0 else 0
        c = np.where(np.isnan(c), np.nan if default is None else default, c)
        cost[at] = (p * price_in + c * price_out) / 1e6 + tier.usd_per_call
        priced = ~np.isnan(cost[at])
        computed |= bool(priced.any())
        assumed |= bool((priced & guessed).any())
    if np.isnan(cost).all():
        if portfolio is None:
            raise InputError(
                f"{rows.source}: no row has a cost_usd; give a portfolio with prices "
                "(and assumed_completion_tokens where completion_tokens are missing)"
            )
        if unknown := tuple(tier.name for tier in portfolio.tiers if tier.priced and tier.name in names):
            raise InputError(
                f"{rows.source}: no row has a cost_usd, and none of {_listed(unknown)} has completion_tokens to apply "
                "its prices to; give these tiers assumed_completion_tokens"
            )
        raise InputError(
            f"{rows.source}: no row has a cost_usd and the portfolio ({_listed(portfolio.names)}) prices "
            f"none of the models ({_listed(names)}); give their prices, and assumed_completion_tokens"
        )
    return cost, "assumed" if assumed else "computed" if computed else basis


def _token_estimate(prompt: str) -> int:
    return (len(prompt.encode()) + 3) // 4


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
