"""What each tier costs: tiers, portfolios, and the files they are read from.

A portfolio lists its tiers in cascade order; the last one is the reference tier. Prices are US dollars per
million tokens, as providers quote them, and optionally a fixed amount per call.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from router_core.errors import InputError
from router_core.portfolio_file import REMARKS, read_portfolio_file

if TYPE_CHECKING:
    from router_core.records import Records

__all__ = ["Portfolio", "Tier", "derive_prices"]

_PRICES = ("input_usd_per_m", "output_usd_per_m")
_AMOUNTS = (*_PRICES, "usd_per_call", "latency_ms")
_ALIASES = {
    "usd_per_1m_input": "input_usd_per_m",
    "usd_per_1m_output": "output_usd_per_m",
    "input_usd_per_1m": "input_usd_per_m",
    "output_usd_per_1m": "output_usd_per_m",
    "tier": "name",
}


@dataclass(frozen=True)
class Tier:
    """One model of the portfolio.

    Parameters
    ----------
    name
        Name used in records, on the command line and in bundles.
    input_usd_per_m, output_usd_per_m
        US dollars per million prompt and completion tokens; both or neither.
    usd_per_call
        US dollars per call, added to the price of the tokens.
    assumed_completion_tokens
        Completion length to assume where records do not say.
    latency_ms
        Typical latency of one call in milliseconds, if known.
    model
        The provider's model name, if it differs from `name`.

    Raises
    ------
    InputError
        If a price is negative or not finite, or only one of the two token prices is given.
    """

    name: str
    input_usd_per_m: float | None = None
    output_usd_per_m: float | None = None
    usd_per_call: float = 0.0
    assumed_completion_tokens: int | None = None
    latency_ms: float | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise InputError("a tier has no name; give every tier a non-empty name")
        if self.model is not None and not isinstance(self.model, str):
            raise InputError(f"tier {self.name!r}: model must be text, not {self.model!r}")
        for key in _AMOUNTS:
            value = getattr(self, key)
            if value is not None:
                object.__setattr__(self, key, _amount(self.name, key, value))
        tokens = self.assumed_completion_tokens
        if tokens is not None:
            number = _amount(self.name, "assumed_completion_tokens", tokens)
            if number != int(number):
                raise InputError(f"tier {self.name!r}: assumed_completion_tokens must be whole, not {tokens!r}")
            object.__setattr__(self, "assumed_completion_tokens", int(number))
        if (self.input_usd_per_m is None) != (self.output_usd_per_m is None):
            given, absent = _PRICES if self.output_usd_per_m is None else reversed(_PRICES)
            raise InputError(f"tier {self.name!r}: {given} is given without {absent}; give both (0 is allowed)")

    @property
    def priced(self) -> bool:
        """Whether any price is known (a token price, possibly zero, or a price per call)."""
        return self.input_usd_per_m is not None or self.usd_per_call > 0

    def price(self, prompt_tokens: int, completion_tokens: int) -> float:
        """US dollars for one call. A token price that is not known counts as zero."""
        p, c = self.input_usd_per_m or 0.0, self.output_usd_per_m or 0.0
        return (prompt_tokens * p + completion_tokens * c) / 1e6 + self.usd_per_call


@dataclass(frozen=True)
class Portfolio:
    """Tiers in cascade order, the last being the reference tier.

    Raises
    ------
    InputError
        If there are fewer than two tiers or two of the same name.
    """

    tiers: tuple[Tier, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "tiers", tuple(self.tiers))
        names = self.names
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"tier {name!r} is listed {names.count(name)} times; names must differ")
        if len(names) < 2:
            raise InputError(f"a portfolio needs at least two tiers, found {len(names)}")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Tier names in cascade order."""
        return tuple(tier.name for tier in self.tiers)

    @cached_property
    def models(self) -> Mapping[str, str | None]:
        """Per tier the model that it names."""
        return {tier.name: tier.model for tier in self.tiers}

    @property
    def reference(self) -> Tier:
        """The last tier, against which quality is measured."""
        return self.tiers[-1]

    def index(self, name: str) -> int:
        """Position of a tier in the cascade; `InputError` lists the known names."""
        if name not in self.names:
            raise InputError(f"unknown tier {name!r}; the portfolio has {', '.join(self.names)}")
        return self.names.index(name)

    def select(self, names: Sequence[str]) -> Portfolio:
        """Pick the named tiers, in the order given."""
        return Portfolio(tuple(self.tiers[self.index(name)] for name in names))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict that `from_json` reads back to an equal portfolio."""
        return {
            "tiers": [
                {f.name: getattr(tier, f.name) for f in fields(tier) if getattr(tier, f.name) is not None}
                for tier in self.tiers
            ]
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Portfolio:
        """Build from ``{"tiers": [{"name": ..., ...}]}`` or ``{name: {...}}``.

        Raises
        ------
        InputError
            For a wrong shape, an unknown key, a missing name, or an invalid tier.
        """
        if not isinstance(data, Mapping):
            raise InputError("a portfolio must be an object with a list 'tiers', or with one object per tier")
        rows: list[Any]
        if isinstance(data.get("tiers"), list):
            extra = sorted(str(key) for key in set(data) - {"tiers"} - REMARKS)
            if extra:
                raise InputError(f"unknown key {extra[0]!r} beside 'tiers'; remove it")
            rows = data["tiers"]
        else:
            rows = [{"name": name, **row} if isinstance(row, Mapping) else row for name, row in data.items()]
        return cls(tuple(_tier(row, f"tier {number}") for number, row in enumerate(rows, start=1)))

    @classmethod
    def load(cls, path: str | Path) -> Portfolio:
        """Read a ``.json``, ``.toml`` or ``.csv`` portfolio; errors name the file and the tier."""
        path = Path(path)
        try:
            return cls.from_json(read_portfolio_file(path))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def derive_prices(records: Records) -> tuple[Portfolio, dict[str, str]]:
    """Recover each model's prices from its recorded costs.

    Where ``cost_usd = (prompt_tokens * input + completion_tokens * output) / 1e6`` holds to 1e-9 (relative)
    on every row with both counts, the two prices are the least-squares solution, rounded to the fewest digits
    that still fit. Otherwise the tier costs its mean recorded cost per call.

    Parameters
    ----------
    records
        Records of at least two models; every model needs at least one cost.

    Returns
    -------
    portfolio, basis
        Tiers in the order of ``records.models``; per tier ``"prices from records"`` or ``"mean of records"``.

    Raises
    ------
    InputError
        If a model has no cost in any row.
    """
    tiers, basis = [], {}
    for m, name in enumerate(records.models):
        cost, p, c = records.cost[:, m], records.prompt_tokens[:, m], records.completion_tokens[:, m]
        paid = np.isfinite(cost)
        if not paid.any():
            raise InputError(
                f"{records.source}: model {name!r} has no cost in any row; give a portfolio with its prices"
            )
        known = paid & np.isfinite(p) & np.isfinite(c)
        prices = _token_prices(p[known], c[known], cost[known]) if known.sum() == paid.sum() else None
        if prices is None:
            tiers.append(Tier(name, usd_per_call=float(cost[paid].mean())))
        else:
            tiers.append(Tier(name, *prices))
        basis[name] = "mean of records" if prices is None else "prices from records"
    return Portfolio(tuple(tiers)), basis


def _token_prices(
    p: np.ndarray[Any, Any], c: np.ndarray[Any, Any], cost: np.ndarray[Any, Any]
) -> tuple[float, float] | None:
    counts = np.column_stack([p, c])
    # Two prices cannot be told apart when one count is a fixed multiple of the other.
    if len(cost) < 2 or np.linalg.matrix_rank(counts) < 2:
        return None
    solution = np.linalg.lstsq(counts, cost * 1e6, rcond=None)[0]
    solution[np.abs(solution) < 1e-9 * np.abs(solution).max()] = 0.0  # rounding noise around a free side

    def fits(price: tuple[float, float], tolerance: float) -> bool:
        error = np.abs((p * price[0] + c * price[1]) / 1e6 - cost)
        return bool(min(price) >= 0 and (error <= tolerance * np.abs(cost)).all())

    for digits in range(1, 13):
        rounded = (float(f"{solution[0]:.{digits}g}"), float(f"{solution[1]:.{digits}g}"))
        if fits(rounded, 1e-12):
            return rounded
    exact = (float(solution[0]), float(solution[1]))
    return exact if fits(exact, 1e-9) else None


def _amount(tier: str, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"tier {tier!r}: {key} must be a number, not {value!r}")
    if not math.isfinite(value) or value < 0:
        raise InputError(f"tier {tier!r}: {key} must be finite and not negative, not {value!r}")
    return float(value)


def _tier(row: object, place: str) -> Tier:
    if not isinstance(row, Mapping):
        raise InputError(f"{place} must be an object with prices, not {row!r}")
    known = {f.name for f in fields(Tier)}
    values: dict[str, Any] = {}
    name = row.get("name", row.get("tier", row.get("model")))
    for key, value in row.items():
        target = _ALIASES.get(str(key), str(key))
        if target in REMARKS:
            continue
        label = f"tier {name!r}" if name else place
        if target not in known:
            near = difflib.get_close_matches(target, sorted(known | set(_ALIASES)), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
            raise InputError(f"{label}: unknown key {str(key)!r}; {hint}")
        if target in values:
            raise InputError(f"{label}: {target} is given twice")
        values[target] = value
    if "name" not in values:
        if "model" not in values:
            raise InputError(f"{place} has no name; give every tier a non-empty name")
        values["name"] = values.pop("model")
    return Tier(**values)
