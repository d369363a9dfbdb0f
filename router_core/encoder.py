"""The router's model, as a protocol: text and label in, pass probabilities of the tiers out.

An encoder is fitted offline by an ``EncoderTrainer`` and travels in a bundle as named parts; ``load_encoder``
reads them back by the ``kind`` written in ``encoder.json``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from router_core.bad import is_bad
from router_core.errors import BundleError, InputError
from router_core.groups import normalise

__all__ = ["THREADS_VARIABLE", "Encoder", "EncoderTrainer", "Examples", "Prediction", "load_encoder", "serving_threads"]

THREADS_VARIABLE: Final = "ROUTENLP_THREADS"
"""Environment variable: threads of one prediction where the caller does not say."""

_MOST_THREADS: Final = 1024


@dataclass(frozen=True)
class Prediction:
    """What the router thinks of one query before any tier is called.

    Attributes
    ----------
    pass_probability
        float64 ``[K]``: probability that the tier's answer is not bad (B = 0); 1.0 for the reference tier.
    difficulty
        Expected index of the cheapest tier that passes, divided by ``K - 1``; in [0, 1].
    hidden
        float64 ``[d]``: a vector of the text alone; the cosine of two of them measures likeness.
    gap
        float64 ``[K]``: expected quality of the reference tier minus that of the tier, in [-1, 1]; 0.0 for
        the reference tier. RouteLLM's APGR rewards this order, the certificate that of ``pass_probability``.
    """

    pass_probability: NDArray[np.float64]
    difficulty: float
    hidden: NDArray[np.float64]
    gap: NDArray[np.float64]


@runtime_checkable
class Encoder(Protocol):
    """A fitted router model, ready to serve."""

    @property
    def kind(self) -> str:
        """Name under which ``load_encoder`` finds the class."""

    @property
    def tiers(self) -> tuple[str, ...]:
        """Names of the tiers in cascade order; the last is the reference tier."""

    @property
    def hidden_size(self) -> int:
        """Length of ``Prediction.hidden``."""

    def predict(self, text: str, task: str | None, subtask: str | None) -> Prediction:
        """Predict for one query; a task or subtask that is None or was never seen counts as masked."""

    def embed(self, text: str) -> NDArray[np.float64]:
        """Return the hidden vector of a text, float64 ``[hidden_size]``; equal to ``predict(...).hidden``."""

    def parts(self) -> dict[str, bytes]:
        """Return file name to content, for the bundle; the same encoder always gives the same bytes."""


@dataclass(frozen=True)
class Examples:
    """Queries an encoder is trained on: ``n`` rows, ``K`` tiers in cascade order.

    Attributes
    ----------
    text, task, subtask
        ``n`` strings each; a subtask of ``""`` means none.
    quality, cost
        float64 ``[n, K]``, quality in [0, 1] and cost in US dollars; the last column is the reference tier.
    tolerance
        Quality a cheap answer may lose to the reference tier without being bad.
    tiers
        ``K`` names.
    group
        ``n`` names of groups, or nothing: queries of one group are one question, so that neither may help to predict
        the other out of fold. Without names, texts alike but for case and punctuation are one group.
    held_out
        ``(text, task, subtask)`` of ungraded queries that nothing is fitted on: a trainer may check on them what its
        export does, and nothing else.
    """

    text: list[str]
    task: list[str]
    subtask: list[str]
    quality: NDArray[np.float64]
    cost: NDArray[np.float64]
    tolerance: float
    tiers: tuple[str, ...]
    group: list[str] = field(default_factory=list)
    held_out: tuple[tuple[str, str, str], ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.text), len(self.tiers))
        if len(self.task) != shape[0] or len(self.subtask) != shape[0]:
            raise InputError(f"Examples need one task and one subtask for each of {shape[0]} texts.")
        if self.group and len(self.group) != shape[0]:
            raise InputError(f"Examples need one group for each of {shape[0]} texts, or none at all.")
        if self.quality.shape != shape or self.cost.shape != shape:
            raise InputError(
                f"Examples need quality and cost of shape {shape}; got {self.quality.shape} and {self.cost.shape}."
            )
        if shape[1] < 2:
            raise InputError("Examples need at least two tiers: a cheaper one and the reference tier.")

    def __len__(self) -> int:
        return len(self.text)

    def take(self, indices: Sequence[int] | NDArray[np.integer]) -> Examples:
        """Return the rows at ``indices``, in that order."""
        rows = [int(i) for i in indices]
        return Examples(
            [self.text[i] for i in rows],
            [self.task[i] for i in rows],
            [self.subtask[i] for i in rows],
            self.quality[rows],
            self.cost[rows],
            self.tolerance,
            self.tiers,
            [self.group[i] for i in rows] if self.group else [],
            self.held_out,
        )

    def groups(self) -> NDArray[np.intp]:
        """Return the number of every query's group, ``[n]``, counted from 0 in order of appearance."""
        first: dict[str, int] = {}
        names = self.group or [normalise(text) or text for text in self.text]
        return np.array([first.setdefault(name, len(first)) for name in names], dtype=np.intp)

    def passes(self) -> NDArray[np.bool_]:
        """Return bool ``[n, K]``: not bad (B = 0, `router_core.bad`)."""
        return ~is_bad(self.quality[:, -1:], self.quality, self.tolerance)

    def difficulty(self) -> NDArray[np.float64]:
        """Return float64 ``[n]``: index of the first tier that passes, divided by ``K - 1``."""
        return np.asarray(np.argmax(self.passes(), axis=1) / (len(self.tiers) - 1), dtype=np.float64)


