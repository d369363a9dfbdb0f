"""P(bad | evidence): from what is known of a query or of an answer to a risk and a predicted saving.

Source: METHOD.md 2.10 (evidence in the answer) and 2.11 (risk per dollar saved).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_core.encoder import Prediction
from router_core.evidence import PAIR_FEATURES, Evidence
from router_core.forest import Forest, Linear

__all__ = ["CostModel", "EvidenceModel", "Judgement", "ViewModels", "prompt_features"]

_SAVING_RANGE = (0.05, 20.0)
_LOGIT_RANGE = 7.0
_HIDDEN = 40
"""Leading numbers of the hidden vector in use; more of them changed nothing under cross-validation on train."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the models say before or after an answer.

    Attributes
    ----------
    risk
        P(bad), float64 in [0, 1]; NaN when something the model needs is missing.
    saving
        Predicted cost of the reference tier on this query, as a multiple of its mean cost on train; NaN when nobody
        asked for it.
    """

    risk: float
    saving: float


def prompt_features(prompt: str, prediction: Prediction, label: str, labels: tuple[str, ...]) -> list[float]:
    """Numbers known before any answer: router output, hidden vector, task label and prompt size.

    Parameters
    ----------
    label
        ``"task/subtask"`` as far as the view tells it, ``""`` when masked.
    labels
        Labels with a feature of their own: tasks, and subtasks as ``"task/subtask"``.
    """
    odds = [
        min(_LOGIT_RANGE, max(-_LOGIT_RANGE, math.log(p / (1.0 - p))))
        if 0.0 < p < 1.0
        else math.copysign(_LOGIT_RANGE, p - 0.5)
        for p in prediction.pass_probability[:-1].tolist()
    ]
    return [
        *odds,
        float(prediction.difficulty),
        *prediction.hidden[:_HIDDEN].tolist(),
        *(float(label == name or label.startswith(name + "/")) for name in labels),
        math.log1p(len(prompt)),
        math.log1p(prompt.count("\n")),
        math.log1p(prompt.count(" ")),
    ]


def _saving(model: Linear, x: NDArray[np.float32]) -> float:
    low, high = _SAVING_RANGE
    return round(min(high, max(low, math.exp(min(5.0, model.predict(x))))), 9)


@dataclass(frozen=True, eq=False)
class CostModel:
    """Predicts, before any answer, what the reference tier would cost on a query."""

    labels: tuple[str, ...]
    model: Linear

    def saving(self, of_prompt: Sequence[float]) -> float:
        """Predicted cost of the reference tier as a multiple of its mean cost on train, from `prompt_features`."""
        return _saving(self.model, np.asarray(of_prompt, np.float32))


@dataclass(frozen=True, eq=False)
class EvidenceModel:
    """P(bad | evidence) and the predicted saving for the answers of one tier.

    Attributes
    ----------
    earlier
        Cheaper tiers whose answers may have been tried before; the order of the pair features.
    keys
        Final answers with a feature of their own (those frequent on train).
    signals
        Signals in use: present in at least 99 % of this tier's train answers.
    risk, cost
        The fitted models.
    """

    earlier: tuple[str, ...]
    keys: tuple[str, ...]
    signals: tuple[str, ...]
    risk: Forest
    cost: Linear

    def features(self, of_prompt: Sequence[float], known: Evidence) -> NDArray[np.float32]:
        """Feature vector, float32, of `prompt_features` and evidence; NaN when a signal in use is missing."""
        absent = (-1.0,) * len(PAIR_FEATURES)
        pairs = [value for tier in self.earlier for value in known.pairs.get(tier, absent)]
        return np.asarray(
            [
                *known.answer,
                *pairs,
                *(float(known.key == key) for key in self.keys),
                *(known.signals.get(name, math.nan) for name in self.signals),
                *of_prompt,
            ],
            np.float32,
        )

    def judge(self, of_prompt: Sequence[float], known: Evidence, *, priced: bool = True) -> Judgement:
        """Judge one answer; the risk is NaN, which never is accepted, when a signal in use is missing.

        The saving is predicted where it is `priced`.
        """
        x = self.features(of_prompt, known)
        if not np.isfinite(x).all():
            return Judgement(math.nan, 1.0)
        return Judgement(round(self.risk.predict(x), 9), _saving(self.cost, x) if priced else math.nan)


@dataclass(frozen=True, eq=False)
class ViewModels:
    """The models of one view of the task label (named, subtask masked, all masked).

    Attributes
    ----------
    cost
        Cost of the reference tier before any answer.
    answers
        One model per cheap tier, None where train had no answers to learn from.
    """

    cost: CostModel
    answers: tuple[EvidenceModel | None, ...]

    def dump(self, view: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """JSON description and arrays, array names starting with the view."""
        arrays = self.cost.model.arrays(f"{view}.before.cost")
        tiers: list[dict[str, Any] | None] = []
        for k, model in enumerate(self.answers):
            tiers.append(None)
            if model is not None:
                tiers[-1] = {"earlier": model.earlier, "keys": model.keys, "signals": model.signals}
                arrays |= model.risk.arrays(f"{view}.{k}.risk") | model.cost.arrays(f"{view}.{k}.cost")
        return {"labels": self.cost.labels, "tiers": tiers}, arrays

    @classmethod
    def load(cls, view: str, text: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> "ViewModels":
        """Inverse of `dump`."""
        labels = tuple(text["labels"])
        answers = tuple(
            None
            if tier is None
            else EvidenceModel(
                tuple(tier["earlier"]),
                tuple(tier["keys"]),
                tuple(tier["signals"]),
                Forest.from_arrays(f"{view}.{k}.risk", arrays),
                Linear.from_arrays(f"{view}.{k}.cost", arrays),
            )
            for k, tier in enumerate(text["tiers"])
        )
        return cls(CostModel(labels, Linear.from_arrays(f"{view}.before.cost", arrays)), answers)
