"""A router with a chat model behind every tier: how it is put together, what it says of itself, how it is copied."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

from langchain_core.language_models import BaseChatModel, LangSmithParams, ModelProfile
from langchain_core.load.serializable import SerializedConstructor, SerializedNotImplemented
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, Generation
from pydantic import ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from routenlp_integrations.assembled import Assembled, routed
from routenlp_integrations.langchain.capabilities import abilities_of, check_declared, common_profile
from routenlp_integrations.langchain.configured import CONVERSATION, RUN, ConfiguredChatModel
from routenlp_integrations.langchain.messages import recalled
from routenlp_integrations.langchain.query import Parts, asking
from routenlp_integrations.langchain.serialising import Frozen, as_json, frozen
from routenlp_integrations.langchain.tiers import TierModel
from router_core.breaker import Breaker
from router_core.budget import Budget
from router_core.errors import InputError, of_validation
from router_core.limits import Limits
from router_core.policy import CASCADE
from router_core.sticky import Sticky

__all__ = ["AssembledChatModel"]

_LIMITED = Breaker | Budget | Sticky


class AssembledChatModel(Assembled, ConfiguredChatModel):
    """The parts and the identity of a `RoutingChatModel`, which documents them."""

    _called: ClassVar[str] = "RoutingChatModel"
    # What is serialised, and what LangChain's own suite gives every chat model; keys belong to the tiers.
    _also_given: ClassVar[frozenset[str]] = frozenset({"bundle_id", "api_key"})

    temperature: float | None = None
    max_tokens: int | None = None
    stop: list[str] | None = Field(default=None, alias="stop_sequences")
    max_retries: int | None = None
    streaming: bool = False

    model_config = ConfigDict(populate_by_name=True)

    # One object, since Pydantic takes a microsecond to find a private attribute.
    _parts: Parts = PrivateAttr(default=Parts({}, {}, {}, Limits()))

    def __init__(self, *args: Any, **params: Any) -> None:
        self._refuse_unknown(params)
        try:
            super().__init__(*args, **params)
        except ValidationError as error:
            raise of_validation(self._called, error) from None
        # Here and not in a validator, which would wrap its errors.
        self._open_log()

    @model_validator(mode="before")
    @classmethod
    def _load(cls, given: Any) -> Any:
        return routed(given) if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _match(self) -> Self:
        self._assemble()
        return self

    @classmethod
    def _check(cls, name: str, tier: Any) -> None:
        TierModel.of(name, tier)

    @classmethod
    def _is_parameter(cls, name: str) -> bool:
        return name in cls.model_fields

    def _assemble(self) -> None:
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise InputError(f"temperature = {self.temperature!r} must be a number, 0 or more")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InputError(f"max_tokens = {self.max_tokens!r} must be 1 or more")
        limits = self._limited(self.max_retries or 0)
        names = self.router.portfolio.names
        check_declared(self.capabilities, names)
        models = {name: TierModel.of(name, self.tiers[name]) for name in names}
        abilities = {name: abilities_of(tier, self.capabilities.get(name, {})) for name, tier in models.items()}
        told = {name: tier.identity for name, tier in models.items()}
        self._parts = Parts(models, abilities, told, limits, self._parts.log)
        if self.output_version is None and {tier.model.output_version for tier in models.values()} == {"v1"}:
            self.output_version = "v1"

    def _open_log(self) -> None:
        parts = self._parts
        asked = {name: asking(tier, parts.limits.seconds(name)) for name, tier in parts.models.items()}
        self._parts = replace(parts, log=self._opened(asked))

    @property
    def _reference(self) -> BaseChatModel:
        return self._parts.models[self.current.portfolio.reference.name].model

    # What it is

    @property
    def _llm_type(self) -> str:
        return "routenlp"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {
            "model_name": self._name,
            "bundle": self.current.bundle_id,
            "tiers": self._parts.told,
            "task": self.task,
            "policies": {"invoke": CASCADE, "stream": self.stream_policy},
            "capabilities": {name: dict(stated) for name, stated in self.capabilities.items()},
            "uncalibrated": self.uncalibrated,
            "on_failure": self.on_failure,
            "on_reference_failure": self.on_reference_failure,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "timeout": self.timeout,
            "max_retries": self.max_retries,
            "budget": None if self.budget is None else self.budget.settings,
            "sticky": None if self._sticky is None else self._sticky.settings,
            "stop_sequences": self.stop,
        }

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        # The serialised form, which LangChain would take, does not say what the bundle at its path holds.
        kwargs.pop(RUN, None)
        if not self._follows_conversations:
            kwargs.pop(CONVERSATION, None)
        # An answer kept under a certificate must not outlive it.
        lapsed = {"lapsed": self.current.lapses.lapsed}
        return str(sorted({**self._get_invocation_params(stop=stop), **kwargs, **lapsed}.items()))

    def _convert_cached_generations(self, cache_val: list[Generation]) -> list[ChatGeneration]:
        return [recalled(generation) for generation in super()._convert_cached_generations(cache_val)]

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **{"model": self._name, **kwargs})
        params["ls_provider"] = "routenlp"
        params.setdefault("ls_model_name", self._name)
        return params

    def _resolve_model_profile(self) -> ModelProfile | None:
        models = [TierModel.of(name, tier) for name, tier in self.tiers.items()]
        return common_profile([abilities_of(tier, self.capabilities.get(tier.name, {})) for tier in models])

    def get_num_tokens(self, text: str) -> int:
        """Tokens of a text, as the reference tier counts them."""
        return self._reference.get_num_tokens(text)

    def get_token_ids(self, text: str) -> list[int]:
        """Token ids of a text, as the reference tier numbers them."""
        return self._reference.get_token_ids(text)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Tokens of a conversation, as the reference tier counts them."""
        told = {"tools": tools} if tools else {}
        return self._reference.get_num_tokens_from_messages(messages, **told)

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Serialisable where it was loaded from a folder and its tiers are."""
        return True

    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        """LangChain's JSON without secrets; see `routenlp_integrations.langchain.serialising`."""
        own: dict[str, Any] = {
            name: getattr(self, name)
            for name, field in type(self).model_fields.items()
            if name not in ("bundle", "callbacks") and not field.exclude and name in self.model_fields_set
        }
        own = {name: value.settings if isinstance(value, _LIMITED) else value for name, value in own.items()}
        # What a ROOT holds may change until it is read again.
        bundle_id = None if self.releases is not None else self.router.bundle_id
        return as_json(self, self.bundle, bundle_id, self.tiers, own)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy that shares the router, which nobody changes, and the tiers, which hold open clients."""
        shared = {} if memo is None else memo
        shared.update({id(part): part for part in (self.router, *self.tiers.values())})
        shared.update({id(tier.model): tier.model for tier in self._parts.models.values()})
        return super().__deepcopy__(shared)

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle carries the router whole: it works where the bundle's folder is not.

        The ledger is opened again by its URL, which holds its password, and of audits the plan is kept.
        """
        given = self._pickled(self._parts.log, without={"tiers"})
        return _thawed, (type(self), given, {name: frozen(tier) for name, tier in self.tiers.items()})

    @property
    def _follows_conversations(self) -> bool:
        return self._sticky is not None or (self.budget is not None and self.budget.per == "run")

    @property
    def _by_conversation(self) -> bool:
        return self._parts.log is not None or self._follows_conversations

    def _check_tier(self, name: str) -> None:
        self.current.portfolio.index(name)


def _thawed(kind: type[AssembledChatModel], given: dict[str, Any], tiers: dict[str, Any]) -> AssembledChatModel:
    """Inverse of `AssembledChatModel.__reduce__`."""
    made = {name: tier.thawed() if isinstance(tier, Frozen) else tier for name, tier in tiers.items()}
    return kind(**given, tiers=made)
