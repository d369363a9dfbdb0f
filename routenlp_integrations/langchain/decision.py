"""`RoutingDecisionModel`: a LangChain decision model that is a local, calibrated router (langchain-core >= 1.8)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from langchain_core.messages import BaseMessage, HumanMessage, convert_to_messages
from langchain_core.version import VERSION
from pydantic import ConfigDict, Field, InstanceOf, model_validator

from routenlp_integrations.langchain.messages import turns
from routenlp_integrations.langchain.planning import content_departure
from routenlp_integrations.langchain.run_config import task_and_tier
from router_core.cascade import match_tiers
from router_core.errors import InputError, MissingExtraError
from router_core.policy import ROUTE_ONLY
from router_core.route_text import route_text
from router_core.router import Decision, Router

try:
    from langchain_core.decisions import (  # type: ignore[import-not-found]
        BaseDecisionModel,
        Choice,
        ChoiceAnswer,
        ClassifierResponse,
        Noul,
        NoulAnswer,
    )
except ModuleNotFoundError as error:
    if error.name != "langchain_core.decisions":
        raise
    needs = f"use RoutingDecisionModel, with langchain-core 1.8 or newer ({VERSION} is installed)"
    raise MissingExtraError("agents", needs, ("langchain-core>=1.8", "langchain>=1.5")) from error

__all__ = ["RoutingDecisionModel"]


class RoutingDecisionModel(BaseDecisionModel):  # type: ignore[misc]
    """Answers "which model?" by the bundle's ``route_only`` policy: no network, no key, no tokens.

    It drives LangChain's `ModelRouterMiddleware`, whose choices are then the portfolio's tiers. The criteria and
    instructions of a question are not read: what a tier is good for was learnt from records.

    A `Choice` whose labels are the tiers is answered with

    - ``choice``: the label of the tier the policy decides on, which is the cheapest one whose risk was shown to be
      acceptable and not the most probable one;
    - ``confidence``: the router's probability that the chosen tier's answer is not bad, 1 for the reference tier,
      against which bad is measured;
    - ``probabilities``: the same probability of every tier, divided by their sum, as the interface wants a
      distribution. Tiers may all pass, so read these as relative figures only.

    A `Noul` whose question id is a label is answered with the probability that this tier's answer is not bad.

    The certificate of the bundle covers the choice for plain questions in the state. A decision model sees neither
    the tools of an agent nor the answers, and its response has no field for a certificate: ``model`` names the
    bundle, and ``router.decide(text)`` tells the certificate and the reason. A state with images or tool calls,
    which calib did not have, goes to the reference tier. `RoutingMiddleware` says of each call what covers it.

    ``config={"configurable": {"task": "t", "tier": "frontier"}}`` names the task and forces a tier.

    Parameters
    ----------
    router
        A loaded router; `from_bundle` loads one.
    task
        Task of every state, ``"task"`` or ``"task/subtask"``. None is the only task, or any.
    labels
        ``{label: tier}`` where the labels of the questions are not the tiers' own names; one label for every tier.
    model
        What the response names as its model; by default ``"routenlp-"`` and the first twelve digits of the bundle id.

    Raises
    ------
    InputError
        When `labels` does not name every tier once; when a state holds neither text nor messages; when a question
        is no `Choice` among the labels and no `Noul` about one.
    """

    router: InstanceOf[Router] = Field(repr=False, exclude=True)
    task: str | None = None
    labels: Mapping[str, str] | None = None
    model: str = ""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    @classmethod
    def from_bundle(cls, path: str | Path, **params: Any) -> Self:
        """Load a bundle.

        Parameters
        ----------
        path
            Folder of the bundle.
        **params
            Everything else the class takes.

        Raises
        ------
        BundleError
            When the bundle is changed, incomplete, newer than this reader, or none.
        """
        return cls(router=Router.load(path), **params)

    @model_validator(mode="after")
    def _match(self) -> Self:
        names = self.router.portfolio.names
        if self.labels is not None:
            match_tiers(dict.fromkeys(self.labels.values()), names)
            if len(self.labels) != len(names):
                msg = f"labels must name each of the tiers {', '.join(names)} once; given were {dict(self.labels)}"
                raise InputError(msg)
        if not self.model:
            self.model = f"routenlp-{self.router.bundle_id[:12]}"
        return self

    @property
    def _provider(self) -> str:
        return "routenlp"

    @property
    def _tiers(self) -> dict[str, str]:
        """Tier by label, in cascade order."""
        names = self.router.portfolio.names
        if self.labels is None:
            return {name: name for name in names}
        return dict(sorted(self.labels.items(), key=lambda item: names.index(item[1])))

    def _classify(self, state: Any, questions: Mapping[str, Any]) -> ClassifierResponse:
        tiers = self._tiers
        for name, question in questions.items():
            _check(name, question, tiers)
        decision = self._decide(_messages(state))
        passes = {label: decision.pass_probability[tier] for label, tier in tiers.items()}
        total = sum(passes.values())
        chosen = next(label for label, tier in tiers.items() if tier == decision.tier)
        shares = {label: p / total if total else 1.0 / len(passes) for label, p in passes.items()}
        answers = {
            name: NoulAnswer(type="noul", noul=passes[name])
            if isinstance(question, Noul)
            else ChoiceAnswer(type="choice", choice=chosen, probabilities=shares, confidence=passes[chosen])
            for name, question in questions.items()
        }
        return ClassifierResponse(model=self.model, answers=answers)

    def _decide(self, messages: Sequence[BaseMessage]) -> Decision:
        """What the policy decides; the tier replaced by a forced one, or by the reference after a departure."""
        task, forced = task_and_tier()
        said = turns(messages)
        decision = self.router.decide(route_text(said), task or self.task, ROUTE_ONLY)
        if forced is None and content_departure(messages, said):
            forced = self.router.portfolio.reference.name
        if forced is None:
            return decision
        self.router.portfolio.index(forced)
        return replace(decision, tier=forced)


def _check(name: str, question: Any, tiers: Mapping[str, str]) -> None:
    """Refuse a question that a router cannot answer."""
    if isinstance(question, Noul):
        if name in tiers:
            return
        msg = (
            f"yes-or-no question {name!r} is about no tier; a RoutingDecisionModel answers whether a tier's answer "
            f"would do, under that tier's label as question id: {', '.join(tiers)}"
        )
    elif isinstance(question, Choice):
        if set(question.criteria) == set(tiers):
            return
        msg = (
            f"question {name!r} chooses among {', '.join(question.criteria)}; a RoutingDecisionModel chooses among "
            f"{', '.join(tiers)} (name other labels by labels={{label: tier}})"
        )
    else:
        msg = f"question {name!r} is of type {question.type!r}; a RoutingDecisionModel answers choice and noul only"
    raise InputError(msg)


def _messages(state: Any) -> list[BaseMessage]:
    """Read a state as a conversation; text alone is a human turn."""
    if isinstance(state, str):
        return [HumanMessage(state)]
    if isinstance(state, BaseMessage):
        return [state]
    if isinstance(state, Mapping):
        state = state.get("messages", [state])
    try:
        found = convert_to_messages(state)
    except (ValueError, TypeError, NotImplementedError):
        found = []
    if not found:
        msg = "state holds nothing to route; give text, a message, messages, or a mapping with 'messages'"
        raise InputError(msg)
    return found
