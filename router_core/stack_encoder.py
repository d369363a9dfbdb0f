"""The stacked encoder: several encoders and a vote of the nearest train queries, weighed into one prediction.

Per label row and tier the logit of the pass probability is a weighted sum of the logits of the bases and of the share
of neighbours that passed; gap and difficulty likewise. A weight is never negative. The hidden vector is that of one
base.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from router_core.arrays import dump_arrays, dump_json, load_arrays
from router_core.baselines import Neighbours
from router_core.encoder import Encoder, Prediction, load_encoder
from router_core.errors import BundleError
from router_core.onnx_encoder import label_row

__all__ = ["StackEncoder", "StackWeights", "log_odds", "vote_odds"]

Float = NDArray[np.float64]

_FORMAT: Final = 1
_SURE: Final = 1e-6


def log_odds(chance: Float) -> Float:
    """Log odds of probabilities, which are first kept away from 0 and 1."""
    kept = np.clip(chance, _SURE, 1.0 - _SURE)
    return np.asarray(np.log(kept / (1.0 - kept)))


def vote_odds(near: Neighbours, risk: Float) -> Float:
    """Log odds of the share of neighbours that passed, from their P(bad); half a vote is added to either side."""
    votes = min(near.k, len(near.hidden))
    passed = votes * (1.0 - risk)
    return np.asarray(np.log((passed + 0.5) / (votes - passed + 0.5)))


@dataclass(frozen=True)
class StackWeights:
    """The numbers of a stack, as stored: ``L`` label rows (row 0 is masked), ``K`` tiers, ``B`` bases.

    Attributes
    ----------
    pass_weight, pass_offset
        ``[L, K - 1, C]`` and ``[L, K - 1]``: of the log odds of the bases and, where neighbours vote, of their share;
        ``C`` is ``B`` or ``B + 1``.
    gap_weight, gap_offset
        ``[L, K - 1, B + 1]`` and ``[L, K - 1]``: of the gaps of the bases and of the stack's probability of a bad
        answer.
    difficulty_weight, difficulty_offset
        ``[L, B]`` and ``[L]``: of the log odds of the bases' difficulties.
    """

    pass_weight: Float
    pass_offset: Float
    gap_weight: Float
    gap_offset: Float
    difficulty_weight: Float
    difficulty_offset: Float

    @classmethod
    def blank(cls, rows: int, cheap: int, bases: int, *, voting: bool) -> Self:
        """All weights zero."""
        return cls(
            np.zeros((rows, cheap, bases + voting)), np.zeros((rows, cheap)), np.zeros((rows, cheap, bases + 1)),
            np.zeros((rows, cheap)), np.zeros((rows, bases)), np.zeros(rows),
        )  # fmt: skip


class StackEncoder:
    """Serves a fitted stack.

    Parameters
    ----------
    bases
        The encoders, all of the same tiers.
    hidden
        Which of them gives the hidden vector, in which neighbours are looked for.
    labels
        ``(task, subtask)`` of label rows 1, 2, ...; ``(task, "")`` is the task with its subtask masked.
    weights
        The numbers.
    neighbours
        Train queries that vote, or None.
    """

    def __init__(
        self,
        bases: Sequence[Encoder],
        hidden: int,
        labels: Sequence[tuple[str, str]],
        weights: StackWeights,
        neighbours: Neighbours | None,
    ) -> None:
        self.bases, self.labels, self.weights, self.neighbours = tuple(bases), tuple(labels), weights, neighbours
        self._hidden = hidden
        self._rows = {label: row for row, label in enumerate(self.labels, start=1)}

    @property
    def kind(self) -> str:
        """``"stack"``."""
        return "stack"

    @property
    def tiers(self) -> tuple[str, ...]:
        """Names of the tiers in cascade order."""
        return self.bases[0].tiers

    @property
    def hidden_size(self) -> int:
        """Length of the hidden vector."""
        return self.bases[self._hidden].hidden_size

    def embed(self, text: str) -> Float:
        """Return the hidden vector of a text, float64 ``[hidden_size]``; no label bears on it."""
        return self.bases[self._hidden].embed(text)

    @property
    def threads(self) -> int:
        """Threads of one prediction: those of the base that takes most."""
        return max(getattr(base, "threads", 1) for base in self.bases)

    def predict(self, text: str, task: str | None, subtask: str | None) -> Prediction:
        """Predict for one query; a task or subtask that is None or was never seen counts as masked."""
        found = [base.predict(text, task, subtask) for base in self.bases]
        weights, row = self.weights, label_row(self._rows, task, subtask)
        hidden = found[self._hidden].hidden
        columns = log_odds(np.stack([one.pass_probability[:-1] for one in found], axis=1))
        if self.neighbours is not None:
            votes = vote_odds(self.neighbours, self.neighbours.vote(hidden))
            columns = np.column_stack((columns, votes))
        # tanh, unlike exp, cannot overflow: 1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2.
        odds = (weights.pass_weight[row] * columns).sum(axis=1) + weights.pass_offset[row]
        chance = np.clip(0.5 + 0.5 * np.tanh(0.5 * odds), _SURE, 1.0 - _SURE)
        gaps = np.column_stack([*(one.gap[:-1] for one in found), 1.0 - chance])
        gap = (weights.gap_weight[row] * gaps).sum(axis=1) + weights.gap_offset[row]
        hard = log_odds(np.array([one.difficulty for one in found]))
        difficulty = float(weights.difficulty_weight[row] @ hard + weights.difficulty_offset[row])
        return Prediction(
            np.append(chance, 1.0),
            0.5 + 0.5 * math.tanh(0.5 * difficulty),
            hidden,
            np.append(np.clip(gap, -1.0, 1.0), 0.0),
        )

    def parts(self) -> dict[str, bytes]:
        """Return ``encoder.json``, ``encoder.npz``, and the parts of base ``i`` behind ``base<i>.``."""
        near = self.neighbours
        header = {
            "kind": self.kind, "format": _FORMAT, "tiers": self.tiers, "labels": self.labels,
            "bases": len(self.bases), "hidden": self._hidden, "neighbours": None if near is None else near.k,
        }  # fmt: skip
        arrays: dict[str, NDArray[Any]] = dict(vars(self.weights))
        if near is not None:
            arrays |= {"hidden": near.hidden.astype(np.float16), "passed": near.passed}
        parts = {"encoder.json": dump_json(header), "encoder.npz": dump_arrays(arrays)}
        for i, base in enumerate(self.bases):
            parts |= {f"base{i}.{name}": content for name, content in base.parts().items()}
        return parts

    @classmethod
    def from_parts(cls, parts: Mapping[str, bytes], threads: int = 1) -> Self:
        """Read a stack back, to be served on so many threads.

        Raises
        ------
        BundleError
            If a part is missing or malformed, or the parts do not fit together.
        """
        try:
            header = json.loads(parts["encoder.json"])
            if header["kind"] != "stack" or header["format"] != _FORMAT:
                raise ValueError("not a stacked encoder of a known format")
            tiers = tuple(str(name) for name in header["tiers"])
            labels = [(str(task), str(subtask)) for task, subtask in header["labels"]]
            size, hidden, k = int(header["bases"]), int(header["hidden"]), header["neighbours"]
            if not (1 <= size <= 9 and 0 <= hidden < size and (k is None or (isinstance(k, int) and k > 0))):
                raise ValueError("its bases, hidden vector or neighbours are impossible")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BundleError(f"The part encoder.json is malformed ({error}); fit the bundle again.") from error
        bases = [_base(parts, i, tiers, threads) for i in range(size)]
        if "encoder.npz" not in parts:
            raise BundleError("The bundle has no part encoder.npz; fit the bundle again.")
        try:
            arrays = load_arrays("encoder.npz", parts["encoder.npz"])
            shapes = vars(StackWeights.blank(len(labels) + 1, len(tiers) - 1, size, voting=k is not None))
            weights = StackWeights(
                **{
                    field.name: _weights(field.name, arrays[field.name], shapes[field.name].shape)
                    for field in fields(StackWeights)
                }
            )
            near = None if k is None else _neighbours(arrays, k, bases[hidden].hidden_size, len(tiers) - 1)
        except BundleError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(f"The part encoder.npz is malformed ({error}); fit the bundle again.") from error
        return cls(bases, hidden, labels, weights, near)


def _base(parts: Mapping[str, bytes], number: int, tiers: tuple[str, ...], threads: int) -> Encoder:
    """Read one base; a stack in a stack, which nobody makes, could be nested without end."""
    prefix = f"base{number}."
    mine = {name.removeprefix(prefix): content for name, content in parts.items() if name.startswith(prefix)}
    try:
        kind = json.loads(mine["encoder.json"])["kind"] if "encoder.json" in mine else None
        if kind == "stack":
            raise BundleError("a stack holds no stack; fit the bundle again.")
        base = load_encoder(mine, threads)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"Of the stacked encoder, the parts {prefix}* are malformed: {error}") from error
    if base.tiers != tiers:
        raise BundleError(f"Of the stacked encoder, the parts {prefix}* are of other tiers; fit the bundle again.")
    return base


def _weights(name: str, array: NDArray[Any], shape: tuple[int, ...]) -> Float:
    if array.dtype != np.float64 or array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{name} is no finite float64 array of shape {shape}")
    return array


def _neighbours(arrays: Mapping[str, NDArray[Any]], k: int, size: int, cheap: int) -> Neighbours:
    hidden, passed = arrays["hidden"], arrays["passed"]
    if hidden.dtype != np.float16 or hidden.ndim != 2 or hidden.shape[1] != size or not np.isfinite(hidden).all():
        raise ValueError(f"hidden is no finite float16 array of {size} columns")
    if passed.dtype != np.uint8 or passed.shape != (len(hidden), cheap) or not len(hidden) or (passed > 1).any():
        raise ValueError(f"passed is no array of zeros and ones of shape {(len(hidden), cheap)}")
    return Neighbours(hidden.astype(np.float32), passed, k)
