"""``tiers.yaml``: who is asked, with which parameters, at which price.

::

    tiers:                              # cascade order, the reference tier last
      - name: mini
        model: openai:gpt-4o-mini       # any string of langchain's init_chat_model
        params: {temperature: 0, max_tokens: 256, logprobs: true}
        input_usd_per_m: 0.15
        output_usd_per_m: 0.60
      - name: large
        model: anthropic:claude-sonnet-4-5
        api_key_env: WORK_ANTHROPIC_KEY # the name of an environment variable; keys themselves are refused
        input_usd_per_m: 3
        output_usd_per_m: 15
    judge: {params: {max_tokens: 8}, input_usd_per_m: 2.5, output_usd_per_m: 10}    # for --metric judge:<model>

A list of tiers without the key ``tiers`` is read too.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from router_core.errors import InputError, MissingExtraError
from router_core.portfolio import Portfolio, Tier
from router_core.redaction import looks_like_key

__all__ = ["Asked", "TiersFile", "read_tiers"]

_PRICES = ("input_usd_per_m", "output_usd_per_m", "usd_per_call")
_OF_TIER = (*_PRICES, "assumed_completion_tokens", "latency_ms")
_KNOWN = ("name", "model", "params", "api_key_env", "timeout", "max_retries", *_OF_TIER)
_SECRET = re.compile(r"(?i)(api_?key|secret|password|authorization|bearer|credential|(^|_)token$)")
_LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "num_predict")
_MAX_TOKENS = 1024
_JUDGE_MAX_TOKENS = 16
_TIMEOUT_S = 120.0
_RETRIES = 4
_ASSUMED_COMPLETION = 256
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Asked:
    """One model to ask: a tier, or the judge.

    Attributes
    ----------
    tier
        Name and prices.
    model
        String of `langchain.chat_models.init_chat_model`.
    params
        What the model is made with; ``max_tokens``, or its provider's name for it, is always set, because it bounds
        the price of a call.
    api_key_env
        Environment variable that holds the key, or None for the provider's own.
    timeout
        Seconds one call may take.
    max_retries
        How often a failed call is tried again.
    """

    tier: Tier
    model: str
    params: Mapping[str, Any] = field(default_factory=dict)
    api_key_env: str | None = None
    timeout: float = _TIMEOUT_S
    max_retries: int = _RETRIES

    @property
    def name(self) -> str:
        """The tier's name."""
        return self.tier.name

    @property
    def max_tokens(self) -> int:
        """Longest answer in tokens."""
        return int(next(self.params[name] for name in _LENGTHS if name in self.params))

    @property
    def assumed_completion_tokens(self) -> int:
        """Length of an answer for the estimate before anything is asked."""
        return min(self.tier.assumed_completion_tokens or _ASSUMED_COMPLETION, self.max_tokens)

    @property
    def fingerprint(self) -> str:
        """Hash of what decides its answers: name, model and parameters. Prices and keys do not."""
        told = json.dumps([self.name, self.model, dict(self.params)], sort_keys=True, default=str)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def make(self) -> Any:
        """The chat model.

        Raises
        ------
        InputError
            When the environment variable is not set, or the model cannot be made; keys are not shown.
        MissingExtraError
            Where langchain is not installed.
        """
        try:
            from langchain.chat_models import init_chat_model
        except ImportError:
            raise MissingExtraError("collect", "ask models") from None
        from router_core.redaction import Redaction

        params = {**self.params, **self._key()}
        try:
            model = init_chat_model(self.model, **params)
            # A provider's own retries would be paid for without being counted.
            if "max_retries" in getattr(type(model), "model_fields", {}):
                model = init_chat_model(self.model, **params, max_retries=0)
        except Exception as error:
            told = Redaction.of_environment().keys(" ".join(str(error).split()))[:300]
            raise InputError(f"tier {self.name!r}: {self.model} cannot be made: {told}") from None
        return model

    def _key(self) -> dict[str, str]:
        if self.api_key_env is not None:
            value = os.environ.get(self.api_key_env)
            if not value:
                raise InputError(f"tier {self.name!r}: the environment variable {self.api_key_env} is not set")
            return {"api_key": value}
        local = urlparse(str(self.params.get("base_url", ""))).hostname in _LOOPBACK
        # OpenAI's client insists on a key; a server on this machine should not be sent the real one.
        return {"api_key": "none"} if local and self.model.startswith("openai:") else {}


@dataclass(frozen=True)
class TiersFile:
    """The tiers in cascade order, the last being the reference, and the judge if one was asked for."""

    tiers: tuple[Asked, ...]
    judge: Asked | None = None

    @property
    def portfolio(self) -> Portfolio:
        """The tiers' names and prices."""
        return Portfolio(tuple(asked.tier for asked in self.tiers))


