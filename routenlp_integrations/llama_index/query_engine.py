"""`RouterQueryEngine`: LlamaIndex's own, whose tools may be groups of interchangeable engines at different prices."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_index.core.base.base_selector import BaseSelector
from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.llms.llm import LLM
from llama_index.core.query_engine import router_query_engine as theirs
from llama_index.core.response_synthesizers import TreeSummarize
from llama_index.core.schema import QueryBundle
from llama_index.core.tools.query_engine import QueryEngineTool

from routenlp_integrations.llama_index.engine_pins import hold_engines
from routenlp_integrations.llama_index.group_engine import GroupEngine
from routenlp_integrations.llama_index.groups import EngineGroup, fitted_groups
from routenlp_integrations.llama_index.node_evidence import ROUTE_KEY
from routenlp_integrations.llama_index.routes import QueryRoutes, together
from router_core.errors import InputError
from router_core.route_log import RouteLog
from router_core.router import Router

__all__ = ["RouterQueryEngine"]

# LlamaIndex puts a span around every override; the method under it must not open a second one.
_query: Any = inspect.unwrap(theirs.RouterQueryEngine._query)
_aquery: Any = inspect.unwrap(theirs.RouterQueryEngine._aquery)


class RouterQueryEngine(theirs.RouterQueryEngine):
    """LlamaIndex's `RouterQueryEngine`; `cascades` names tools that answer from the same source at different prices.

    Without `cascades` nothing differs from LlamaIndex's class, which this one extends: tools are sources, the selector
    chooses among them. A group of `cascades` is one choice to the selector, in the place of its first tool. When it is
    selected its cheapest promising engine answers, the answer is judged by its evidence (the bundle's router, retrieval
    scores, groundedness in the retrieved nodes, agreement with answers tried, "Empty Response"), and it is served or
    the next engine of the group is asked. Nothing else is ever escalated.

    The response is the answering engine's own. ``metadata["routenlp"]`` holds the route: ``group``, ``tier`` (name of
    the tool that answered), ``attempts`` (each with ``tier``, ``confidence``, ``cost_usd``, ``accepted``, ``reason``),
    ``cost_usd`` of all attempts in US dollars, ``task``, ``policy``, ``bundle``, ``certificate`` (None when nothing was
    shown) and ``reason``. That of a stream is completed in place when the stream ends. Where several groups were
    selected and their answers combined, ``routes`` holds one for each. An attempt of an engine that is such a router
    itself has its ``route``, and costs what that did.

    A `RoutingDecisionEvent` with the same is dispatched in the query's span, for a stream when it ends.

    An engine that names the model that answered, as ``metadata["model_name"]`` or ``["model"]``, is held to the
    certified one, as the tiers of `RoutingLLM` are: another one is covered by nothing and lets certificates lapse.
    LlamaIndex's own synthesizers name none. Where the bundle pins engines (`pin_engines`), those of the group are
    compared with them here, once: one that is made otherwise lets certificates lapse before anything is asked.

    A group without a bundle goes to its last engine, and the reason says so, unless its `EngineGroup` asks for an
    uncertified `AnswerRule`.

    Parameters
    ----------
    selector, query_engine_tools, llm, summarizer, verbose
        As LlamaIndex documents them.
    cascades
        ``{group: names of its tools in cascade order}``, or an `EngineGroup` where more is to be said.
    bundle
        Folder of a bundle, or a ROOT, for the group whose tools its portfolio names.
    router
        A loaded router, instead of `bundle`.
    ledger
        A `Ledger`, or the URL of one, which is then kept without texts. The route of every group that answered is
        appended, and its ``id`` names it for `Ledger.feedback`; see `RoutingLLM`.
    audits
        An `AuditPlan`, carried out in the background with the group's own engines and by each group for itself, or an
        `Auditor` whose callables take the text of the query.

    Raises
    ------
    InputError
        When groups, tools and the portfolio do not fit together (lists both sides).
    BundleError
        When a bundle is changed, incomplete, newer than this reader, or none.
    """

    def __init__(
        self,
        selector: BaseSelector,
        query_engine_tools: Sequence[QueryEngineTool],
        llm: LLM | None = None,
        summarizer: TreeSummarize | None = None,
        verbose: bool = False,
        *,
        cascades: Mapping[str, Sequence[str] | EngineGroup] | None = None,
        bundle: str | Path | None = None,
        router: Router | None = None,
        ledger: Any = None,
        audits: Any = None,
    ) -> None:
        if bundle is not None and router is not None:
            raise InputError("give a bundle or a router, not both")
        router = Router.load(bundle) if bundle is not None else router
        self._routes = QueryRoutes()
        tools = list(query_engine_tools)
        groups = fitted_groups(cascades or {}, tools, router)
        if groups:
            # Opened once, for all groups.
            log = RouteLog.of(ledger, None, {}, lambda *_: 0.0)
            ledger = None if log is None else log.ledger
        elif ledger is not None or audits is not None:
            raise InputError("ledger and audits are about groups; declare one in cascades")
        self.ledger = ledger
        folded = _folded(tools, groups, self._routes, ledger, audits)
        super().__init__(selector, folded, llm=llm, summarizer=summarizer, verbose=verbose)
        self._routed = bool(groups)

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        if not self._routed:
            response: RESPONSE_TYPE = _query(self, query_bundle)
            return response
        own = copy.copy(query_bundle)
        with self._routes.of(own) as routes:
            response = _query(self, own)
        return _with_routes(response, routes)

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        if not self._routed:
            response: RESPONSE_TYPE = await _aquery(self, query_bundle)
            return response
        own = copy.copy(query_bundle)
        with self._routes.of(own) as routes:
            response = await _aquery(self, own)
        return _with_routes(response, routes)


def _with_routes(response: RESPONSE_TYPE, routes: list[dict[str, Any]]) -> RESPONSE_TYPE:
    """The response, told its routes where LlamaIndex combined several into a new one."""
    if routes and ROUTE_KEY not in (response.metadata or {}):
        response.metadata = {**(response.metadata or {}), ROUTE_KEY: together(routes)}
    return response


def _folded(
    tools: Sequence[QueryEngineTool],
    groups: Mapping[str, tuple[EngineGroup, Mapping[str, QueryEngineTool]]],
    routes: QueryRoutes,
    ledger: Any,
    audits: Any,
) -> list[QueryEngineTool]:
    """The tools with every group in the place of its first one."""
    of = {id(tool): name for name, (_, members) in groups.items() for tool in members.values()}
    found: list[QueryEngineTool] = []
    seen: set[str] = set()
    for tool in tools:
        name = of.get(id(tool))
        if name is None:
            found.append(tool)
        elif name not in seen:
            seen.add(name)
            group, members = groups[name]
            engines = {key: member.query_engine for key, member in members.items()}
            engine: Any = GroupEngine(name, group, engines, routes, ledger, audits)
            hold_engines(engine.router, engines)
            told = members[group.engines[-1]].metadata
            described = replace(told, name=name, description=group.description or told.description)
            found.append(QueryEngineTool(engine, described))
    return found
