"""A routing model's queries: how one is planned, walked, asked of the tiers, and finished."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.messages import BaseMessage
from langchain_core.runnables.config import run_in_executor

from routenlp_integrations.langchain.assembled import AssembledChatModel
from routenlp_integrations.langchain.configured import CONVERSATION, RUN, TIER
from routenlp_integrations.langchain.forms import form_of
from routenlp_integrations.langchain.messages import human_id, text_of, turns
from routenlp_integrations.langchain.planning import Plan, decoding_changes, plan, streamed_policy
from routenlp_integrations.langchain.query import Parts, Query
from routenlp_integrations.langchain.task_config import TASK
from routenlp_integrations.langchain.tiers import Call
from routenlp_integrations.langchain.tracing import Trace
from router_core.cascade import walk
from router_core.driving import Step, Steps, aperform, perform
from router_core.route import Answer, Route
from router_core.router import Router, estimate_tokens
from router_core.sticky import conversation_key

__all__ = ["QueriedChatModel"]

T = TypeVar("T")

_OURS = (TASK, TIER, CONVERSATION, RUN)


class QueriedChatModel(AssembledChatModel):
    """What every entrance of a `RoutingChatModel`, which documents it, does with a query."""

    def _begin(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any], policy: str | None
    ) -> Query:
        """Plan a query; without a policy, by that of streams."""
        router, parts = self.current, self._parts
        decision = None if parts.log is None else parts.log.begin()
        if policy is None:
            policy = streamed_policy(router, self.stream_policy, kwargs.get(TASK) or self.task)
        made = self._plan(router, parts, messages, stop, kwargs, policy)
        return Query(router, made, parts.log, decision, kwargs.get(CONVERSATION), parts=parts)

    def _plan(
        self,
        router: Router,
        parts: Parts,
        messages: list[BaseMessage],
        stop: list[str] | None,
        kwargs: Mapping[str, Any],
        policy: str,
    ) -> Plan:
        # None says nothing: it must not take away what a tier or the model was made with.
        params = {name: value for name, value in kwargs.items() if value is not None and name not in _OURS}
        for name in ("temperature", "max_tokens"):
            if getattr(self, name) is not None:
                params.setdefault(name, getattr(self, name))
        task = kwargs.get(TASK) or self.task
        stopped = (self.stop if stop is None else stop) or None
        call = Call(messages, stopped, params, form_of(params), router.scopes.named(task), router.portfolio.models)
        own = {"temperature": self.temperature, "max_tokens": self.max_tokens} if params else {}
        changed = decoding_changes(params, own)
        if stop is not None and list(stop) != (self.stop or []):
            changed.append("stop")
        made = plan(
            router,
            call,
            policy,
            task=task,
            tier=kwargs.get(TIER),
            uncalibrated=self.uncalibrated,
            abilities=parts.abilities,
            changed=changed,
        )
        conversation = kwargs.get(CONVERSATION)
        if (sticky := self._sticky) is not None:
            key = conversation_key(turns(messages), conversation)
            made = replace(made, start=sticky.start(router, made.start, key), key=key)
        if self.budget is not None:
            tokens = sum(estimate_tokens(text_of(message)) for message in messages)
            run = conversation or human_id(messages) or kwargs.get(RUN)
            made = replace(made, run=run, prompt_tokens=tokens)
        return made

    async def _aside(self, query: Query | None, work: Callable[..., T], *given: Any) -> T:
        """Do what may take milliseconds off the event loop, and what takes less than the way to a thread here."""
        if (self.current if query is None else query.router).quick:
            return work(*given)
        return await run_in_executor(None, work, *given)

    def _walk(self, query: Query) -> Steps:
        made = query.plan
        return walk(
            query.router,
            made.start,
            self.on_failure,
            self.on_reference_failure,
            limits=query.parts.limits,
            able=made.able,
            run=made.run,
            prompt_tokens=made.prompt_tokens,
        )

    def _ask(
        self, query: Query, step: Step, run: CallbackManagerForLLMRun | None, trace: Trace | None
    ) -> Answer | Exception:
        tier, call = query.parts.models[step], query.plan.call
        # Tokens of an answer that may be rejected must not reach the caller's callbacks.
        return query.heard(step, perform(step, lambda: tier.generate(call, run if step.final else None, trace)))

    async def _aask(
        self, query: Query, step: Step, run: AsyncCallbackManagerForLLMRun | None, trace: Trace | None
    ) -> Answer | Exception:
        tier, call = query.parts.models[step], query.plan.call
        return query.heard(step, await aperform(step, lambda: tier.agenerate(call, run if step.final else None, trace)))

    def _finish(self, query: Query, route: Route) -> Route:
        if query.plan.key is not None and (sticky := self._sticky) is not None:
            sticky.served(query.plan.key, route.tier)
        return query.finish(route)
