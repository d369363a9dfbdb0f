"""One router, two frameworks: `RoutingLLM` and `RoutingChatModel` take the same routes and tell the same of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from bundles import TIERS, small_records
from scripted_llm import ScriptedLLM, route_of, user

from routenlp_integrations.llama_index import RoutingLLM
from router_core.lapse import LapseWatch
from router_core.outages import Outages
from router_core.router import Router

pytest.importorskip("langchain_core", reason="needs routenlp[langchain]")

from scripted import ScriptedModel

from routenlp_integrations.langchain import RoutingChatModel

RECORDS = small_records()
ANSWERS = {
    name: dict(zip(RECORDS.prompt, (row[m] for row in RECORDS.response), strict=True)) for m, name in enumerate(TIERS)
}
QUERIES = [
    (prompt, task)
    for prompt, task, split in zip(RECORDS.prompt, RECORDS.task, RECORDS.split, strict=True)
    if split == "test"
]

CASES: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    # parameters of both, what is wrong with the tiers of both
    "as it is": ({}, {}),
    "buffered": ({"stream_policy": "buffer"}, {}),
    "a cheap tier fails": ({}, {"small": {"fails": ConnectionError()}}),
    "one tier up": ({"on_failure": "next"}, {"small": {"fails": ConnectionError()}}),
    "the best answer": ({"on_reference_failure": "best"}, {"large": {"fails": ConnectionError()}}),
    "nothing said": ({}, {"medium": {"reply": ""}}),
    "filtered": ({}, {"small": {"finish_reason": "content_filter"}}),
}


def _both(router: Router, params: dict[str, Any], wrong: dict[str, dict[str, Any]]) -> tuple[RoutingLLM, Any]:
    """The same router in both faces, over the recorded answers."""

    def reply(name: str) -> Any:
        return lambda asked: ANSWERS[name][asked if isinstance(asked, str) else asked[-1].content]

    llms = {n: ScriptedLLM(**{"model": f"{n}-1", "reply": reply(n), **wrong.get(n, {})}) for n in TIERS}
    models = {n: ScriptedModel(**{"model_name": f"{n}-1", "reply": reply(n), **wrong.get(n, {})}) for n in TIERS}
    own = [replace(router, lapses=LapseWatch(), outages=Outages()) for _ in range(2)]
    return RoutingLLM(router=own[0], tiers=llms, **params), RoutingChatModel(router=own[1], tiers=models, **params)


def _told(ask: Any) -> Any:
    """The route, or what was raised instead."""
    try:
        route: dict[str, Any] = ask()
    except Exception as error:
        return type(error).__name__, str(error)
    return route


@pytest.mark.parametrize("case", CASES)
def test_the_same_routes(loaded_router: Router, case: str) -> None:
    """Tier, attempts with confidences and reasons, costs and certificates are equal to the last bit."""
    llm, model = _both(loaded_router, *CASES[case])
    seen = set()
    for prompt, task in QUERIES:
        config: Any = {"configurable": {"task": task}}

        def streamed(prompt: str = prompt, task: str = task) -> Any:
            return route_of(list(llm.stream_chat(user(prompt), task=task))[-1])

        def merged(prompt: str = prompt, config: Any = config) -> Any:
            chunks = list(model.stream(prompt, config=config))
            return next(c.response_metadata["routenlp"] for c in chunks if "routenlp" in c.response_metadata)

        ours = [
            _told(lambda p=prompt, t=task: route_of(llm.chat(user(p), task=t))),  # type: ignore[misc]
            _told(lambda p=prompt, t=task: route_of(asyncio.run(llm.acomplete(p, task=t)))),  # type: ignore[misc]
        ]
        theirs = _told(lambda p=prompt, c=config: model.invoke(p, config=c).response_metadata["routenlp"])  # type: ignore[misc]
        assert ours == [theirs, theirs]
        assert _told(streamed) == _told(merged)
        seen.add(str(theirs["tier"] if isinstance(theirs, dict) else theirs))
    assert seen


def test_the_same_departures(loaded_router: Router) -> None:
    """Forced tiers, changed decoding and provider's own formats are told in the same words, but for who forces."""
    llm, model = _both(loaded_router, {"uncalibrated": "cascade"}, {})
    prompt, task = QUERIES[0]
    config: Any = {"configurable": {"task": task}}
    for told in ({"temperature": 0.9}, {"response_format": {"type": "json_object"}}, {"reasoning_effort": "low"}):
        given: dict[str, Any] = told
        ours = route_of(llm.chat(user(prompt), task=task, **given))
        assert ours == model.invoke(prompt, config=config, **given).response_metadata["routenlp"]
        assert ours["certificate"] is None
    for tier in TIERS:
        ours = route_of(llm.chat(user(prompt), task=task, tier=tier))
        config = {"configurable": {"task": task, "tier": tier}}
        theirs = model.invoke(prompt, config=config).response_metadata["routenlp"]
        assert {**ours, "reason": "", "attempts": 1} == {**theirs, "reason": "", "attempts": 1}
        assert ours["reason"].replace("tier=", "configurable['tier']") == theirs["reason"]
