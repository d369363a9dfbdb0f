"""LangChain's own unit suite for chat models."""

from __future__ import annotations

from typing import Any

import pytest
from bundles import TIERS
from langchain_core.language_models import BaseChatModel
from langchain_tests.unit_tests import ChatModelUnitTests
from scripted import ScriptedModel

from routenlp_integrations.langchain import RoutingChatModel
from router_core.router import Router


class TestRoutingChatModelUnit(ChatModelUnitTests):
    """The suite over scripted tiers."""

    @pytest.fixture(autouse=True)
    def _router(self, small_router: Router) -> None:
        self.router = small_router

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        """The class under test."""
        return RoutingChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        """A router and scripted tiers."""
        return {"router": self.router, "tiers": {name: ScriptedModel(model_name=name) for name in TIERS}}
