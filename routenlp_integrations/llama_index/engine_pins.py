"""Which engine was certified: what can be seen of a query engine without asking it, as a fingerprint to pin.

A certificate is about the engines that were recorded. Their answers do not name them, so that a bundle pins what they
are made of instead, and a group whose engines are made of something else is no longer the certified one.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from enum import Enum
from hashlib import sha256
from inspect import signature
from typing import Any, Final

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.prompts.base import BasePromptTemplate, SelectorPromptTemplate
from llama_index.core.prompts.mixin import PromptMixin
from llama_index.core.tools.query_engine import QueryEngineTool
from llama_index.core.tools.types import ToolMetadata
from llama_index.core.vector_stores.types import MetadataFilters

from routenlp_integrations.llama_index.group_engine import GroupEngine
from router_core.errors import InputError
from router_core.fingerprints import ENGINE
from router_core.portfolio import Portfolio
from router_core.router import Router

__all__ = ["engine_fingerprint", "hold_engines", "pin_engines"]

_HEAD: Final = 12
_LLM_SETTINGS: Final = ("temperature", "max_tokens", "system_prompt")
_UNSAID: Final = re.compile(r"(^|_)(verbose|show_progress|device|batch_size|ids?|key|token|secret|password)$")
"""Settings that change no answer, are of one run, or are nobody's business."""
_PARTS: Final = (
    PromptMixin, BaseNodePostprocessor, BaseLLM, BaseEmbedding, BasePromptTemplate, ToolMetadata, QueryEngineTool,
    GroupEngine,
)  # fmt: skip


def engine_fingerprint(engine: BaseQueryEngine) -> str:
    """What can be seen of a query engine without asking it, as ``"engine@"`` and 12 hexadecimal digits.

    Seen are the classes of the engine and its parts (retrievers, synthesizers, node postprocessors, selectors, engines
    and routers in it); every prompt's text; the settings that the constructors of retrievers and postprocessors name,
    such as ``similarity_top_k``; class and model name of embeddings and LLMs, and an LLM's temperature, token limit and
    system prompt. Not seen are the indexed documents, what a class of one's own does and holds beside such parts, and
    which weights stand behind a model's name. The digits are those of a SHA-256 over canonical JSON of it, and the same
    in every process.

    Parameters
    ----------
    engine
        Any query engine; of one without such parts class and module are all there is.
    """
    told = json.dumps(_part(engine, ()), sort_keys=True, separators=(",", ":"))
    return ENGINE + sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:_HEAD]


def pin_engines(portfolio: Portfolio, engines: Mapping[str, BaseQueryEngine]) -> Portfolio:
    """Name in every tier the engine that is recorded for it, so that a bundle fitted with this portfolio is held to it.

    A fingerprint takes the place of a model that a tier named: answers that name their model are then held to the one
    they named first in each process.

    Parameters
    ----------
    portfolio
        Prices, as for `record_engines`.
    engines
        As for `record_engines`.

    Returns
    -------
    Portfolio
        The same tiers, each with its `engine_fingerprint` as `model`.

    Raises
    ------
    InputError
        When a tier has no engine, or an engine no tier.
    """
    if set(engines) != set(portfolio.names):
        msg = f"the engines are {', '.join(engines) or 'none'}, and the portfolio has {', '.join(portfolio.names)}"
        raise InputError(msg)
    return Portfolio(tuple(replace(tier, model=engine_fingerprint(engines[tier.name])) for tier in portfolio.tiers))


def hold_engines(router: Router, engines: Mapping[str, BaseQueryEngine]) -> None:
    """Let certificates lapse where an engine is not the one its tier pins; a tier that pins none is not held to any."""
    for name, engine in engines.items():
        if (router.portfolio.models.get(name) or "").startswith(ENGINE):
            router.saw(name, engine_fingerprint(engine))


def _part(part: Any, above: tuple[int, ...]) -> Any:
    """One part and those in it as JSON values; `above` are the parts around it, since parts may hold each other."""
    if isinstance(part, QueryEngineTool):
        return [_part(part.metadata, above), _part(part.query_engine, above)]
    if isinstance(part, ToolMetadata):
        return [part.name, part.description]
    if isinstance(part, BasePromptTemplate):
        return _prompt(part)
    told: dict[str, Any] = {"class": f"{type(part).__module__}.{type(part).__qualname__}"}
    if id(part) in above:
        return told
    if isinstance(part, BaseLLM | BaseEmbedding):
        return told | _model(part)
    if isinstance(part, GroupEngine):
        told["bundle"] = part.router.bundle_id
    if isinstance(part, PromptMixin):
        with suppress(Exception):  # prompts are told by classes of one's own too
            told["prompts"] = {name: _prompt(prompt) for name, prompt in part.get_prompts().items()}
    if isinstance(part, BaseRetriever | BaseNodePostprocessor):
        told["settings"] = _settings(part)
    told["parts"] = _inside(part, (*above, id(part)))
    return told


def _model(part: BaseLLM | BaseEmbedding) -> dict[str, Any]:
    """Which model an LLM or embedding says it is, and how an LLM is asked."""
    if isinstance(part, BaseEmbedding):
        return {"model": part.model_name}
    told = {name: found for name in _LLM_SETTINGS if _plain(found := getattr(part, name, None))}
    with suppress(Exception):  # metadata of a model that its LLM does not know
        told["model"] = part.metadata.model_name
    return told


def _inside(part: Any, above: tuple[int, ...]) -> dict[str, list[Any]]:
    """The parts a part holds, by attribute; without the keys of mappings, which may be ids made for one run."""
    found: dict[str, list[Any]] = {}
    for name, value in getattr(part, "__dict__", {}).items():
        if isinstance(value, Mapping):
            told = sorted((_part(one, above) for one in value.values() if isinstance(one, _PARTS)), key=json.dumps)
        else:
            several = value if isinstance(value, list | tuple) else (value,)
            told = [_part(one, above) for one in several if isinstance(one, _PARTS)]
        if told:
            found[name] = told
    return found


def _settings(part: Any) -> dict[str, Any]:
    """Plain values under names that a constructor takes: a counter, or what was cached, is no setting."""
    kinds = [own for kind in type(part).__mro__ if callable(own := vars(kind).get("__init__"))]
    taken = {*getattr(type(part), "model_fields", ()), *(name for own in kinds for name in signature(own).parameters)}
    found: dict[str, Any] = {}
    for name, value in getattr(part, "__dict__", {}).items():
        own = name.lstrip("_")
        if own in taken and not _UNSAID.search(own):
            if isinstance(value, MetadataFilters):
                found[own] = value.model_dump(mode="json")
            elif _plain(value):
                found[own] = _value(value)
    return found


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(map(_plain, value))
    return isinstance(value, bool | int | float | str | Enum)


def _value(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_value(one) for one in value]
    return str(value.value) if isinstance(value, Enum) else value


def _prompt(prompt: BasePromptTemplate) -> Any:
    """The text of a template and what is filled in already; of one that depends on the LLM all of its texts."""
    if isinstance(prompt, SelectorPromptTemplate):
        return [_prompt(one) for one in (prompt.default_template, *(one for _, one in prompt.conditionals or ()))]
    filled = {name: str(value) for name, value in prompt.kwargs.items() if _plain(value)}
    with suppress(Exception):  # a template of another library
        return [prompt.get_template(), filled]
    return [type(prompt).__qualname__, filled]
