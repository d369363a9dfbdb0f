"""A model with a router before its tiers, of whatever framework: what it is given, and what holds for every one."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, InstanceOf

from router_core.breaker import Breaker
from router_core.budget import Budget
from router_core.call_plan import StreamPolicy, Uncalibrated
from router_core.cascade import match_tiers
from router_core.errors import BundleError, InputError
from router_core.limits import Limits
from router_core.release import is_root
from router_core.retries import RetryPolicy
from router_core.route import Answer
from router_core.route_log import RouteLog
from router_core.router import Router
from router_core.sources import RouterSource
from router_core.sticky import Sticky
from router_core.walk import OnFailure, OnReferenceFailure

__all__ = ["BUNDLE_VARIABLE", "Assembled", "check_choices", "routed"]

BUNDLE_VARIABLE = "ROUTENLP_BUNDLE"
"""Environment variable with the folder of a bundle, read when none is given."""

_LIMITS = {"breaker": Breaker, "budget": Budget, "sticky": Sticky}
_CHOICES = {
    "stream_policy": StreamPolicy,
    "uncalibrated": Uncalibrated,
    "on_failure": OnFailure,
    "on_reference_failure": OnReferenceFailure,
}
_OF_THE_LOG = frozenset({"ledger", "audits", "tiers", "timeout"})


class Assembled(BaseModel):
    """The parts and the identity of a `RoutingChatModel` or a `RoutingLLM`, which document them."""

    _called: ClassVar[str]
    _also_given: ClassVar[frozenset[str]]
    """What the constructor is given beside the parameters, and makes nothing of."""

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
    timeout: float | dict[str, float] | None = None
    breaker: InstanceOf[Breaker] | None = None
    budget: InstanceOf[Budget] | None = None
    sticky: Literal["conversation"] | InstanceOf[Sticky] | None = None
    ledger: Any = Field(default=None, repr=False, exclude=True)
    audits: Any = Field(default=None, repr=False, exclude=True)

    # What is wrong is said without quoting what was given: a ledger's URL holds a password.
    model_config = ConfigDict(arbitrary_types_allowed=True, hide_input_in_errors=True)

    @classmethod
    def from_bundle(cls, path: str | Path, tiers: Mapping[str, Any], **params: Any) -> Self:
        """Load a bundle and put a model behind each of its tiers.

        Parameters
        ----------
        path
            Folder of the bundle, or a release ROOT, whose promotions are followed unless ``watch=False``.
        tiers
            ``{name: model}``, chat models for LangChain and LLMs for LlamaIndex; the names are the portfolio's.
        **params
            Everything else the class takes.

        Raises
        ------
        InputError
            When the names of the tiers are not the portfolio's (lists both sides), a tier is no such model, or a
            parameter is unknown.
        BundleError
            When the bundle is changed, incomplete, newer than this reader, or none.
        """
        cls._refuse_unknown(params)
        given = _loaded(path, watch=params.get("watch", True))
        match_tiers(tiers, given["router"].portfolio.names)
        for name, tier in tiers.items():
            cls._check(name, tier)
        return cls(**given, tiers=tiers, **params)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a parameter; what is made of the parameters is made anew, or a changed limit would limit nothing."""
        if self.__pydantic_private__ is None or not self._is_parameter(name):
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

    @classmethod
    def _refuse_unknown(cls, given: Mapping[str, Any]) -> None:
        known = {name for field, info in cls.model_fields.items() for name in (field, info.alias) if name}
        if unknown := sorted(set(given) - known - cls._also_given):
            msg = f"{cls._called} has no parameter {unknown[0]!r}; what a provider needs belongs to its tier"
            raise InputError(msg)

    # What each framework's model adds

    @classmethod
    def _check(cls, name: str, tier: Any) -> None:
        """Raise InputError for what cannot stand behind a tier."""
        raise NotImplementedError

    @classmethod
    def _is_parameter(cls, name: str) -> bool:
        """Whether something is made of the attribute of this name."""
        raise NotImplementedError

    def _assemble(self) -> None:
        """Make what is made of the parameters.

        Raises
        ------
        InputError
            When they do not fit together.
        """
        raise NotImplementedError

    def _open_log(self) -> None:
        """Open the ledger and make the auditor, once: models made of this one go on with both."""
        raise NotImplementedError

    # What they make it of

    def _limited(self, max_retries: int) -> Limits:
        """The limits, once choices, tiers and limits fit together."""
        check_choices(self.__dict__)
        names = self.router.portfolio.names
        match_tiers(self.tiers, names)
        limits = Limits(RetryPolicy(max_retries=max_retries), self.timeout, self.breaker, self.budget)
        limits.check(names)
        if self.sticky == "conversation":
            # Models made of this one (copies, configurable fields) must remember the same conversations.
            self.__dict__["sticky"] = Sticky()
        return limits

    def _opened(self, asked: Mapping[str, Callable[[Any], Any]]) -> RouteLog | None:
        log = RouteLog.of(self.ledger, self.audits, asked, self._price)
        if log is not None:
            self.__dict__.update(ledger=log.ledger, audits=log.auditor)
        return log

    def _pickled(self, log: RouteLog | None, without: set[str]) -> dict[str, Any]:
        """Parameters for a pickle: the ledger is opened again by its URL, and of audits the plan is kept."""
        given = {name: getattr(self, name) for name in self.model_fields_set - without - {"audits"}}
        if log is not None and log.auditor is not None:
            given |= {"ledger": log.ledger, "audits": log.auditor.plan}
        return given

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

    @property
    def _sticky(self) -> Sticky | None:
        return self.sticky if isinstance(self.sticky, Sticky) else None

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        # Tiers hold keys and headers; their names say enough.
        told = [("bundle", self.current.bundle_id[:12]), ("tiers", list(self.router.portfolio.names))]
        return [*told, ("task", self.task), ("stream_policy", self.stream_policy)]


