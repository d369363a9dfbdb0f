"""LangChain's own suites for chat models, unit and integration, offline over tiers with a provider's manners.

Both run for both ways of routing: over a bundle whose cheap tier serves every query, and over one that sends all of
them to the reference tier. Files that the suites would download are made up here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bundles import TIERS
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from scripted import DETAILED, ProviderModel, ask, route_of

from routenlp_integrations.langchain import RoutingChatModel
from router_core.router import Router

QUIET = pytest.mark.filterwarnings(
    "ignore::langchain_core._api.beta_decorator.LangChainBetaWarning",
    "ignore::langchain_core._api.deprecation.LangChainDeprecationWarning",
)
DETAILS = ["audio_input", "audio_output", "reasoning_output", "cache_read_input", "cache_creation_input"]


def look_up(word: str) -> str:
    """Look a word up."""
    return word


def cheap(router: Router) -> Router:
    """The router with policies that serve the small tier's answer to every query."""
    shape = (2, len(TIERS) - 1)
    always = np.full(shape, -np.inf)
    return replace(
        router, policies={key: replace(p, start=always, accept=always, step=1) for key, p in router.policies.items()}
    )


def careful(router: Router) -> Router:
    """The router with policies that send every query to the reference tier."""
    return replace(router, policies={key: policy.at(0) for key, policy in router.policies.items()})


class _Flags:
    """What the model under test can do: everything its tiers can."""

    serving = "small"

    @pytest.fixture(autouse=True)
    def _parts(self, small_router: Router, small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.small_bundle = small_bundle
        self.router = (cheap if self.serving == "small" else careful)(small_router)
        # Pictures, documents and sounds: their content does not matter to a scripted tier.
        response = SimpleNamespace(content=b"made up", raise_for_status=lambda: None)
        monkeypatch.setattr("httpx.get", lambda *_args, **_kwargs: response)
        monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "tests")

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return RoutingChatModel

    @property
    def tiers(self) -> dict[str, ProviderModel]:
        modes = {"small": "tools", "medium": "json_schema", "large": "json_schema"}
        return {name: ProviderModel(model_name=name, native=mode) for name, mode in modes.items()}

    @property
    def chat_model_params(self) -> dict[str, Any]:
        uncalibrated = "cascade" if self.serving == "small" else "reference"
        return {"router": self.router, "tiers": self.tiers, "uncalibrated": uncalibrated}

    has_tool_calling = has_tool_choice = has_structured_output = supports_json_mode = True
    supports_image_inputs = supports_image_urls = supports_pdf_inputs = supports_audio_inputs = True
    supports_image_tool_message = supports_pdf_tool_message = supports_anthropic_inputs = True
    returns_usage_metadata = supports_model_override = enable_vcr_tests = True
    model_override_value = "other"
    supported_usage_metadata_details = {"invoke": DETAILS, "stream": DETAILS}  # noqa: RUF012 - as the suite declares it


@QUIET
class TestUnit(_Flags, ChatModelUnitTests):
    """The unit suite; it never calls the model, so that one way of routing is enough."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        """As in both ways of routing, and from a folder."""
        return {**super().chat_model_params, "bundle": str(self.small_bundle)}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        """The folder of the bundle can come from the environment."""
        folder = str(self.small_bundle.resolve())
        return {"ROUTENLP_BUNDLE": folder}, {"tiers": self.tiers}, {"bundle": folder}

    @pytest.fixture(autouse=True)
    def _listed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Name our classes where LangChain names those of its partners; it loads no others from "all"."""
        reviving = import_module("langchain_core.load.load")
        known = reviving._get_default_allowed_class_paths("all")
        ours = {tuple(kind.lc_id()) for kind in (RoutingChatModel, ProviderModel)}
        monkeypatch.setitem(reviving._default_class_paths_cache, "all", known | ours)
        monkeypatch.setattr(reviving, "DEFAULT_NAMESPACES", [*reviving.DEFAULT_NAMESPACES, "scripted"])

    @pytest.fixture
    def snapshot(self) -> Callable[..., Any]:
        """What a model must serialise to; a file could not hold the folder of a bundle made for this session."""
        told = {"reply": "The answer is good.", "usage": DETAILED, "names_itself": True, "finish_reason": "stop"}
        secret = {"lc": 1, "type": "secret", "id": ["SCRIPTED_API_KEY"]}
        tiers = {
            name: {
                "lc": 1,
                "type": "constructor",
                "id": ["scripted", "ProviderModel"],
                "kwargs": {"model_name": name, "api_key": secret, "native": tier.native, **told},
                "name": "ProviderModel",
            }
            for name, tier in self.tiers.items()
        }
        standard = {k: v for k, v in self.standard_chat_model_params.items() if k != "api_key"}
        params = {"uncalibrated": "cascade", "bundle": str(self.small_bundle), "bundle_id": self.router.bundle_id}
        kind = ["routenlp_integrations", "langchain", "chat_model", "RoutingChatModel"]
        return lambda name: {
            "lc": 1,
            "type": "constructor",
            "id": kind,
            "kwargs": {**standard, **params, "tiers": tiers},
        }


class _Integration(_Flags, ChatModelIntegrationTests):
    @pytest.fixture
    def vcr(self) -> SimpleNamespace:
        """A recording that is never played: nothing is sent."""
        return SimpleNamespace(responses=["none is needed"])

    def _counted(self, *, stream: bool) -> AIMessage:
        model = self.chat_model_class(**self.chat_model_params)
        if not stream:
            return model.invoke("Hello")
        merged: Any = None
        for chunk in model.stream("Hello"):
            merged = chunk if merged is None else merged + chunk
        return merged  # type: ignore[no-any-return]

    def invoke_with_audio_input(self, *, stream: bool = False) -> AIMessage:
        return self._counted(stream=stream)

    invoke_with_audio_output = invoke_with_reasoning_output = invoke_with_audio_input
    invoke_with_cache_read_input = invoke_with_cache_creation_input = invoke_with_audio_input


@QUIET
class TestIntegrationCheap(_Integration):
    """The integration suite where the cheap tier serves, tools and structured output included."""


@QUIET
class TestIntegrationReference(_Integration):
    """The integration suite where the reference tier serves."""

    serving = "large"


@pytest.mark.parametrize("how", ["invoke", "stream"])
@pytest.mark.parametrize("suite", [TestIntegrationCheap, TestIntegrationReference])
async def test_the_suites_run_on_the_tier_they_name(small_router: Router, suite: type[_Flags], how: str) -> None:
    """Neither suite would prove anything if its queries went elsewhere."""
    of = suite()
    of.router = (cheap if of.serving == "small" else careful)(small_router)
    model = RoutingChatModel(**of.chat_model_params)
    assert route_of(await ask(model, how, "Hello"))["tier"] == of.serving
    assert route_of(await ask(model.bind_tools([look_up]), how, "Hello"))["tier"] == of.serving