def read_tiers(path: str | Path, *, judge: str | None = None) -> TiersFile:
    """Read ``tiers.yaml``.

    Parameters
    ----------
    path
        The file.
    judge
        Model string of a judge; its prices come from the key ``judge`` or from the tier with the same model.

    Raises
    ------
    InputError
        Naming the file, the tier and the key: wrong YAML, an unknown key, a missing price, a literal key.
    MissingExtraError
        Where PyYAML is not installed.
    """
    path = Path(path)
    try:
        told = _load(path)
        rows = told if isinstance(told, list) else told.get("tiers") if isinstance(told, dict) else None
        if not isinstance(rows, list):
            raise InputError("must be a list of tiers, or have the key 'tiers'")
        extra = sorted(map(str, set(told) - {"tiers", "judge"})) if isinstance(told, dict) else []
        if extra:
            raise InputError(f"unknown key {extra[0]!r} beside 'tiers'; known are tiers and judge")
        tiers = tuple(_asked(row, f"tier {number}") for number, row in enumerate(rows, start=1))
        Portfolio(tuple(asked.tier for asked in tiers))
        return TiersFile(tiers, None if judge is None else _judge(judge, told, tiers))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _load(path: Path) -> Any:
    try:
        import yaml
    except ImportError:
        raise MissingExtraError("collect", "read tiers.yaml") from None

    class Unique(yaml.SafeLoader):  # type: ignore[misc]
        """Refuses a key given twice, of which YAML would keep the last without a word."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [str(key.value) for key, _ in node.value]
            for name in names:
                if names.count(name) > 1:
                    raise InputError(f"key {name!r} is given twice in one place (line {node.start_mark.line + 1})")
            return super().construct_mapping(node, deep=deep)

    try:
        return yaml.load(path.read_text(encoding="utf-8-sig"), Loader=Unique)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise InputError(f"not valid YAML{where} ({getattr(error, 'problem', None) or error})") from None


def _asked(row: Any, place: str, *, max_tokens: int = _MAX_TOKENS) -> Asked:
    if not isinstance(row, Mapping):
        raise InputError(f"{place} must be a mapping with name, model and prices, not {str(row)[:40]!r}")
    name = row.get("name")
    if isinstance(name, str) and name.strip():
        place = f"tier {name!r}"
    _refuse_keys(row, place)
    for key in row:
        if key not in _KNOWN:
            raise InputError(
                f"{place}: unknown key {str(key)!r}; known are {', '.join(_KNOWN)}; others go under params"
            )
    for key in ("name", "model"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise InputError(f"{place}: {key} is missing; give it as text")
    params = _params(row.get("params"), place, max_tokens)
    tier = Tier(name=row["name"], model=row["model"], **{key: row[key] for key in _OF_TIER if row.get(key) is not None})
    if not tier.priced and row.get("usd_per_call") is None:
        raise InputError(
            f"{place}: its price is missing; add input_usd_per_m and output_usd_per_m (US dollars per 1M tokens, 0 for "
            "a model of your own), or usd_per_call"
        )
    return Asked(tier, row["model"].strip(), params, *_ways(row, place))


def _params(given: Any, place: str, max_tokens: int) -> dict[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise InputError(f"{place}: params must be a mapping, such as {{temperature: 0, max_tokens: 256}}")
    params = {str(key): value for key, value in (given or {}).items()}
    for outside in ("timeout", "max_retries", "model"):
        if outside in params:
            raise InputError(f"{place}: {outside} stands beside params, not in it")
    for key, value in params.items():
        hidden = [name for name in (*_LENGTHS, "n") if isinstance(value, Mapping) and name in value]
        if hidden:
            raise InputError(f"{place}: {hidden[0]} stands in params, not in its {key}; it bounds the price of a call")
    if params.get("n", 1) != 1:
        raise InputError(f"{place}: n must be 1; collect takes one answer a call")
    named = [name for name in _LENGTHS if name in params]
    if len(named) > 1:
        raise InputError(f"{place}: {named[0]} and {named[1]} say the same; give one of them")
    length = params.setdefault(named[0] if named else "max_tokens", max_tokens)
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise InputError(f"{place}: max_tokens must be a whole number above 0; it bounds the price of a call")
    return params


def _ways(row: Mapping[str, Any], place: str) -> tuple[str | None, float, int]:
    env = row.get("api_key_env")
    if env is not None and not (isinstance(env, str) and re.fullmatch(r"[A-Za-z_]\w*", env)):
        raise InputError(f"{place}: api_key_env must be the name of an environment variable")
    timeout, retries = row.get("timeout", _TIMEOUT_S), row.get("max_retries", _RETRIES)
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= 86400:
        raise InputError(f"{place}: timeout must be seconds, above 0")
    if isinstance(retries, bool) or not isinstance(retries, int) or not 0 <= retries <= 100:
        raise InputError(f"{place}: max_retries must be a whole number from 0 to 100")
    return env, float(timeout), retries


def _judge(model: str, told: Any, tiers: tuple[Asked, ...]) -> Asked:
    given = told.get("judge") if isinstance(told, dict) else None
    if given is None:
        same = next((asked for asked in tiers if asked.model == model), None)
        if same is None:
            raise InputError(
                f"the price of the judge {model} is missing; add a key judge with input_usd_per_m and output_usd_per_m"
            )
        prices = {key: getattr(same.tier, key) for key in _PRICES if getattr(same.tier, key) is not None}
        kept = {key: value for key, value in same.params.items() if key in ("base_url", "temperature")}
        given = {**prices, "params": kept, "api_key_env": same.api_key_env}
    if not isinstance(given, Mapping):
        raise InputError("judge must be a mapping with its prices")
    if given.get("model", model) != model:
        raise InputError(f"judge is {given['model']!r}, but the metric names {model!r}; let both be the same")
    row = {**{key: value for key, value in given.items() if value is not None}, "name": "judge", "model": model}
    if any(asked.name == "judge" for asked in tiers):
        raise InputError("a tier cannot be called 'judge' when the metric is a judge; rename it")
    return _asked(row, "judge", max_tokens=_JUDGE_MAX_TOKENS)


def _refuse_keys(value: Any, place: str, name: str = "") -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _refuse_keys(inner, place, str(key))
    elif isinstance(value, list):
        for inner in value:
            _refuse_keys(inner, place, name)
    elif isinstance(value, str) and name != "api_key_env" and (_SECRET.search(name) or looks_like_key(value)):
        raise InputError(
            f"{place}: {name or 'a value'} holds a key in plain text; put it in an environment variable and name that "
            "with api_key_env"
        )
    elif isinstance(value, str) and name == "api_key_env" and looks_like_key(value):
        raise InputError(f"{place}: api_key_env holds a key; it must be the name of an environment variable")
