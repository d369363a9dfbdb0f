"""Cheap encoders and their trainers, for tests of the stack and of the choice among encoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from router_core.encoder import Encoder, Examples, Prediction


@dataclass
class RuleEncoder:
    """Pass probability of all cheap tiers by a rule of the text; the hidden vector is drawn from the text's hash."""

    tiers: tuple[str, ...]
    rule: Callable[[str], float]
    seen: list[str] = field(default_factory=list)
    kind: str = "rule"
    hidden_size: int = 6

    def predict(self, text: str, task: str | None, subtask: str | None) -> Prediction:
        """Apply the rule."""
        del task, subtask
        self.seen.append(text)
        chance = np.append(np.full(len(self.tiers) - 1, self.rule(text)), 1.0)
        return Prediction(chance, float(1.0 - chance[0]), self.embed(text), 1.0 - chance)

    def embed(self, text: str) -> NDArray[np.float64]:
        """Six numbers that say nothing but which text it is."""
        return np.random.default_rng(list(text.encode())).standard_normal(self.hidden_size)

    def parts(self) -> dict[str, bytes]:
        """Nothing that could be read back."""
        return {}


@dataclass
class RuleTrainer:
    """Gives a `RuleEncoder` whose rule may be learned: `learn` turns examples into a rule."""

    name: str
    learn: Callable[[Examples], Callable[[str], float]]
    trained: list[Examples] = field(default_factory=list)

    def train(self, examples: Examples, *, seed: int) -> RuleEncoder:
        """Learn the rule and remember the examples."""
        del seed
        self.trained.append(examples)
        return RuleEncoder(examples.tiers, self.learn(examples))


@dataclass(frozen=True)
class Renamed:
    """A trainer under another name."""

    name: str
    inner: object

    def train(self, examples: Examples, *, seed: int) -> Encoder:
        """Train the inner one."""
        return self.inner.train(examples, seed=seed)  # type: ignore[attr-defined,no-any-return]


def parrot(examples: Examples) -> Callable[[str], float]:
    """Repeat what was seen of a text: .95 or .05; .5 of a text that was not."""
    known = dict(zip(examples.text, examples.passes()[:, 0].tolist(), strict=True))
    return lambda text: {True: 0.95, False: 0.05, None: 0.5}[known.get(text)]
