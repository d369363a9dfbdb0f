"""A router with an LLM behind every tier: how it is put together, what it says of itself, how it is copied."""

from typing import Any, ClassVar, Self

from llama_index.core.base.llms.types import LLMMetadata
from llama_index.core.llms.function_calling import FunctionCallingLLM
from pydantic import PrivateAttr, ValidationError, field_serializer

from routenlp_integrations.assembled import Assembled, check_choices, routed
from routenlp_integrations.capabilities import Abilities
from routenlp_integrations.llama_index.capabilities import abilities_of, check_declared, common_metadata
from routenlp_integrations.llama_index.query import asking
from routenlp_integrations.llama_index.tiers import TierLLM
from router_core.errors import InputError, of_validation
from router_core.limits import Limits
from router_core.route_log import RouteLog

__all__ = ["AssembledLLM"]


class AssembledLLM(Assembled, FunctionCallingLLM):
    """The parts and the identity of a `RoutingLLM`, which documents them."""

    _called: ClassVar[str] = "RoutingLLM"
    # What `to_dict` says beside the parameters.
    _also_given: ClassVar[frozenset[str]] = frozenset({"bundle_id", "class_name"})

    is_function_calling_model: bool | None = None
    max_retries: int = 0

    _tiers: dict[str, TierLLM] = PrivateAttr(default_factory=dict)
    _abilities: dict[str, Abilities] = PrivateAttr(default_factory=dict)
    _metadata: LLMMetadata = PrivateAttr(default_factory=LLMMetadata)
    _limits: Limits = PrivateAttr(default_factory=Limits)
    _log: RouteLog | None = PrivateAttr(default=None)

    def __init__(self, **given: Any) -> None:
        self._refuse_unknown(given)
        # Here and not in validators, which would wrap what is raised.
        try:
            check_choices(given)
            super().__init__(**routed(given))
        except ValidationError as error:
            raise of_validation(self._called, error) from None
        self._assemble()
        self._open_log()

    @classmethod
    def _check(cls, name: str, tier: Any) -> None:
        TierLLM.of(name, tier)

    @classmethod
    def _is_parameter(cls, name: str) -> bool:
        return name in Assembled.model_fields or name in {"is_function_calling_model", "max_retries"}

    def _assemble(self) -> None:
        self._limits = self._limited(self.max_retries)
        names = self.router.portfolio.names
        check_declared(self.capabilities, names)
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
        asked = {name: asking(tier, self._limits.seconds(name)) for name, tier in self._tiers.items()}
        self._log = self._opened(asked)

    # What it is

    @classmethod
    def class_name(cls) -> str:
        """Class name."""
        return "RoutingLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What every tier can do; read from the tiers when they were given."""
        told, name = self._metadata, self._name
        return told if told.model_name == name else told.model_copy(update={"model_name": name})

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
        given = self._pickled(self._log, without={"callback_manager"})
        return _made, (type(self), given)


def _made(kind: type[AssembledLLM], given: dict[str, Any]) -> AssembledLLM:
    """Inverse of `AssembledLLM.__reduce__`."""
    return kind(**given)
