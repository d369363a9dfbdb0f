"""Routes as they stand in a response: ``metadata["routenlp"]``, also where several groups answered one query."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.schema import QueryBundle

from routenlp_integrations.llama_index.node_evidence import ROUTE_KEY, inner_route
from router_core.route import Answer, Route, route_metadata

__all__ = ["QueryRoutes", "put", "remade", "together", "told_of"]

R = TypeVar("R")


def told_of(route: Route, group: str, answers: Mapping[str, Answer]) -> dict[str, Any]:
    """What ``metadata["routenlp"]`` holds: plain JSON values, and a budget only where there is one.

    An attempt of an engine that routes itself has the route that it took, under ``route``; `answers` are by engine.
    """
    told = {**route_metadata(route), "group": group, "policy": route.policy, "bundle": route.bundle or None}
    for attempt in told["attempts"]:
        answer = answers.get(attempt["tier"])
        inner = None if answer is None else inner_route(answer.raw)
        if inner is not None:
            attempt["route"] = inner
    return told


def remade(response: R, **changed: Any) -> R:
    """A response like this one but for some attributes: of its class, with all that its engine put on it."""
    # Not `dataclasses.replace`, which calls a constructor that a subclass may have changed and drops what is no field,
    # and not `copy.copy`, whose look-ups never end in `PydanticResponse.__getattr__`.
    made = object.__new__(type(response))
    made.__dict__.update({**response.__dict__, **changed})
    return made


def put(response: RESPONSE_TYPE, told: dict[str, Any]) -> RESPONSE_TYPE:
    """The response with a route in it; the engine's own, which it may have cached, is left as it was."""
    return remade(response, metadata={**(response.metadata or {}), ROUTE_KEY: told})


class QueryRoutes:
    """Which routes one query of a router took, found again by the query object itself.

    The query is handed from engine to engine as the same object, also where a framework changes threads and loses
    context variables.
    """

    def __init__(self) -> None:
        self._open: dict[int, list[dict[str, Any]]] = {}

    @contextmanager
    def of(self, query: QueryBundle) -> Iterator[list[dict[str, Any]]]:
        """The routes that are added while this is open; `query` must belong to nobody else."""
        told: list[dict[str, Any]] = []
        self._open[id(query)] = told
        try:
            yield told
        finally:
            del self._open[id(query)]

    def add(self, query: QueryBundle, told: dict[str, Any]) -> None:
        """Add a route of a query."""
        if (routes := self._open.get(id(query))) is not None:
            routes.append(told)


def together(routes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One route of several groups whose answers were combined; each keeps its own certificate under ``routes``."""
    if len(routes) == 1:
        return routes[0]
    return {
        "group": None,
        "tier": None,
        "attempts": [attempt for told in routes for attempt in told["attempts"]],
        "cost_usd": math.fsum(told["cost_usd"] or 0.0 for told in routes),
        "task": None,
        "policy": None,
        "bundle": None,
        "certificate": None,
        "reason": f"{len(routes)} groups answered; nothing was shown of their combination",
        "routes": list(routes),
    }
