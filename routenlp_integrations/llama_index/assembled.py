"""A router with an LLM behind every tier: how it is put together, what it says of itself, how it is copied."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from llama_index.core.base.llms.generic_utils import messages_to_prompt
from llama_index.core.base.llms.types import ChatMessage, LLMMetadata
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import default_completion_to_prompt
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.types import BaseOutputParser
from pydantic import PrivateAttr, ValidationError, field_serializer

from routenlp_integrations.assembled import Assembled, check_choices, routed
from routenlp_integrations.capabilities import Abilities
from routenlp_integrations.llama_index.capabilities import abilities_of, check_declared, common_metadata
from routenlp_integrations.llama_index.prompts import (
    SETTINGS,
    MarkedMessages,
    MarkedText,
    Template,
    added_tokens,
)
from routenlp_integrations.llama_index.query import asking
from routenlp_integrations.llama_index.tiers import TierLLM
from router_core.errors import InputError, of_validation
from router_core.limits import Limits
from router_core.route_log import RouteLog
from router_core.router import estimate_tokens

__all__ = ["AssembledLLM"]


# Passed as None, they are set to LlamaIndex's own before there is anything to assemble.
_FUNCTIONS = {"messages_to_prompt": None, "completion_to_prompt": None}
# They act on the answer, whichever tier gave it.
_ON_ANSWERS = ("output_parser", "pydantic_program_mode")


class AssembledLLM(Assembled, FunctionCallingLLM):
    """The parts and the identity of a `RoutingLLM`, which documents them."""

    _called: ClassVar[str] = "RoutingLLM"
    # What `to_dict` says beside the parameters.
    _also_given: ClassVar[frozenset[str]] = frozenset({"bundle_id", "class_name"})

    is_function_calling_model: bool | None = None
    max_retries: int = 0

    _tiers: dict[str, TierLLM] = PrivateAttr(default_factory=dict)
    _abilities: dict[str, Abilities] = PrivateAttr(default_factory=dict)
    _added: dict[str, int] = PrivateAttr(default_factory=dict)
    _metadata: LLMMetadata = PrivateAttr(default_factory=LLMMetadata)
    _limits: Limits = PrivateAttr(default_factory=Limits)
    _log: RouteLog | None = PrivateAttr(default=None)

    def __init__(self, **given: Any) -> None:
        self._refuse_unknown(given)
        # Here and not in validators, which would wrap what is raised.
        try:
            check_choices(given)
            super().__init__(**{**_FUNCTIONS, **routed(given)})
        except ValidationError as error:
            raise of_validation(self._called, error) from None
        self._assemble()
        self._open_log()

    @classmethod
    def _check(cls, name: str, tier: Any) -> None:
        TierLLM.of(name, tier)

    @classmethod
    def _is_parameter(cls, name: str) -> bool:
        own = {"is_function_calling_model", "max_retries", *SETTINGS, *_ON_ANSWERS}
        return name in Assembled.model_fields or name in own

    def _assemble(self) -> None:
        self._limits = self._limited(self.max_retries)
        names = self.router.portfolio.names
        check_declared(self.capabilities, names)
        settings = {name: getattr(self, name) for name in SETTINGS if self._given(name)}
        self._tiers = {name: TierLLM.of(name, self.tiers[name], settings) for name in names}
        self._check_swapped()
        self._share()
        self._added = {name: added_tokens(tier.quiet, estimate_tokens) for name, tier in self._tiers.items()}
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

    def _check_swapped(self) -> None:
        """Refuse an LLM that is another tier: where answers do not name their model, nothing else would notice."""
        tiers = self.router.portfolio.tiers
        for tier in tiers:
            told = self._tiers[tier.name].llm.metadata.model_name
            if tier.model is None or told in (tier.model, tier.name):
                continue
            if other := next((one.name for one in tiers if told in (one.model, one.name)), None):
                msg = f"the LLM of tier {tier.name!r} is {told!r}, the model of tier {other!r}; were they swapped?"
                raise InputError(msg)

    def _given(self, name: str) -> bool:
        """Whether a field of `LLM` was given a value of its own."""
        default = (None, messages_to_prompt, default_completion_to_prompt)
        return name in self.model_fields_set and getattr(self, name) not in default

    def _share(self) -> None:
        """Take over what the tiers would do to answers alone, where they all do the same."""
        for name in _ON_ANSWERS:
            if self._given(name):
                continue
            first, *others = (getattr(tier.llm, name) for tier in self._tiers.values())
            if any(other is not first for other in others):
                msg = f"the tiers differ in {name}, which is for all answers; give {self._called} its own"
                raise InputError(msg)
            self.__dict__[name] = first

    def _open_log(self) -> None:
        asked = {name: asking(tier, self._limits.seconds(name)) for name, tier in self._tiers.items()}
        self._log = self._opened(asked)

    # What `predict` and programs make of a template: every tier makes its own, and what is said here is routed

    def _get_messages(self, prompt: BasePromptTemplate, **prompt_args: Any) -> list[ChatMessage]:
        template = Template.of(prompt, prompt_args)
        messages = list(super()._get_messages(template.prompt, **prompt_args))
        return MarkedMessages(messages, template.making(messages, self))

    def _get_prompt(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        template = self._template(prompt, prompt_args)
        said = template.prompt.format(llm=self, messages_to_prompt=messages_to_prompt, **prompt_args)
        return MarkedText.of(said if self.output_parser is None else self.output_parser.format(said), template)

    def _template(
        self, prompt: BasePromptTemplate, args: Mapping[str, Any], parser: BaseOutputParser | None = None
    ) -> Template:
        """A template of a completion; where some tiers chat, with the messages that it is for them."""
        template = Template.of(prompt, args, parser)
        if not any(tier.chats for tier in self._tiers.values()):
            return template
        messages = template.prompt.format_messages(llm=self, **args)
        if parser is None and self.output_parser is not None:
            messages = self.output_parser.format_messages(messages)
        return template.making(messages, self)

    def _extend_messages(self, messages: list[ChatMessage]) -> list[ChatMessage]:
        return MarkedMessages(messages)

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
