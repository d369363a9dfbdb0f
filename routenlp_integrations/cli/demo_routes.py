"""The demo's test queries routed through `RoutingChatModel`, and checked against what `evaluate` replayed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from router_core.fitting.tables import Progress
    from router_core.records import Records

__all__ = ["Routed", "agree", "route_all", "test_rows"]


@dataclass(frozen=True)
class Routed:
    """One query as the chat model answered it; cost in US dollars."""

    task: str
    tier: str
    quality: float
    cost_usd: float
    certified: bool


def test_rows(records: Records, tiers: Sequence[str]) -> Records:
    """The rows `evaluate` reports on."""
    from router_core.splits import prepare

    prepared, _ = prepare(records, require=("test",)).complete(tiers)
    return prepared.records.take(prepared.test)


def route_all(bundle: Path, records: Records, progress: Progress | None) -> list[Routed]:
    """Answer every query through LangChain, each tier replaying its recorded answers, the task named by configuration.

    Raises
    ------
    MissingExtraError
        Without langchain-core.
    """
    from routenlp_integrations.langchain import RoutingChatModel
    from routenlp_integrations.langchain.recorded import recorded_tiers

    model = RoutingChatModel.from_bundle(bundle, tiers=recorded_tiers(records))
    routed = []
    for i, prompt in enumerate(records.prompt):
        if progress is not None:
            progress("routing through RoutingChatModel", i, len(records))
        label = "/".join(part for part in (records.task[i], records.subtask[i]) if part)
        answer = model.invoke(prompt, config={"configurable": {"task": label}})
        told = answer.response_metadata["routenlp"]
        quality = float(records.quality[i, records.models.index(told["tier"])])
        routed.append(Routed(records.task[i], told["tier"], quality, told["cost_usd"], told["certificate"] is not None))
    return routed


def agree(routed: Sequence[Routed], report: Mapping[str, Any]) -> None:
    """Check that served tiers, quality and cost are those of the replay, for every task and all together.

    Raises
    ------
    RuntimeError
        When they differ: serving would then not be what was certified.
    """
    groups = {"overall": (list(routed), report["overall"])}
    for task in {item.task for item in routed}:
        groups[task] = ([item for item in routed if item.task == task], report["tasks"][task])
    for name, (items, told) in groups.items():
        ours = told["policies"]["routenlp"]
        n = len(items)
        served = {tier: sum(item.tier == tier for item in items) / n for tier in ours["share"]}
        means = {
            "quality": math.fsum(item.quality for item in items) / n,
            "cost": math.fsum(item.cost_usd for item in items) / n,
        }
        # Sums in another order may differ in the last digits; routes may not differ at all.
        same = n == told["n"] and served == ours["share"]
        if not same or any(not math.isclose(means[key], ours[key], rel_tol=1e-9) for key in means):
            msg = f"{name}: routed {n} queries, {served}, {means}; the replay says {told['n']}, {ours}"
            raise RuntimeError(msg)
