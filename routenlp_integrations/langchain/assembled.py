"""A router with a chat model behind every tier: how it is put together, what it says of itself, how it is copied."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

from langchain_core.language_models import BaseChatModel, LangSmithParams, ModelProfile
from langchain_core.load.serializable import SerializedConstructor, SerializedNotImplemented
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, Generation
from pydantic import ConfigDict, Field, InstanceOf, PrivateAttr, ValidationError, model_validator

from routenlp_integrations.langchain.capabilities import abilities_of, check_declared, common_profile
from routenlp_integrations.langchain.configured import CONVERSATION, RUN, ConfiguredChatModel
from routenlp_integrations.langchain.messages import recalled
from routenlp_integrations.langchain.planning import StreamPolicy, Uncalibrated
from routenlp_integrations.langchain.query import Parts, asking
from routenlp_integrations.langchain.serialising import Frozen, as_json, frozen
from routenlp_integrations.langchain.tiers import TierModel
from router_core.breaker import Breaker
from router_core.budget import Budget
from router_core.cascade import OnFailure, OnReferenceFailure, match_tiers
from router_core.errors import BundleError, InputError, of_validation
from router_core.limits import Limits
from router_core.policy import CASCADE
from router_core.release import is_root
from router_core.retries import RetryPolicy
from router_core.route import Answer
from router_core.route_log import RouteLog
from router_core.router import Router
from router_core.sources import RouterSource
from router_core.sticky import Sticky

__all__ = ["BUNDLE_VARIABLE", "AssembledChatModel", "loaded"]

BUNDLE_VARIABLE = "ROUTENLP_BUNDLE"
"""Environment variable with the folder of a bundle, read when none is given."""

_LIMITS = {"breaker": Breaker, "budget": Budget, "sticky": Sticky}
_LIMITED = Breaker | Budget | Sticky
_OF_THE_LOG = frozenset({"ledger", "audits", "tiers", "timeout"})


class AssembledChatModel(ConfiguredChatModel):
    """The parts and the identity of a `RoutingChatModel`, which documents them."""

    bundle: str | None = None
    router: InstanceOf[Router] = Field(repr=False, exclude=True)
    releases: InstanceOf[RouterSource] | None = Field(default=None, repr=False, exclude=True)
    watch: bool = True
    tiers: Mapping[str, Any] = Field(repr=False, exclude=True)
    task: str | None = None
    stream_policy: StreamPolicy = "auto"
    capabilities: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    uncalibrated: Uncalibrated = "reference"
    on_failure: OnFailure = "reference"
    on_reference_failure: OnReferenceFailure = "raise"
    temperature: float | None = None
    max_tokens: int | None = None
    timeout: float | dict[str, float] | None = None
    stop: list[str] | None = Field(default=None, alias="stop_sequences")
    max_retries: int | None = None
    breaker: InstanceOf[Breaker] | None = None
    budget: InstanceOf[Budget] | None = None
    sticky: Literal["conversation"] | InstanceOf[Sticky] | None = None
    streaming: bool = False
    ledger: Any = Field(default=None, repr=False, exclude=True)
    audits: Any = Field(default=None, repr=False, exclude=True)

    # What is wrong is said without quoting what was given: a ledger's URL holds a password.
    model_config = ConfigDict(populate_by_name=True, arbitrary_types_allowed=True, hide_input_in_errors=True)

    # One object, since Pydantic takes a microsecond to find a private attribute.
    _parts: Parts = PrivateAttr(default=Parts({}, {}, {}, Limits()))

    def __init__(self, *args: Any, **params: Any) -> None:
        try:
            super().__init__(*args, **params)
        except ValidationError as error:
            raise of_validation("RoutingChatModel", error) from None
        # Here and not in a validator, which would wrap its errors.
        self._open_log()

    @model_validator(mode="before")
    @classmethod
    def _load(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        made = {name: kind(**given[name]) for name, kind in _LIMITS.items() if isinstance(given.get(name), Mapping)}
        given = {**given, **made}
        if given.get("releases") is not None:
            return {**given, "router": given["releases"].get()}
        if given.get("router") is not None:
            return given
        bundle = given.get("bundle") or os.environ.get(BUNDLE_VARIABLE)
        if bundle is None:
            msg = f"no bundle was given; name its folder, or set {BUNDLE_VARIABLE}"
            raise InputError(msg)
        given = {**given, **loaded(bundle, watch=given.get("watch", True))}
        bundle_id = given["router"].bundle_id
        if given.get("bundle_id") not in (None, bundle_id) and "releases" not in given:
            msg = f"bundle {bundle} is another one than was serialised; its id is {bundle_id}"
            raise BundleError(msg)
        return given

    @model_validator(mode="after")
    def _match(self) -> Self:
        self._assemble()
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a parameter; what is made of the parameters is made anew, or a changed limit would limit nothing."""
        if name not in type(self).model_fields or self.__pydantic_private__ is None:
            super().__setattr__(name, value)
            return
        before = getattr(self, name)
        super().__setattr__(name, value)
        try:
            self._assemble()
            if name in _OF_THE_LOG:
                self._open_log()
        except InputError:
            super().__setattr__(name, before)
            self._assemble()
            raise

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some parameters changed; see `BaseModel.model_copy`."""
        copied = super().model_copy(update=update, deep=deep)
        if update:
            copied._assemble()
            copied._open_log()
        return copied

    def _assemble(self) -> None:
        """Make what is made of the parameters.

        Raises
        ------
        InputError
            When they do not fit together.
        """
        for what, known in (("stream_policy", StreamPolicy), ("uncalibrated", Uncalibrated)):
            if getattr(self, what) not in get_args(known):
                msg = f"{what} = {getattr(self, what)!r} is unknown; use one of {', '.join(get_args(known))}"
                raise InputError(msg)
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise InputError(f"temperature = {self.temperature!r} must be a number, 0 or more")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InputError(f"max_tokens = {self.max_tokens!r} must be 1 or more")
        names = self.router.portfolio.names
        match_tiers(self.tiers, names)
        check_declared(self.capabilities, names)
        retries = RetryPolicy(max_retries=self.max_retries or 0)
        limits = Limits(retries, self.timeout, self.breaker, self.budget)
        limits.check(names)
        if self.sticky == "conversation":
            # Models made of this one (configurable fields) must remember the same conversations.
            self.sticky = Sticky()
        models = {name: TierModel.of(name, self.tiers[name]) for name in names}
        abilities = {name: abilities_of(tier, self.capabilities.get(name, {})) for name, tier in models.items()}
        told = {name: tier.identity for name, tier in models.items()}
        self._parts = Parts(models, abilities, told, limits, self._parts.log)
        if self.output_version is None and {tier.model.output_version for tier in models.values()} == {"v1"}:
            self.output_version = "v1"

    def _open_log(self) -> None:
        """Open the ledger and make the auditor, once: models made of this one go on with both."""
        parts = self._parts
        asked = {name: asking(tier, parts.limits.seconds(name)) for name, tier in parts.models.items()}
        log = RouteLog.of(self.ledger, self.audits, asked, self._price)
        self._parts = replace(parts, log=log)
        if log is not None:
            self.__dict__.update(ledger=log.ledger, audits=log.auditor)

    @property
    def _reference(self) -> BaseChatModel:
        return self._parts.models[self.current.portfolio.reference.name].model

    def _price(self, tier: str, prompt: str, answer: Answer) -> float:
        return self.current.price(tier, prompt, answer)

    # What it is

    @property
    def current(self) -> Router:
        """The router that the next query takes: of a watched ROOT the current release's."""
        return self.router if self.releases is None else self.releases.get()

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

    @property
    def _name(self) -> str:
        return f"routenlp-{self.current.bundle_id[:12]}"

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        # Tiers hold keys and headers; their names say enough.
        told = [("bundle", self.current.bundle_id[:12]), ("tiers", list(self._parts.models))]
        return [*told, ("task", self.task), ("stream_policy", self.stream_policy)]

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
        given = {name: getattr(self, name) for name in self.model_fields_set if name not in ("tiers", "audits")}
        log = self._parts.log
        if log is not None and log.auditor is not None:
            given |= {"ledger": log.ledger, "audits": log.auditor.plan}
        return _thawed, (type(self), given, {name: frozen(tier) for name, tier in self.tiers.items()})

    @property
    def _sticky(self) -> Sticky | None:
        return self.sticky if isinstance(self.sticky, Sticky) else None

    @property
    def _follows_conversations(self) -> bool:
        return self._sticky is not None or (self.budget is not None and self.budget.per == "run")

    @property
    def _by_conversation(self) -> bool:
        return self._parts.log is not None or self._follows_conversations

    def _check_tier(self, name: str) -> None:
        self.current.portfolio.index(name)


def loaded(bundle: str | Path, *, watch: bool) -> dict[str, Any]:
    """Parameters that say what is routed by: the bundle in a folder, or the releases of a ROOT.

    Raises
    ------
    BundleError
        When there is none, or it is changed, incomplete, or newer than this reader.
    """
    given: dict[str, Any] = {"bundle": str(Path(bundle).resolve())}
    if watch and is_root(Path(bundle)):
        releases = Router.watch(bundle)
        return {**given, "router": releases.get(), "releases": releases}
    return {**given, "router": Router.load(bundle)}


def _thawed(kind: type[AssembledChatModel], given: dict[str, Any], tiers: dict[str, Any]) -> AssembledChatModel:
    """Inverse of `AssembledChatModel.__reduce__`."""
    made = {name: tier.thawed() if isinstance(tier, Frozen) else tier for name, tier in tiers.items()}
    return kind(**given, tiers=made)
