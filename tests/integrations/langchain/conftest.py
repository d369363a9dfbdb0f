"""Fixtures of the LangChain tests: no network, a router over three scripted tiers, queries that start where told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import TIERS, small_records
from pytest_socket import disable_socket, enable_socket
from scripted import Make, ScriptedModel

from router_core.policy import CASCADE, ROUTE_ONLY
from router_core.router import Router
from routenlp_integrations.langchain import RoutingChatModel


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """Refuse every socket but the event loop's own."""
    disable_socket(allow_unix_socket=True)
    yield
    enable_socket()


@pytest.fixture(scope="session")
def small_router(small_bundle: Path) -> Router:
    """The small bundle, loaded once."""
    return Router.load(small_bundle)


@pytest.fixture
def make(small_router: Router) -> Make:
    """Make a routing model over scripted tiers; `tiers` gives a tier's own arguments."""

    def build(
        tiers: dict[str, dict[str, Any]] | None = None, **params: Any
    ) -> tuple[RoutingChatModel, dict[str, ScriptedModel]]:
        own = tiers or {}
        models = {name: ScriptedModel(model_name=f"{name}-1", **own.get(name, {})) for name in TIERS}
        return RoutingChatModel(router=small_router, tiers=models, **params), models

    return build


@pytest.fixture(scope="session")
def easy(small_router: Router) -> str:
    """A mood query that starts at the small tier under both policies, with and without its task."""
    for prompt in small_records().prompt:
        starts = [
            small_router.start(prompt, task, policy).tier for task in (None, "mood") for policy in (CASCADE, ROUTE_ONLY)
        ]
        if not any(starts) and "love" in prompt:
            return prompt
    pytest.fail("no query starts at the small tier under both policies")
