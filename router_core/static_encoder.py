"""The static encoder: hashed text features and a few small matrices, served by plain numpy.

A text becomes a sparse vector ``x`` (words, word pairs, character n-grams) and a dense vector ``z`` (latent
topics of the words, prompt statistics). Every output is

    ``a[label] * (x' T) + b[label] * (cos(z' F + code[label]) B) + c[label]``

where the label is (task, subtask), (task, none) or masked: how much the two scores count beside what is known
of the label is fitted per level of masking. All outputs are logits: of the ``K - 1`` pass probabilities, of the
difficulty, and of the ``K`` expected qualities. The expected gap is the mean of two estimates: the difference of two
qualities, and the mean gaps of bad and good answers weighted by their probabilities.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from router_core.arrays import dump_arrays, load_arrays
from router_core.encoder import Prediction
from router_core.errors import BundleError
from router_core.text_features import BUCKETS, STATISTICS, text_features
from router_core.text_space import TextSpace, Vocabulary

__all__ = ["StaticArrays", "StaticEncoder"]

Float = NDArray[np.float64]

_FORMAT: Final = 1


@dataclass(frozen=True)
class StaticArrays:
    """Everything numeric of a static encoder, as stored.

    ``F`` features of which ``W`` are words, ``d`` latent dimensions, ``s`` statistics, ``D`` cosine features,
    ``L`` labels (row 0 is masked), ``m = 2 K`` outputs.
    """

    buckets: NDArray[np.int32]  # [F]
    weights: NDArray[np.float32]  # [F]
    topics: NDArray[np.float16]  # [W, d]
    center: NDArray[np.float64]  # [s]
    scale: NDArray[np.float64]  # [s]
    lexical: NDArray[np.float32]  # [F, m]
    frequencies: NDArray[np.float32]  # [d + s, D]
    codes: NDArray[np.float32]  # [L, D]
    smooth: NDArray[np.float64]  # [D, m]
    lexical_scale: NDArray[np.float64]  # [L, m]
    smooth_scale: NDArray[np.float64]  # [L, m]
    offset: NDArray[np.float64]  # [L, m]
    gap_if_bad: NDArray[np.float64]  # [K]
    gap_if_good: NDArray[np.float64]  # [K]


_DTYPES: Final = {
    "buckets": np.int32, "weights": np.float32, "topics": np.float16, "lexical": np.float32,
    "frequencies": np.float32, "codes": np.float32,
}  # fmt: skip


class StaticEncoder:
    """Serves a fitted static encoder.

    Parameters
    ----------
    tiers
        Names of the ``K`` tiers in cascade order.
    labels
        ``(task, subtask)`` of rows 1, 2, ... of the per-label arrays; ``(task, "")`` is the task with its
        subtask masked.
    arrays
        The numbers.
    """

    def __init__(self, tiers: tuple[str, ...], labels: list[tuple[str, str]], arrays: StaticArrays) -> None:
        self._tiers = tiers
        self._labels = labels
        self._arrays = arrays
        self._label_row: dict[tuple[str, str], int] = {label: row for row, label in enumerate(labels, start=1)}
        self._space = TextSpace(Vocabulary(arrays.buckets, arrays.weights), arrays.topics, arrays.center, arrays.scale)
        self._lexical = arrays.lexical.astype(np.float64)
        self._frequencies = arrays.frequencies.astype(np.float64)
        self._codes = arrays.codes.astype(np.float64)

    @property
    def kind(self) -> str:
        """``"static"``."""
        return "static"

    @property
    def tiers(self) -> tuple[str, ...]:
        """Names of the tiers in cascade order."""
        return self._tiers

    @property
    def hidden_size(self) -> int:
        """Length of the hidden vector."""
        return self._space.hidden_size

    def embed(self, text: str) -> Float:
        """Return the hidden vector of a text: topics, then a sketch of its words (zeros without words)."""
        features = text_features(text)
        return self._space.hidden(features, self._space.dense(features, *self._space.vocabulary.vector(features)))

    def label_row(self, task: str | None, subtask: str | None) -> int:
        """Return the row of the per-label arrays: the subtask's, else the task's, else 0 (masked)."""
        if task is None:
            return 0
        rows = self._label_row
        return rows.get((task, subtask or ""), rows.get((task, ""), 0))

    def predict(self, text: str, task: str | None, subtask: str | None) -> Prediction:
        """Predict for one query; a task or subtask that is None or was never seen counts as masked."""
        arrays = self._arrays
        label = self.label_row(task, subtask)
        features = text_features(text)
        rows, values, words = self._space.vocabulary.vector(features)
        dense = self._space.dense(features, rows, values, words)
        lexical = values @ self._lexical[rows]
        smooth = np.cos(dense @ self._frequencies + self._codes[label]) @ arrays.smooth
        out = arrays.lexical_scale[label] * lexical + arrays.smooth_scale[label] * smooth + arrays.offset[label]
        # tanh, unlike exp, cannot overflow: 1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2.
        chance = 0.5 + 0.5 * np.tanh(0.5 * out)
        tiers = len(self._tiers)
        difficulty = float(chance[tiers - 1])
        passing = chance[:tiers].copy()
        passing[-1] = 1.0
        by_quality = chance[-1] - chance[tiers:]
        by_pass = arrays.gap_if_bad * (1.0 - passing) + arrays.gap_if_good * passing
        gap = 0.5 * (by_quality + by_pass)
        return Prediction(passing, difficulty, self._space.hidden(features, dense), gap)

    def parts(self) -> dict[str, bytes]:
        """Return ``encoder.json`` and ``encoder.npz``; the bytes depend on the encoder alone."""
        header = {
            "kind": self.kind,
            "format": _FORMAT,
            "tiers": list(self._tiers),
            "labels": [list(label) for label in self._labels],
        }
        text = json.dumps(header, indent=1, sort_keys=True, ensure_ascii=True) + "\n"
        return {"encoder.json": text.encode("ascii"), "encoder.npz": dump_arrays(vars(self._arrays))}

    @classmethod
    def from_parts(cls, parts: Mapping[str, bytes]) -> Self:
        """Read an encoder back.

        Raises
        ------
        BundleError
            If a part is missing, unreadable, of another format, or its shapes do not fit together.
        """
        try:
            header = json.loads(parts["encoder.json"])
            if header["kind"] != "static" or header["format"] != _FORMAT:
                raise ValueError("not a static encoder of a known format")
            tiers = tuple(str(name) for name in header["tiers"])
            labels = [(str(task), str(subtask)) for task, subtask in header["labels"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BundleError(f"The part encoder.json is malformed ({error}); fit the bundle again.") from error
        try:
            arrays = _typed(load_arrays("encoder.npz", parts["encoder.npz"]))
            _check(arrays, len(labels) + 1, 2 * len(tiers))
        except BundleError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(f"The part encoder.npz is malformed ({error}); fit the bundle again.") from error
        return cls(tiers, labels, arrays)


def _typed(found: Mapping[str, NDArray[Any]]) -> StaticArrays:
    """The arrays by name, with the types that were written."""
    names = [field.name for field in fields(StaticArrays)]
    for name in names:
        array = found[name]
        if array.dtype != _DTYPES.get(name, np.float64):
            raise ValueError(f"{name} has type {array.dtype}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite")
    return StaticArrays(**{name: found[name] for name in names})


def _check(arrays: StaticArrays, labels: int, outputs: int) -> None:
    """Refuse arrays whose shapes do not fit together or that would index out of range."""
    size, statistics = len(arrays.buckets), len(STATISTICS)
    words = int(np.count_nonzero(arrays.buckets < BUCKETS))
    if arrays.topics.ndim != 2 or arrays.smooth.ndim != 2:
        raise ValueError("topics and smooth need two axes")
    topics, cosines = arrays.topics.shape[1], arrays.smooth.shape[0]
    wanted = {
        "buckets": (size,), "weights": (size,), "topics": (words, topics), "center": (statistics,),
        "scale": (statistics,), "lexical": (size, outputs), "frequencies": (topics + statistics, cosines),
        "codes": (labels, cosines), "smooth": (cosines, outputs), "lexical_scale": (labels, outputs),
        "smooth_scale": (labels, outputs), "offset": (labels, outputs),
        "gap_if_bad": (outputs // 2,), "gap_if_good": (outputs // 2,),
    }  # fmt: skip
    for name, shape in wanted.items():
        if getattr(arrays, name).shape != shape:
            raise ValueError(f"{name} has shape {getattr(arrays, name).shape}, not {shape}")
    if size and (arrays.buckets[0] < 0 or arrays.buckets[-1] >= 2 * BUCKETS or (np.diff(arrays.buckets) <= 0).any()):
        raise ValueError("buckets do not rise within their range")
    if (arrays.scale <= 0.0).any() or outputs < 4:
        raise ValueError("scale must be positive and two tiers are needed")
