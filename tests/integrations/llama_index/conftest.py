"""Fixtures of the LlamaIndex tests: no network, a routing LLM over three scripted tiers, events as they come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pytest_socket import disable_socket, enable_socket

pytest.importorskip("llama_index.core", reason="needs routenlp[llama-index]")

from bundles import TIERS
from llama_index.core.instrumentation import get_dispatcher
from scripted_llm import Events, Make, ScriptedLLM

from routenlp_integrations.llama_index import RoutingLLM
from router_core.router import Router


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """Refuse every socket but the event loop's own."""
    disable_socket(allow_unix_socket=True)
    yield
    enable_socket()


@pytest.fixture
def make(small_router: Router) -> Make:
    """Make a routing LLM for the task "mood" over scripted tiers; `tiers` gives a tier's own arguments."""

    def build(
        tiers: dict[str, dict[str, Any]] | None = None, **params: Any
    ) -> tuple[RoutingLLM, dict[str, ScriptedLLM]]:
        own = tiers or {}
        llms = {name: ScriptedLLM(**{"model": f"{name}-1", **own.get(name, {})}) for name in TIERS}
        return RoutingLLM(router=small_router, tiers=llms, **{"task": "mood", **params}), llms

    return build


@pytest.fixture
def events() -> Iterator[Events]:
    """A handler at the root."""
    root, handler = get_dispatcher(), Events()
    before = list(root.event_handlers)
    root.event_handlers = [*before, handler]
    yield handler
    root.event_handlers = before
