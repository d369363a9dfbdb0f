"""Interchangeable query engines: which tools answer for the same source, and how a selector sees them as one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.tools.query_engine import QueryEngineTool

from routenlp_integrations.llama_index.node_evidence import Price
from routenlp_integrations.llama_index.unfitted import AnswerRule, UnfittedRouter
from router_core.call_plan import StreamPolicy
from router_core.cascade import match_tiers
from router_core.errors import InputError
from router_core.limits import Limits
from router_core.router import Router
from router_core.walk import OnFailure, OnReferenceFailure

__all__ = ["EngineGroup", "fitted_groups", "streams"]


@dataclass(frozen=True)
class EngineGroup:
    """Engines that answer from the same source at different prices.

    Parameters
    ----------
    engines
        Names of their tools in cascade order; the last one is the reference.
    bundle
        Folder of a bundle, or a ROOT, whose portfolio names these tools.
    router
        A loaded router, instead of `bundle`.
    rule
        Serve cheap answers by this uncertified rule; only without a bundle.
    description
        What the selector reads; the description of the reference tool when None.
    task
        Task of every query, ``"task"`` or ``"task/subtask"``; None is the only task, or any.
    stream_policy
        For engines that stream. ``"route"``: choose the engine first, then stream it. ``"buffer"``: judge a cheap
        answer before showing it. ``"auto"``: ``"route"``, but ``"buffer"`` where only the cascade was certified.
    on_failure, on_reference_failure
        See `router_core.walk.walk`.
    limits
        Retries, time-outs, circuit breaker and budget per query. The time-out of a stream holds until something is
        shown.
    price
        ``(tool name, response) -> US dollars`` of one attempt. Without it, or where it gives None, tokens at the
        portfolio's prices; without a bundle there are no prices, and such an attempt counts as 0.

    Raises
    ------
    InputError
        When fewer than two engines, or one twice, or things that exclude each other are given.
    """

    engines: Sequence[str]
    bundle: str | Path | None = None
    router: Router | None = field(default=None, repr=False)
    rule: AnswerRule | None = None
    description: str | None = None
    task: str | None = None
    stream_policy: StreamPolicy = "auto"
    on_failure: OnFailure = "reference"
    on_reference_failure: OnReferenceFailure = "raise"
    limits: Limits | None = None
    price: Price | None = None

    def __post_init__(self) -> None:
        if isinstance(self.engines, str) or len(self.engines) < 2 or len(set(self.engines)) < len(self.engines):
            msg = f"a group needs two or more different tools, cheapest first; given was {self.engines!r}"
            raise InputError(msg)
        if (self.bundle is not None) + (self.router is not None) + (self.rule is not None) > 1:
            msg = "a group takes one of bundle, router and rule; a rule is for engines without a bundle"
            raise InputError(msg)
        for value, known, what in (
            (self.stream_policy, StreamPolicy, "stream_policy"),
            (self.on_failure, OnFailure, "on_failure"),
            (self.on_reference_failure, OnReferenceFailure, "on_reference_failure"),
        ):
            if value not in get_args(known):
                msg = f"{what} = {value!r} is unknown; use one of {', '.join(get_args(known))}"
                raise InputError(msg)

    @property
    def fitted(self) -> bool:
        """Whether a bundle decides."""
        return self.bundle is not None or self.router is not None

    def load(self) -> Router:
        """The router of this group.

        Raises
        ------
        InputError
            When the portfolio, or the time-outs, name other engines (lists both sides).
        BundleError
            When the bundle is changed, incomplete, newer than this reader, or none.
        """
        names = tuple(self.engines)
        router = self.router or (
            UnfittedRouter.of(names, self.rule) if self.bundle is None else Router.load(self.bundle)
        )
        match_tiers(dict.fromkeys(names), router.portfolio.names)
        if names != router.portfolio.names:
            msg = f"engines are {', '.join(names)}; the bundle's cascade order is {', '.join(router.portfolio.names)}"
            raise InputError(msg)
        if self.limits is not None:
            self.limits.check(names)
        return router


def fitted_groups(
    cascades: Mapping[str, Sequence[str] | EngineGroup],
    tools: Sequence[QueryEngineTool],
    router: Router | None,
) -> dict[str, tuple[EngineGroup, dict[str, QueryEngineTool]]]:
    """Check groups against the tools there are, and give the one router to the groups whose engines it names.

    Raises
    ------
    InputError
        When `cascades` is no mapping, a group names a tool that is missing, double or in another group, a group is
        named like a tool outside it, or no group has the engines the router was fitted on.
    """
    given_as: object = cascades
    if not isinstance(given_as, Mapping):
        msg = f'cascades must map groups to their tools, as in {{"docs": ["cheap", "dear"]}}; given was {cascades!r}'
        raise InputError(msg)
    named: dict[str, list[QueryEngineTool]] = {}
    for tool in tools:
        named.setdefault(str(tool.metadata.name), []).append(tool)
    groups: dict[str, tuple[EngineGroup, dict[str, QueryEngineTool]]] = {}
    taken: dict[str, str] = {}
    for name, given in cascades.items():
        group = given if isinstance(given, EngineGroup) else EngineGroup(given)
        for engine in group.engines:
            if len(named.get(engine, [])) != 1:
                count = "no tool" if engine not in named else f"{len(named[engine])} tools"
                msg = f"group {name!r}: {count} named {engine!r}; the tools are {', '.join(named) or 'none'}"
                raise InputError(msg)
            if engine in taken:
                raise InputError(f"tool {engine!r} is in the groups {taken[engine]!r} and {name!r}; leave it in one")
            taken[engine] = name
        if name in named and name not in group.engines:
            raise InputError(f"group {name!r} has the name of a tool outside it; rename one of them")
        groups[name] = group, {engine: named[engine][0] for engine in group.engines}
    if router is not None:
        open_ = [name for name, (group, _) in groups.items() if not group.fitted and group.rule is None]
        mine = [name for name in open_ if set(groups[name][0].engines) == set(router.portfolio.names)] or open_[:1]
        if not mine:
            raise InputError("a bundle or router was given, but no group of cascades is there to take it")
        for name in mine:
            group, engines = groups[name]
            groups[name] = replace(group, router=router), engines
    return groups


def streams(engine: BaseQueryEngine) -> bool:
    """Whether an engine is known to stream: its response synthesizer says so."""
    return bool(getattr(getattr(engine, "_response_synthesizer", None), "_streaming", False))