def check_choices(given: Mapping[str, Any]) -> None:
    """Check the parameters that are one of a few words.

    Raises
    ------
    InputError
        When one of them is another word.
    """
    for name, known in _CHOICES.items():
        if name in given and given[name] not in get_args(known):
            msg = f"{name} = {given[name]!r} is unknown; use one of {', '.join(get_args(known))}"
            raise InputError(msg)


def routed(given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with the router that they name, and with limits made of their settings.

    Raises
    ------
    InputError
        When they name none, or settings are wrong.
    BundleError
        When there is no such bundle, it is changed, incomplete, or newer than this reader, or its id is another one
        than ``bundle_id``; what a ROOT holds may have changed.
    """
    made = {name: kind(**given[name]) for name, kind in _LIMITS.items() if isinstance(given.get(name), Mapping)}
    found = {**given, **made}
    wanted = found.pop("bundle_id", None)
    if found.get("releases") is not None:
        return {**found, "router": found["releases"].get()}
    if found.get("router") is None:
        bundle = found.get("bundle") or os.environ.get(BUNDLE_VARIABLE)
        if bundle is None:
            msg = f"no bundle was given; name its folder, or set {BUNDLE_VARIABLE}"
            raise InputError(msg)
        found |= _loaded(bundle, watch=found.get("watch", True))
    if wanted not in (None, found["router"].bundle_id) and found.get("releases") is None:
        msg = f"the bundle is another one than was serialised; its id is {found['router'].bundle_id}"
        raise BundleError(msg)
    return found


def _loaded(bundle: str | Path, *, watch: bool) -> dict[str, Any]:
    given: dict[str, Any] = {"bundle": str(Path(bundle).resolve())}
    if watch and is_root(Path(bundle)):
        releases = Router.watch(bundle)
        return {**given, "router": releases.get(), "releases": releases}
    return {**given, "router": Router.load(bundle)}
