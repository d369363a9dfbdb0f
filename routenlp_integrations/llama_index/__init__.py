"""RouteNLP for LlamaIndex: swap `RouterQueryEngine`, a selector or an LLM for ours and change nothing else."""

from typing import TYPE_CHECKING, Any

from router_core.errors import MissingExtraError

if TYPE_CHECKING:
    from routenlp_integrations.llama_index.engine_pins import engine_fingerprint, pin_engines
    from routenlp_integrations.llama_index.events import RoutingDecisionEvent
    from routenlp_integrations.llama_index.groups import EngineGroup
    from routenlp_integrations.llama_index.llm import RoutingLLM
    from routenlp_integrations.llama_index.query_engine import RouterQueryEngine
    from routenlp_integrations.llama_index.recording import record_engines
    from routenlp_integrations.llama_index.selector import ConformalSelector
    from routenlp_integrations.llama_index.student import StudentLLM
    from routenlp_integrations.llama_index.unfitted import AnswerRule

__all__ = [
    "AnswerRule",
    "ConformalSelector",
    "EngineGroup",
    "RouterQueryEngine",
    "RoutingDecisionEvent",
    "RoutingLLM",
    "StudentLLM",
    "engine_fingerprint",
    "pin_engines",
    "record_engines",
]

_HOME = {
    "AnswerRule": "unfitted",
    "ConformalSelector": "selector",
    "EngineGroup": "groups",
    "RouterQueryEngine": "query_engine",
    "RoutingDecisionEvent": "events",
    "RoutingLLM": "llm",
    "StudentLLM": "student",
    "engine_fingerprint": "engine_pins",
    "pin_engines": "engine_pins",
    "record_engines": "recording",
}
_EXTRA = {"llama_index": "llama-index"}


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for."""
    if name not in _HOME:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    try:
        found = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        extra = _EXTRA.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise MissingExtraError(extra, f"use {name}") from error
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
