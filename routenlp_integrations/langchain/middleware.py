"""`RoutingMiddleware`: the tier of each model call of a LangChain agent is chosen by a router."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, get_args

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain.chat_models import init_chat_model
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables.config import run_in_executor
from langgraph.errors import GraphBubbleUp

from routenlp_integrations.langchain.capabilities import abilities_of, lacking
from routenlp_integrations.langchain.messages import answer_of, human_id, turns, with_route
from routenlp_integrations.langchain.planning import (
    changed_departure,
    checked,
    content_departure,
    decoding_changes,
    form_departure,
    unless_lapsed,
)
from routenlp_integrations.langchain.run_config import task_and_tier, thread
from routenlp_integrations.langchain.student import StudentChatModel
from routenlp_integrations.langchain.task_config import TASK
from routenlp_integrations.langchain.tiers import STRUCTURE, Call, TierModel
from routenlp_integrations.student import FINGERPRINT
from router_core.breaker import Breaker
from router_core.budget import Budget
from router_core.cascade import Answer, Route, match_tiers, walk
from router_core.driving import Step, Steps, advance, aperform, perform, walking
from router_core.errors import InputError, TierError
from router_core.limits import Limits
from router_core.policy import ROUTE_ONLY
from router_core.release import is_root
from router_core.retries import RetryPolicy
from router_core.route_text import route_text
from router_core.router import Router, Start, estimate_tokens
from router_core.sources import RouterSource

__all__ = ["RoutingMiddleware"]

Sticky = Literal["run"] | None
Uncalibrated = Literal["route", "reference"]


class RoutingMiddleware(AgentMiddleware[AgentState[Any], Any, Any]):
    """Sends each model call of a `create_agent` agent to the tier that the bundle's ``route_only`` policy chooses.

    What is routed is the last human turn, so all calls of one run are routed alike. The agent binds its tools and
    its response format to the tier that is chosen, and its system prompt stays; the model given to `create_agent`
    is not called. Each call is one run of the tier, with the agent's callbacks. The route is in
    ``response_metadata["routenlp"]`` of the message (and so in the agent's state), as `RoutingChatModel` gives it.

    **What is promised.** Calib had plain questions and answers: no tools, no tool results, no structured output. A
    call without any of these that keeps to the policy carries the certificate. For the others `uncalibrated`
    decides: the default ``"route"`` routes them by the same policy, and a call that a cheap tier serves has
    ``certificate`` None with the reason, since nothing was shown of it; the pass probabilities behind it are an
    extrapolation. ``"reference"`` sends them to the reference tier, which keeps a certificate of the joint risk but
    saves nothing on an agent with tools. The default is the one that does something: nearly every agent has tools.

    A call goes to the reference tier when the tier chosen cannot do it by its `profile` (tool calling, images,
    context length, ...), fails, rests, or returns nothing. An error of the reference tier is raised as it is. In a
    stream of tokens those of a tier that failed half-way have been shown by then; they are no message of the agent.
    When a tier answers with another model than was certified, certificates lapse as far as it serves.

    ``config={"configurable": {"task": "t", "tier": "frontier"}}`` names the task of a run and forces a tier.

    Put it before other middleware, so that they see the model that is called. A middleware behind it that swaps
    the model makes the route untrue.

    Parameters
    ----------
    router
        A loaded router, the folder of a bundle, or a release ROOT or `RouterSource`, of which every model call takes
        the current release's router once.
    tiers
        For every tier of the portfolio a chat model, one with arguments bound to it, or a name that
        `init_chat_model` takes.
    task
        Task of every run that does not name one, ``"task"`` or ``"task/subtask"``. None is the only task, or any.
    sticky
        ``"run"``: since the last human turn the tier may go up, not down, because switching throws away the
        provider's prompt cache; a tier that failed is not asked again. None: each call is routed on its own.
    uncalibrated
        ``"route"`` or ``"reference"``; see above.
    timeout
        Seconds that one model call may take, one number or ``{tier: seconds}``: one that takes longer is a failure of
        its tier. A synchronous call is left to end in the background; give the tiers a time-out of their own too.
    max_retries
        How often a tier is called again after a time-out, a broken connection, 429 or 5xx; ``Retry-After`` is
        honoured. None by default, since providers' clients retry themselves.
    breaker
        A `Breaker` that keeps calls from a tier that is down.
    budget
        A `Budget` per model call, per run (LangGraph's ``thread_id``, else all calls since the last human message) or
        per time window. With ``on_exceeded="raise"`` the agent ends with `BudgetError`.

    Raises
    ------
    InputError
        When the names of the tiers are not the portfolio's (lists both sides), a tier is no chat model or has tools
        bound to it, or an argument is unknown.
    BundleError
        When the bundle is changed, incomplete, newer than this reader, or none.

    Examples
    --------
    >>> agent = create_agent(  # doctest: +SKIP
    ...     frontier, tools=[search], middleware=[RoutingMiddleware("bundle/", {"cheap": cheap, "frontier": frontier})]
    ... )
    """

    def __init__(
        self,
        router: Router | RouterSource | str | Path,
        tiers: Mapping[str, Any],
        *,
        task: str | None = None,
        sticky: Sticky = "run",
        uncalibrated: Uncalibrated = "route",
        timeout: float | Mapping[str, float] | None = None,
        max_retries: int | None = None,
        breaker: Breaker | None = None,
        budget: Budget | None = None,
    ) -> None:
        super().__init__()
        if sticky not in ("run", None):
            msg = f"sticky = {sticky!r} is unknown; use 'run' or None"
            raise InputError(msg)
        if uncalibrated not in get_args(Uncalibrated):
            msg = f"uncalibrated = {uncalibrated!r} is unknown; use 'route' or 'reference'"
            raise InputError(msg)
        if not isinstance(router, Router | RouterSource):
            router = Router.watch(router) if is_root(Path(router)) else Router.load(router)
        self._source = router
        self.task = task
        self.sticky = sticky
        self.uncalibrated = uncalibrated
        self.limits = Limits(RetryPolicy(max_retries or 0), timeout, breaker, budget)
        self._names = self.router.portfolio.names
        self.limits.check(self._names)
        match_tiers(tiers, self._names)
        self._models = {name: _tier(name, tiers[name]) for name in self._names}
        self._abilities = {name: abilities_of(tier, {}) for name, tier in self._models.items()}

    @property
    def router(self) -> Router:
        """The router that the next model call takes."""
        return self._source if isinstance(self._source, Router) else self._source.get()

    def _pinned(self) -> Self:
        """The same with one router, which a call keeps from start to end."""
        if isinstance(self._source, Router):
            return self
        pinned = copy(self)
        pinned._source = router = self._source.get()
        pinned._names = router.portfolio.names
        return pinned

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Call the model on the tier chosen, or on the reference tier where that fails."""
        sent, here = _sent(request), self._pinned()
        responses: dict[str, ModelResponse[Any]] = {}
        with walking(here._walk(request, sent)) as steps:
            step = _advance(steps)
            while isinstance(step, Step):
                reply = perform(step, partial(handler, here._at(step, request)))
                step = _advance(steps, here._heard(step, reply, sent, responses))
        return here._told(step, responses)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Call the model on the tier chosen, without blocking the event loop while it is chosen."""
        sent, here = _sent(request), self._pinned()
        responses: dict[str, ModelResponse[Any]] = {}
        with walking(await run_in_executor(None, here._walk, request, sent)) as steps:
            step = _advance(steps)
            while isinstance(step, Step):
                reply = await aperform(step, partial(handler, here._at(step, request)))
                step = _advance(steps, here._heard(step, reply, sent, responses))
        return here._told(step, responses)

    def _walk(self, request: ModelRequest[Any], sent: list[BaseMessage]) -> Steps:
        lacks = lacking(_needed(request, sent), self._abilities)
        return walk(
            self.router,
            self._start(request, sent, lacks),
            limits=self.limits,
            able=[name for name in self._names if name not in lacks],
            run=thread() or human_id(sent),
            prompt_tokens=sum(estimate_tokens(str(message.text)) for message in sent),
        )

    def _start(self, request: ModelRequest[Any], sent: list[BaseMessage], lacks: Mapping[str, str]) -> Start:
        """Decide the tier of one call: by policy, then by what calib did not have, the run so far and the profiles."""
        said = turns(sent)
        text = route_text(said)
        task, forced = task_and_tier()
        task = task or self.task
        if forced is not None:
            return self.router.force(text, task, ROUTE_ONLY, forced, "tier forced by configurable['tier']")
        asked = {"tools": request.tools, "tool_choice": request.tool_choice, "response_format": request.response_format}
        settings = request.model_settings
        new = form_departure(settings) or form_departure(asked) or content_departure(sent, said)
        changed = "" if new else changed_departure(decoding_changes(settings, {}))
        start: Start | None = None
        if new and self.uncalibrated == "reference":
            tier, why = len(self._names) - 1, [new]
        else:
            start = self.router.start(text, task, ROUTE_ONLY)
            tier, why = start.tier, [new or changed, start.reason.removesuffix(f"; sent to {self._names[start.tier]}")]
        departs = bool(new or changed)
        # What calib did not have is no part of what a certificate is about, wherever it goes.
        departed = (lambda *_: None) if departs else self.router.outages.departed
        reached = self._reached(sent, said) if self.sticky else 0
        if reached > tier:
            departed(self._names[tier], f"a run has gone up to {self._names[reached]}")
            tier, departs = reached, True
            why.append(f"the run has gone up to {self._names[tier]}")
        if (unable := self._names[tier]) in lacks:
            departed(unable, f"{unable} lacks {lacks[unable]}")
            why.append(f"{unable} lacks {lacks[unable]}")
            tier, departs = max(k for k, name in enumerate(self._names) if name not in lacks), True
        if start is not None and not departs:
            return start
        return self.router.force(text, task, ROUTE_ONLY, self._names[tier], "; ".join(filter(None, why)))

    def _reached(self, sent: Sequence[BaseMessage], said: Sequence[tuple[str, str]]) -> int:
        """The highest tier that has answered since the last human turn; read from the messages, so runs never mix."""
        reached = 0
        for message, (role, _) in zip(reversed(sent), reversed(said), strict=True):
            if role == "human":
                break
            route = message.response_metadata.get("routenlp") if isinstance(message, AIMessage) else None
            if route and route["bundle"] == self.router.bundle_id:
                reached = max(reached, self._names.index(route["tier"]))
        return reached

    def _at(self, name: str, request: ModelRequest[Any]) -> ModelRequest[Any]:
        """The same request to another model; what is bound to the tier gives way to the request's own settings."""
        tier = self._models[name]
        # None says nothing: it must not take away what the tier was made with.
        own = {key: value for key, value in request.model_settings.items() if value is not None}
        settings = {**tier.bound, **own}
        if isinstance(tier.model, StudentChatModel):
            declared = self.router.portfolio.tiers[self.router.portfolio.index(name)].model
            task = self.router.scopes.named(task_and_tier()[0] or self.task)
            settings |= {TASK: task, FINGERPRINT: declared}
        return request.override(model=tier.model, model_settings=settings)

    def _heard(
        self,
        name: str,
        reply: ModelResponse[Any] | Exception,
        sent: Sequence[BaseMessage],
        responses: dict[str, ModelResponse[Any]],
    ) -> Answer | Exception:
        """What a tier answered, its response kept, or its failure; an interrupt of the graph is raised."""
        if isinstance(reply, GraphBubbleUp):
            raise reply
        if isinstance(reply, Exception):
            return reply
        responses[name] = reply
        message = _answering(reply)
        if message is None:
            return Answer("", covered="a middleware answered instead of the model")
        answer = answer_of(ChatResult(generations=[ChatGeneration(message=message)]), sent)
        if name == self._names[-1] and not answer.text.strip():
            # An agent may end with an empty message; no tier is left that could say more.
            answer = replace(answer, covered=answer.covered or "answer is empty")
        return checked(self.router, name, answer)

    def _told(self, route: Route, responses: Mapping[str, ModelResponse[Any]]) -> ModelResponse[Any]:
        """The served response with the route in its message's metadata."""
        response = responses[route.tier]
        if (message := _answering(response)) is None:
            return response
        route = unless_lapsed(route, self.router.lapses.why(route.scope))
        tier = self.router.portfolio.tiers[self.router.portfolio.index(route.tier)]
        told = with_route(route, tier.model or tier.name).generations[0].message
        return replace(response, result=[told if part is message else part for part in response.result])


def _advance(steps: Steps, reply: Answer | Exception | None = None) -> Step | Route:
    """Take one step; the error of the tier that was asked last is raised as it is."""
    try:
        return advance(steps, reply)
    except TierError as error:
        if error.__cause__ is None:
            raise
        raised = error.__cause__
    raise raised


def _tier(name: str, given: Any) -> TierModel:
    """Take what a tier may be given as."""
    tier = TierModel.of(name, init_chat_model(given) if isinstance(given, str) else given)
    if tier.bound.get("tools"):
        msg = f"tier {name!r} has tools bound to it; give them to the agent, which binds them to the tier it calls"
        raise InputError(msg)
    return tier


def _sent(request: ModelRequest[Any]) -> list[BaseMessage]:
    """Everything the model will see."""
    before = [] if request.system_message is None else [request.system_message]
    return [*before, *request.messages]


def _needed(request: ModelRequest[Any], sent: list[BaseMessage]) -> Call:
    """The call that a request becomes, as far as a tier must be able to serve it."""
    shape = request.response_format
    params: dict[str, Any] = {**request.model_settings, "tools": request.tools}
    if isinstance(shape, ToolStrategy):
        params["tools"] = [*request.tools, *(spec.json_schema for spec in shape.schema_specs)]
    elif isinstance(shape, ProviderStrategy):
        params |= shape.to_model_kwargs()
    elif shape is not None:
        # The agent asks for a schema by tool call of a model that cannot be given one.
        params[STRUCTURE] = shape
    return Call(sent, None, params)


def _answering(response: ModelResponse[Any]) -> AIMessage | None:
    """The model's own message; structured output may be followed by a tool's."""
    return next((part for part in response.result if isinstance(part, AIMessage)), None)
