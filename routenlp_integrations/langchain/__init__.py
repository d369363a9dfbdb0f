"""RouteNLP for LangChain: swap a chat model for `RoutingChatModel` and change nothing else."""

from typing import TYPE_CHECKING, Any

from router_core.errors import MissingExtraError

if TYPE_CHECKING:
    from routenlp_integrations.langchain.chat_model import RoutingChatModel
    from routenlp_integrations.langchain.decision import RoutingDecisionModel
    from routenlp_integrations.langchain.middleware import RoutingMiddleware
    from routenlp_integrations.langchain.recorded import RecordedChatModel
    from routenlp_integrations.langchain.student import StudentChatModel

__all__ = ["RecordedChatModel", "RoutingChatModel", "RoutingDecisionModel", "RoutingMiddleware", "StudentChatModel"]

_HOME = {
    "RecordedChatModel": "recorded",
    "RoutingChatModel": "chat_model",
    "RoutingDecisionModel": "decision",
    "RoutingMiddleware": "middleware",
    "StudentChatModel": "student",
}
_EXTRA = {"langchain_core": "langchain", "langchain": "agents", "langgraph": "agents"}


def __getattr__(name: str) -> Any:
    """Import a class when it is first asked for."""
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
