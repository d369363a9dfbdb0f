"""A router with an LLM behind every tier: how it is put together, what it says of itself, how it is copied."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_args

from llama_index.core.base.llms.types import LLMMetadata
from llama_index.core.llms.function_calling import FunctionCallingLLM
from pydantic import ConfigDict, Field, InstanceOf, PrivateAttr, ValidationError, field_serializer

from routenlp_integrations.llama_index.capabilities import Abilities, abilities_of, check_declared, common_metadata
from routenlp_integrations.llama_index.query import asking
from routenlp_integrations.llama_index.tiers import TierLLM
from router_core.breaker import Breaker
from router_core.budget import Budget
from router_core.call_plan import StreamPolicy, Uncalibrated
from router_core.cascade import match_tiers
from router_core.errors import BundleError, InputError, of_validation
from router_core.limits import Limits
from router_core.release import is_root
from router_core.retries import RetryPolicy
from router_core.route import Answer
from router_core.route_log import RouteLog
from router_core.router import Router
from router_core.sources import RouterSource
from router_core.sticky import Sticky
from router_core.walk import OnFailure, OnReferenceFailure

__all__ = ["BUNDLE_VARIABLE", "AssembledLLM", "loaded"]

BUNDLE_VARIABLE = "ROUTENLP_BUNDLE"
"""Environment variable with the folder of a bundle, read when none is given."""

_LIMITS = {"breaker": Breaker, "budget": Budget, "sticky": Sticky}
_CHOICES = {
    "stream_policy": StreamPolicy,
    "uncalibrated": Uncalibrated,
    "on_failure": OnFailure,
    "on_reference_failure": OnReferenceFailure,
}


# What `to_dict` says beside the parameters.
_SERIALISED = frozenset({"bundle_id", "class_name"})
_OF_THE_LOG = frozenset({"ledger", "audits", "tiers", "timeout"})


class AssembledLLM(FunctionCallingLLM):
    """The parts and the identity of a `RoutingLLM`, which documents them."""

    bundle: str | None = None
    router: InstanceOf[Router] = Field(repr=False, exclude=True)
    releases: InstanceOf[RouterSource] | None = Field(default=None, repr=False, exclude=True)
    watch: bool = True
    tiers: Mapping[str, Any] = Field(repr=False, exclude=True)
    task: str | None = None
    stream_policy: StreamPolicy = "auto"
    capabilities: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    is_function_calling_model: bool | None = None
    uncalibrated: Uncalibrated = "reference"
    on_failure: OnFailure = "reference"
    on_reference_failure: OnReferenceFailure = "raise"
    timeout: float | dict[str, float] | None = None
    max_retries: int = 0
    breaker: InstanceOf[Breaker] | None = None
    budget: InstanceOf[Budget] | None = None
    sticky: Literal["conversation"] | InstanceOf[Sticky] | None = None
    ledger: Any = Field(default=None, repr=False, exclude=True)
    audits: Any = Field(default=None, repr=False, exclude=True)

    # What is wrong is said without quoting what was given: a ledger's URL holds a password.
    model_config = ConfigDict(arbitrary_types_allowed=True, hide_input_in_errors=True)

    _tiers: dict[str, TierLLM] = PrivateAttr(default_factory=dict)
    _abilities: dict[str, Abilities] = PrivateAttr(default_factory=dict)
    _metadata: LLMMetadata = PrivateAttr(default_factory=LLMMetadata)
    _limits: Limits = PrivateAttr(default_factory=Limits)
    _sticky: Sticky | None = PrivateAttr(default=None)
    _log: RouteLog | None = PrivateAttr(default=None)

    def __init__(self, **given: Any) -> None:
        if unknown := sorted(set(given) - set(type(self).model_fields) - _SERIALISED):
            msg = f"RoutingLLM has no parameter {unknown[0]!r}; what a provider needs belongs to its tier"
            raise InputError(msg)
        # Here and not in validators, which would wrap what is raised.
        try:
            super().__init__(**_loaded(given))
        except ValidationError as error:
            raise of_validation("RoutingLLM", error) from None
        self._assemble()
        self._open_log()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a parameter; what is made of the parameters is made anew, or a changed limit would limit nothing."""
        if name not in AssembledLLM.__annotations__ or name.startswith("_") or self.__pydantic_private__ is None:
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
        for name, known in _CHOICES.items():
            if getattr(self, name) not in get_args(known):
                msg = f"{name} = {getattr(self, name)!r} is unknown; use one of {', '.join(get_args(known))}"
                raise InputError(msg)
        names = self.router.portfolio.names
        match_tiers(self.tiers, names)
        check_declared(self.capabilities, names)
        self._limits = Limits(RetryPolicy(max_retries=self.max_retries), self.timeout, self.breaker, self.budget)
        self._limits.check(names)
        self._sticky = Sticky() if self.sticky == "conversation" else self.sticky
        if self._sticky is not self.sticky:
            # Copies of this one must remember the same conversations.
            self.__dict__["sticky"] = self._sticky
        self._tiers = {name: TierLLM.of(name, self.tiers[name]) for name in names}
        self._abilities = {
            name: abilities_of(tier, self.capabilities.get(name, {})) for name, tier in self._tiers.items()
        }
        if self.is_function_calling_model and not any(a["is_function_calling_model"] for a in self._abilities.values()):
            msg = "is_function_calling_model is True, but no tier is a function-calling model"
            raise InputError(msg)
        self._metadata = common_metadata(
            self._name,
            list(self._tiers.values()),
            self._abilities,
            self.is_function_calling_model,
        )

    def _open_log(self) -> None:
        """Open the ledger and make the auditor, once: LLMs made of this one go on with both."""
        asked = {name: asking(tier, self._limits.seconds(name)) for name, tier in self._tiers.items()}
        self._log = RouteLog.of(self.ledger, self.audits, asked, self._price)
        if self._log is not None:
            self.__dict__.update(ledger=self._log.ledger, audits=self._log.auditor)

    def _price(self, tier: str, prompt: str, answer: Answer) -> float:
        return self.current.price(tier, prompt, answer)

    # What it is

    @property
    def current(self) -> Router:
        """The router that the next query takes: of a watched ROOT the current release's."""
        return self.router if self.releases is None else self.releases.get()

    @property
    def _name(self) -> str:
        return f"routenlp-{self.current.bundle_id[:12]}"

    @classmethod
    def class_name(cls) -> str:
        """Class name."""
        return "RoutingLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What every tier can do; read from the tiers when they were given."""
        told, name = self._metadata, self._name
        return told if told.model_name == name else told.model_copy(update={"model_name": name})

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        # Tiers hold keys and headers; their names say enough.
        told = [("bundle", self.current.bundle_id[:12]), ("tiers", list(self._tiers))]
        return [*told, ("task", self.task), ("stream_policy", self.stream_policy)]

    @field_serializer("breaker", "budget", "sticky")
    def _settings(self, value: Any) -> Any:
        return None if value is None else value.settings

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Folder and id of the bundle and the parameters, as plain values; tiers, which hold keys, are left out.

        ``RoutingLLM.from_dict(told, tiers=...)`` makes it again. What a ROOT holds may change until then: it has no id.
        """
        return {**super().to_dict(**kwargs), **({} if self.releases else {"bundle_id": self.router.bundle_id})}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy that shares the router, which nobody changes, and the tiers, which hold open clients."""
        shared = {} if memo is None else memo
        shared.update({id(part): part for part in (self.router, self.callback_manager, *self.tiers.values())})
        shared.update({id(tier): tier for tier in self._tiers.values()})
        return super().__deepcopy__(shared)

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle carries the router whole: it works where the bundle's folder is not. Callbacks stay behind.

        The ledger is opened again by its URL, which holds its password, and of audits the plan is kept.
        """
        given = {n: getattr(self, n) for n in self.model_fields_set if n not in ("callback_manager", "audits")}
        if self._log is not None and self._log.auditor is not None:
            given |= {"ledger": self._log.ledger, "audits": self._log.auditor.plan}
        return _made, (type(self), given)


def _made(kind: type[AssembledLLM], given: dict[str, Any]) -> AssembledLLM:
    """Inverse of `AssembledLLM.__reduce__`."""
    return kind(**given)


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


def _loaded(given: dict[str, Any]) -> dict[str, Any]:
    """The parameters with the router of the bundle, and with limits made of their settings."""
    for name, known in _CHOICES.items():
        if name in given and given[name] not in get_args(known):
            msg = f"{name} = {given[name]!r} is unknown; use one of {', '.join(get_args(known))}"
            raise InputError(msg)
    made = {name: kind(**given[name]) for name, kind in _LIMITS.items() if isinstance(given.get(name), Mapping)}
    given = {**given, **made}
    wanted = given.pop("bundle_id", None)
    if given.get("releases") is not None:
        given["router"] = given["releases"].get()
    if given.get("router") is None:
        bundle = given.get("bundle") or os.environ.get(BUNDLE_VARIABLE)
        if bundle is None:
            msg = f"no bundle was given; name its folder, or set {BUNDLE_VARIABLE}"
            raise InputError(msg)
        given |= loaded(bundle, watch=given.get("watch", True))
    if wanted not in (None, given["router"].bundle_id) and given.get("releases") is None:
        msg = f"the bundle is another one than was serialised; its id is {given['router'].bundle_id}"
        raise BundleError(msg)
    return given
