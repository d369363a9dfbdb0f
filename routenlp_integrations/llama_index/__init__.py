"""RouteNLP for LlamaIndex: drop-ins for selectors, query engines and language models."""

from typing import TYPE_CHECKING, Any

from router_core.errors import MissingExtraError

if TYPE_CHECKING:
    from routenlp_integrations.llama_index.selector import ConformalSelector

__all__ = ["ConformalSelector"]

_HOME = {
    "ConformalSelector": "selector",
}
_EXTRA = {"llama_index": "llama-index"}


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