class EncoderTrainer(Protocol):
    """Fits an encoder; handed to ``fit()``."""

    @property
    def name(self) -> str:
        """Name on the command line (``--encoder``)."""

    def train(self, examples: Examples, *, seed: int) -> Encoder:
        """Fit on all examples; the same examples and seed give an encoder with the same parts."""


def serving_threads(threads: int | None = None) -> int:
    """Threads of one prediction: as asked for, else what ``ROUTENLP_THREADS`` says, else one.

    Raises
    ------
    InputError
        If that is not a whole number of at least 1.
    """
    asked = os.environ.get(THREADS_VARIABLE, "1") if threads is None else str(threads)
    if not (asked.isascii() and asked.isdigit() and 1 <= int(asked) <= _MOST_THREADS):
        source = THREADS_VARIABLE if threads is None else "threads"
        raise InputError(f"{source} = {asked!r} must be a whole number from 1 to {_MOST_THREADS}.")
    return int(asked)


def load_encoder(parts: Mapping[str, bytes], threads: int = 1) -> Encoder:
    """Read an encoder back from the parts it was stored as.

    Parameters
    ----------
    parts
        File name to content; ``encoder.json`` names the kind. Parts of other owners are ignored.
    threads
        Threads of one prediction, where the encoder has a use for them.

    Raises
    ------
    BundleError
        If ``encoder.json`` is missing or malformed, the kind is unknown, or another part is malformed.
    """
    if "encoder.json" not in parts:
        raise BundleError("The bundle has no part encoder.json; fit the bundle again.")
    try:
        header = json.loads(parts["encoder.json"])
        kind = header["kind"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError("The part encoder.json is not a JSON object with a kind; fit the bundle again.") from error
    if kind == "static":
        from router_core.static_encoder import StaticEncoder

        return StaticEncoder.from_parts(parts)
    if kind == "onnx":
        from router_core.onnx_encoder import OnnxEncoder

        return OnnxEncoder.from_parts(parts, threads)
    if kind == "stack":
        from router_core.stack_encoder import StackEncoder

        return StackEncoder.from_parts(parts, threads)
    raise BundleError(f"The part encoder.json names the unknown encoder kind {kind!r}; update routenlp or fit again.")
