"""Fixtures of the LangChain tests: no network, a routing model over three scripted tiers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from bundles import TIERS
from pytest_socket import disable_socket, enable_socket
from scripted import Make, ScriptedModel

from routenlp_integrations.langchain import RoutingChatModel
from router_core.router import Router


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """Refuse every socket but the event loop's own."""
    disable_socket(allow_unix_socket=True)
    yield
    enable_socket()


@pytest.fixture
def make(small_router: Router) -> Make:
    """Make a routing model for the task "mood" over scripted tiers; `tiers` gives a tier's own arguments."""

    def build(
        tiers: dict[str, dict[str, Any]] | None = None, **params: Any
    ) -> tuple[RoutingChatModel, dict[str, ScriptedModel]]:
        own = tiers or {}
        models = {name: ScriptedModel(**{"model_name": f"{name}-1", **own.get(name, {})}) for name in TIERS}
        return RoutingChatModel(router=small_router, tiers=models, **{"task": "mood", **params}), models

    return build
