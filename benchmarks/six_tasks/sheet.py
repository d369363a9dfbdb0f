"""Records of the six tasks: what every tier said, graded and priced, as `fit` and the loop take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from data import Item
from prices import nominal_usd, tokens
from protocol import GENERATION, REFERENCE, TASKS, TIERS, tiers_of
from scoring import Grade, grades, raw_score, tau_of
from tiers import Answers, answers, items_of

from exporters.loop.folds import is_student_part
from router_core.ledger.rows import conversation_group
from router_core.records import Records

__all__ = ["SHARE", "all_answers", "conversation_of", "records_of", "section_of", "sided", "taus"]

SHARE = 0.5
"""`LoopOptions.student_share`; groups are named so that the loop's cut by hash falls where the protocol's does."""

_SECTION = 20
"""Neighbouring sentences of a contract that stay together."""

_SIGNALS = ("own_confidence", "members_agree", "template_matched")


def sided(group: str, named: Callable[[str], str], *, student: bool) -> str:
    """A name for a group on the student's or the router's side of the loop's cut; `named` is what the loop hashes."""
    number = 0
    while is_student_part(named(name := f"{group} {number}"), SHARE) != student:
        number += 1
    return name


def conversation_of(item: Item) -> str:
    """Conversation that a stream query is logged under: its document, dialogue or company, on the student's side."""
    return sided(f"{item.task} {item.group}", conversation_group, student=True)


def section_of(item: Item) -> str:
    """Group of a router query, by which the fit makes its folds: legal_risk's four companies are cut into sections."""
    if item.task != "legal_risk":
        return item.group
    return f"{item.group} {int(item.query_id.rpartition('-')[2]) // _SECTION}"


def all_answers() -> dict[str, dict[str, Answers]]:
    """By task and tier what the real tiers said."""
    return {task: {tier: answers(task, tier) for tier in tiers_of(task)[:-1]} for task in TASKS}


def taus(known: Mapping[str, Mapping[str, Answers]]) -> dict[str, float]:
    """Tau of the generation tasks, on the router's part of TRAIN."""
    found = {}
    for task in GENERATION:
        items = [item for item in items_of(task) if item.part == "router"]
        found[task] = tau_of({
            tier: [raw_score[task](told.said[i.query_id][0], i.gold) for i in items]
            for tier, told in known[task].items()
        })  # fmt: skip
    return found


def records_of(
    items: Sequence[Item], known: Mapping[str, Mapping[str, Answers]], tau: Mapping[str, float],
    tiers: Sequence[str] = TIERS,
) -> Records:  # fmt: skip
    """Records of some queries under nominal prices; those of the router's part are train."""
    of: dict[str, Grade] = grades(tau)
    quality = np.ones((len(items), len(tiers)))
    signals = {name: np.full(quality.shape, np.nan) for name in _SIGNALS}
    response, written = [], np.zeros(quality.shape)
    for i, item in enumerate(items):
        row = []
        for k, tier in enumerate(tiers):
            text, told = (item.gold, {}) if tier == REFERENCE else known[item.task][tier].said[item.query_id]
            row.append(text)
            written[i, k] = tokens(text)
            if tier != REFERENCE:
                quality[i, k] = of[item.task](text, item.gold)
                for name, values in signals.items():
                    values[i, k] = told.get(name, np.nan)
        response.append(row)
    prompts = [item.prompt for item in items]
    read = np.repeat([[float(tokens(prompt))] for prompt in prompts], len(tiers), axis=1)
    return Records(
        query_id=[item.query_id for item in items],
        prompt=prompts,
        task=[item.task for item in items],
        subtask=[""] * len(items),
        group=[
            sided(f"{i.task} {section_of(i)}", str, student=False) if i.split == "train" else "" for i in items
        ],
        split=[item.split for item in items],
        models=tuple(tiers),
        quality=quality,
        cost=nominal_usd(prompts)[:, [TIERS.index(tier) for tier in tiers]],
        response=response,
        prompt_tokens=read,
        completion_tokens=written,
        signals={name: values for name, values in signals.items() if np.isfinite(values).any()},
        cost_basis="nominal",
        source="six tasks",
    )  # fmt: skip
