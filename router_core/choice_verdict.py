"""What a fitted judge says of one query and the choices offered with it, in the order they were offered.

Choices are recognised by name and description, else by one of the two if no other fitted choice shares it; the order
may differ from the fit.
Which promise survives is part of the verdict: choices never fitted, choices described otherwise than when they were
fitted, or only some of the fitted ones on offer, make another question than the one that was calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from router_core.choice_model import Choice, TextVectors, softmax
from router_core.choices import ChoiceJudge
from router_core.errors import InputError
from router_core.label_sets import LabelSets

__all__ = ["ChoiceVerdicts", "Offer", "Verdict"]

_REMEMBERED: Final = 256


@dataclass(frozen=True, eq=False)
class Offer:
    """The choices that came with a query, recognised.

    Attributes
    ----------
    fitted
        Per choice offered, its position among the fitted ones, or -1.
    first
        Positions of the choices that count: of several alike only the first.
    unseen
        For those never fitted, the text as read.
    void
        Why no promise of coverage holds for this offer; empty when it does.
    whole
        Whether it is exactly the fitted choices, described as they were.
    """

    fitted: tuple[int, ...]
    first: tuple[int, ...]
    unseen: dict[int, TextVectors]
    void: str
    whole: bool


@dataclass(frozen=True, eq=False)
class Verdict:
    """One query judged.

    Attributes
    ----------
    order
        Positions offered, most probable first; repeated choices are left out.
    probability, p_value
        Per position offered; 0 for a repeated choice. Of a choice never fitted both are rough.
    members
        Positions in the set, most probable first; may be empty.
    taken
        Whether the certified rule takes the first of `order`.
    void
        Why no promise holds; empty when it does.
    """

    order: tuple[int, ...]
    probability: tuple[float, ...]
    p_value: tuple[float, ...]
    members: tuple[int, ...]
    taken: bool
    void: str


class ChoiceVerdicts:
    """Judges queries; remembers which choices were offered and how their texts read.

    Safe to share between threads, to copy and to pickle: what is remembered may be lost at any time.

    Parameters
    ----------
    judge
        A fitted judge.
    """

    def __init__(self, judge: ChoiceJudge) -> None:
        self.judge = judge
        self._exact = {choice: i for i, choice in enumerate(judge.choices)}
        self._by_name = _unique([choice.name for choice in judge.choices])
        self._by_text = _unique([choice.description for choice in judge.choices])
        self._offers: dict[tuple[Choice, ...], Offer] = {}

    def offer(self, choices: Sequence[Choice]) -> Offer:
        """Recognise the choices on offer.

        Raises
        ------
        InputError
            When there is none.
        """
        key = tuple(choices)
        found = self._offers.get(key)
        if found is None:
            found = self._recognise(key)
            if len(self._offers) >= _REMEMBERED:
                self._offers.clear()
            self._offers[key] = found
        return found

    def judge_query(self, text: str, choices: Sequence[Choice]) -> Verdict:
        """Judge one query.

        Raises
        ------
        InputError
            When no choice is on offer.
        """
        offer, judge = self.offer(choices), self.judge
        query = judge.model.read(text)
        scores = judge.model.scores(query)
        fitted = softmax(scores)
        size = len(offer.fitted)
        probability, p_value, inside = [0.0] * size, [0.0] * size, [False] * size
        limits = judge.sets.members(1.0 - fitted)
        top = float(scores.max())
        whole = float(np.exp(scores - top).sum())
        for at in offer.first:
            label = offer.fitted[at]
            if label >= 0:
                chance = float(fitted[label])
                probability[at], p_value[at] = chance, judge.sets.p(label, 1.0 - chance)
                inside[at] = bool(limits[label])
            else:
                probability[at] = _beside(judge.model.likeness_to(query, offer.unseen[at]) - top, whole)
                p_value[at] = _pooled(judge.sets, 1.0 - probability[at])
                inside[at] = p_value[at] > judge.sets.alpha
        order = tuple(sorted(offer.first, key=lambda at: (-probability[at], at)))
        members = tuple(at for at in order if inside[at])
        taken = offer.whole and judge.taken.takes(probability[order[0]])
        return Verdict(order, tuple(probability), tuple(p_value), members, taken, offer.void)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_offers": {}}

    def _recognise(self, choices: tuple[Choice, ...]) -> Offer:
        if not choices:
            raise InputError("No choice is on offer; give at least one.")
        fitted = [self._exact.get(choice, -1) for choice in choices]
        claimed = set(fitted)
        for at, choice in enumerate(choices):
            if fitted[at] < 0 and (label := self._alike(choice)) not in claimed:
                fitted[at] = label
                claimed.add(label)
        seen: set[Choice] = set()
        first, unseen, told = [], {}, []
        for at, (choice, label) in enumerate(zip(choices, fitted, strict=True)):
            if choice in seen:
                continue
            seen.add(choice)
            first.append(at)
            if label < 0:
                unseen[at] = self.judge.model.read(choice.text)
                told.append(f"{choice.name or choice.description[:40]!r} never fitted")
            elif _reworded(self.judge.choices[label].description, choice.description):
                told.append(f"{choice.name!r} described otherwise than fitted")
        missing = len(self.judge.choices) - len({label for label in fitted if label >= 0})
        whole = not told and not missing
        if missing and not self.judge.sets.per_label:
            told.append(f"{missing} of {len(self.judge.choices)} fitted choices not on offer")
        return Offer(tuple(fitted), tuple(first), unseen, "; ".join(told), whole)

    def _alike(self, choice: Choice) -> int:
        """Position of the only fitted choice of that name, else of that description, else -1."""
        named = self._by_name.get(choice.name, -1) if choice.name else -1
        return named if named >= 0 else self._by_text.get(choice.description, -1)


def _reworded(fitted: str, offered: str) -> bool:
    """Whether a description says something else than the one that was fitted, if there was one; spaces do not."""
    return bool(fitted) and fitted.split() != offered.split()


def _unique(keys: Sequence[str]) -> dict[str, int]:
    """Positions of the keys that stand there once."""
    return {key: i for i, key in enumerate(keys) if keys.count(key) == 1}


def _beside(logit: float, whole: float) -> float:
    """Probability of one more choice beside those whose exponentials sum to `whole`."""
    mine = float(np.exp(min(logit, 700.0)))
    return mine / (mine + whole)


def _pooled(sets: LabelSets, strangeness: float) -> float:
    """p-value against the right choices of all calibration queries together."""
    every: NDArray[np.float64] = np.sort(np.concatenate(sets.scores))
    return (len(every) - int(np.searchsorted(every, strangeness, side="left")) + 1) / (len(every) + 1)
