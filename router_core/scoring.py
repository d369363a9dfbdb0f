"""The way of a query up to its scores; the same code serves, fits and certifies, one query at a time."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from router_core.arrays import dump_arrays, dump_json, load_arrays, load_json
from router_core.encoder import Encoder, Prediction
from router_core.evidence import Evidence, evidence
from router_core.evidence_model import Judgement, ViewModels, prompt_features
from router_core.policy import coin

__all__ = ["MASKED", "NAMED", "TASK_ONLY", "Before", "Scorer", "View"]

NAMED = "named"
TASK_ONLY = "task"
MASKED = "masked"


@dataclass(frozen=True, slots=True)
class View:
    """What the router is told of the task label.

    Attributes
    ----------
    scope
        The scope whose policy and certificate apply: a task, ``"task/*"`` or ``"*"``.
    task, subtask
        The label as far as it is told; None = masked.
    """

    scope: str
    task: str | None
    subtask: str | None

    @property
    def label(self) -> str:
        """The label as far as it is told, as ``"task/subtask"``; ``""`` when masked."""
        return "/".join(part for part in (self.task, self.subtask) if part)

    @property
    def models(self) -> str:
        """Which set of models answers for this view."""
        if self.scope == "*":
            return MASKED
        return TASK_ONLY if self.scope.endswith("/*") else NAMED


@dataclass(frozen=True, slots=True)
class Before:
    """What is known of a query before any answer; `features` are those of the prompt (`prompt_features`)."""

    text: str
    view: View
    prediction: Prediction
    features: list[float]
    judgements: tuple[Judgement, ...]
    toss: float


@dataclass(frozen=True, eq=False)
class Scorer:
    """Encoder and evidence models.

    Attributes
    ----------
    tiers
        Names of all tiers in cascade order, the reference last.
    encoder
        The router's encoder.
    models
        Evidence models by the name of the view.
    """

    tiers: tuple[str, ...]
    encoder: Encoder
    models: Mapping[str, ViewModels]

    def before(self, text: str, view: View, *, priced: bool = True) -> Before:
        """Everything known before an answer: one encoder call. The saving is predicted where it is `priced`."""
        prediction = self.encoder.predict(text, view.task, view.subtask)
        cost = self.models[view.models].cost
        features = prompt_features(text, prediction, view.label, cost.labels)
        saving = cost.saving(features) if priced else math.nan
        judgements = tuple(Judgement(round(1.0 - p, 9), saving) for p in prediction.pass_probability[:-1].tolist())
        return Before(text, view, prediction, features, judgements, coin(text))

    def judges(self, tier: int, view: View) -> bool:
        """Whether answers of this tier can be judged; if not, they are served as they come."""
        return self.models[view.models].answers[tier] is not None

    def after(
        self,
        before: Before,
        tier: int,
        answer: str,
        tried: Mapping[str, str],
        signals: Mapping[str, float],
        *,
        priced: bool = True,
    ) -> Judgement:
        """Judge the answer of one cheap tier.

        Parameters
        ----------
        before
            From `before` on the same query.
        tier
            Index of the tier that answered.
        answer
            Its text.
        tried
            Answers of the tiers tried before, by tier name.
        signals
            Numbers that came with the answer.
        priced
            Whether the saving is asked for.
        """
        if not self.judges(tier, before.view):
            return before.judgements[tier]
        return self.judge(before, tier, evidence(before.text, answer, tried, signals), priced=priced)

    def judge(self, before: Before, tier: int, known: Evidence, *, priced: bool = True) -> Judgement:
        """Judge evidence already computed."""
        model = self.models[before.view.models].answers[tier]
        if model is None:
            return before.judgements[tier]
        return model.judge(before.features, known, priced=priced)

    def parts(self) -> dict[str, bytes]:
        """Encoder and evidence models as bundle parts."""
        text: dict[str, Any] = {"tiers": self.tiers, "views": {}}
        arrays: dict[str, Any] = {}
        for name, models in sorted(self.models.items()):
            text["views"][name], part = models.dump(name)
            arrays |= part
        return {
            **self.encoder.parts(),
            "evidence_model.json": dump_json(text),
            "evidence_model.npz": dump_arrays(arrays),
        }

    @classmethod
    def from_parts(cls, encoder: Encoder, parts: Mapping[str, bytes]) -> "Scorer":
        """Inverse of `parts`, with the encoder already loaded."""
        text = load_json("evidence_model.json", parts["evidence_model.json"])
        arrays = load_arrays("evidence_model.npz", parts["evidence_model.npz"])
        models = {name: ViewModels.load(name, view, arrays) for name, view in text["views"].items()}
        return cls(tuple(text["tiers"]), encoder, models)
