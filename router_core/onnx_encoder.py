"""The transformer router as served: one ONNX graph, a tokenizer, and a table of labels.

The graph holds the encoder, its pooling and the heads; ``exporters.transformer`` makes it. One query at a time: the
same code scores offline and online, so that what was certified is what is served.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from router_core.arrays import dump_json
from router_core.encoder import Prediction
from router_core.errors import BundleError
from router_core.text_tokens import TextTokens

__all__ = ["INPUTS", "OUTPUTS", "OnnxEncoder", "OnnxHeader", "label_row", "open_session", "read_outputs"]

INPUTS: Final = ("input_ids", "attention_mask", "label")
"""Inputs of the graph: int64 ``[b, t]``, ``[b, t]`` and ``[b]`` (row of the label table, 0 = masked)."""

OUTPUTS: Final = ("pass_probability", "gap", "difficulty", "hidden")
"""Outputs of the graph: float32 ``[b, K - 1]``, ``[b, K - 1]``, ``[b]`` and ``[b, d]``."""

_FORMAT: Final = 1
_REMEMBERED: Final = 512


@dataclass(frozen=True)
class OnnxHeader:
    """What ``encoder.json`` says.

    Attributes
    ----------
    tiers
        Names of the ``K`` tiers in cascade order.
    labels
        ``(task, subtask)`` of label rows 1, 2, ...; ``(task, "")`` is the task with its subtask masked.
    hidden_size
        Length of the hidden vector.
    max_tokens
        Tokens kept of a text, special tokens included.
    positions
        Length of the encoder's position table.
    vocabulary
        Rows of the encoder's token table.
    vocabulary_sha256
        Digest of the vocabulary the graph was made for (`TextTokens.digest`).
    told
        What the exporter wants remembered: the source of the weights, agreement with fp32, losses.
    """

    tiers: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]
    hidden_size: int
    max_tokens: int
    positions: int
    vocabulary: int
    vocabulary_sha256: str
    told: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        """The part ``encoder.json``."""
        return dump_json({
            "kind": "onnx", "format": _FORMAT, "tiers": self.tiers, "labels": self.labels,
            "hidden_size": self.hidden_size, "max_tokens": self.max_tokens, "positions": self.positions,
            "vocabulary": self.vocabulary, "vocabulary_sha256": self.vocabulary_sha256, "told": dict(self.told),
        })  # fmt: skip

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read the part ``encoder.json``.

        Raises
        ------
        BundleError
            If it is malformed.
        """
        try:
            data = json.loads(content)
            if data["kind"] != "onnx" or data["format"] != _FORMAT:
                raise ValueError("not an ONNX encoder of a known format")
            header = cls(
                tiers=tuple(str(name) for name in data["tiers"]),
                labels=tuple((str(task), str(subtask)) for task, subtask in data["labels"]),
                hidden_size=int(data["hidden_size"]),
                max_tokens=int(data["max_tokens"]),
                positions=int(data["positions"]),
                vocabulary=int(data["vocabulary"]),
                vocabulary_sha256=str(data["vocabulary_sha256"]),
                told=dict(data["told"]),
            )
            if len(header.tiers) < 2 or header.hidden_size < 1:
                raise ValueError("two tiers and a hidden vector are needed")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BundleError(f"The part encoder.json is malformed ({error}); fit the bundle again.") from error
        return header


class OnnxEncoder:
    """Serves a fitted transformer router with ONNX Runtime.

    Parameters
    ----------
    header
        What ``encoder.json`` says.
    graph, tokenizer
        The parts ``encoder.onnx`` and ``tokenizer.json``.
    threads
        Threads of one prediction; how a process serves, so no part of the bundle. More than one pays only where
        cores idle.

    Raises
    ------
    BundleError
        If graph, tokenizer and header do not fit together.
    """

    def __init__(self, header: OnnxHeader, graph: bytes, tokenizer: bytes, threads: int = 1) -> None:
        self.header, self.threads = header, threads
        self._graph, self._tokenizer = graph, tokenizer
        self.tokens = TextTokens(tokenizer, header.max_tokens)
        _check_tokens(header, self.tokens)
        self._rows = {label: row for row, label in enumerate(header.labels, start=1)}
        self._session = open_session(graph, threads)
        _check_names(self._session)
        self._lock = Lock()
        self._known: OrderedDict[bytes, dict[int, Prediction]] = OrderedDict()
        self._probe()

    @property
    def kind(self) -> str:
        """``"onnx"``."""
        return "onnx"

    @property
    def tiers(self) -> tuple[str, ...]:
        """Names of the tiers in cascade order."""
        return self.header.tiers

    @property
    def hidden_size(self) -> int:
        """Length of the hidden vector."""
        return self.header.hidden_size

    def predict(self, text: str, task: str | None, subtask: str | None) -> Prediction:
        """Predict for one query; a task or subtask that is None or was never seen counts as masked."""
        return self._predict(self.tokens.ids(text), label_row(self._rows, task, subtask))

    def embed(self, text: str) -> NDArray[np.float64]:
        """Return the hidden vector of a text, float64 ``[hidden_size]``; no label bears on it."""
        ids = self.tokens.ids(text)
        with self._lock:
            known = next(iter(self._known.get(ids.tobytes(), {}).values()), None)
        return (known or self._predict(ids, 0)).hidden

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_parts, (self.parts(), self.threads)

    def parts(self) -> dict[str, bytes]:
        """Return the parts ``encoder.json``, ``encoder.onnx`` and ``tokenizer.json``."""
        return {
            "encoder.json": self.header.to_bytes(),
            "encoder.onnx": self._graph,
            "tokenizer.json": self._tokenizer,
        }

    @classmethod
    def from_parts(cls, parts: Mapping[str, bytes], threads: int = 1) -> Self:
        """Read an encoder back; see the class for `threads`.

        Raises
        ------
        BundleError
            If a part is missing or malformed, or the parts do not fit together.
        """
        for name in ("encoder.json", "encoder.onnx", "tokenizer.json"):
            if name not in parts:
                raise BundleError(f"The bundle has no part {name}; fit the bundle again.")
        header = OnnxHeader.from_bytes(parts["encoder.json"])
        return cls(header, parts["encoder.onnx"], parts["tokenizer.json"], threads)

    def _predict(self, ids: NDArray[np.int64], row: int) -> Prediction:
        key = ids.tobytes()
        with self._lock:
            known = self._known.get(key, {}).get(row)
            if known is not None:
                self._known.move_to_end(key)
                return known
        found = self._run(ids, row)
        with self._lock:
            self._known.setdefault(key, {})[row] = found
            self._known.move_to_end(key)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return found

    def _run(self, ids: NDArray[np.int64], row: int) -> Prediction:
        batch = ids[None, :]
        feed = {"input_ids": batch, "attention_mask": np.ones_like(batch), "label": np.array([row], dtype=np.int64)}
        return read_outputs(self._session.run(OUTPUTS, feed))

    def _probe(self) -> None:
        """Run once, with the most tokens and the last label, so that a graph that cannot serve is refused at load."""
        header = self.header
        ids = self.tokens.ids("a " * header.max_tokens)
        try:
            found = self._run(ids, len(header.labels))
        except Exception as error:  # onnxruntime has no public base class of its errors
            reason = str(error).splitlines()[0]
            raise BundleError(f"The part encoder.onnx does not run ({reason}); fit the bundle again.") from error
        sizes = (len(found.pass_probability), len(found.gap), len(found.hidden))
        if sizes != (len(header.tiers), len(header.tiers), header.hidden_size):
            raise BundleError(
                f"The part encoder.onnx gives {sizes[0]} pass probabilities, {sizes[1]} gaps and {sizes[2]} hidden "
                f"values where encoder.json names {len(header.tiers)} tiers and {header.hidden_size} hidden values; "
                "fit the bundle again."
            )
        if not (np.isfinite(found.pass_probability).all() and np.isfinite(found.hidden).all()):
            raise BundleError("The part encoder.onnx gives values that are not finite; fit the bundle again.")


def label_row(rows: Mapping[tuple[str, str], int], task: str | None, subtask: str | None) -> int:
    """Return the row of the label table: the subtask's, else the task's, else 0 (masked)."""
    if task is None:
        return 0
    return rows.get((task, subtask or ""), rows.get((task, ""), 0))


def open_session(
    graph: bytes, threads: int = 1, part: str = "encoder.onnx", again: str = "fit the bundle again"
) -> Any:
    """Open an ONNX Runtime session whose threads do not spin.

    Parameters
    ----------
    graph
        An ONNX model.
    threads
        Threads of one run.
    part, again
        For the error: the name of the part, and how to make it anew.

    Raises
    ------
    BundleError
        If the bytes are no ONNX model that this ONNX Runtime can run.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no public base class of its errors
        reason = str(error).splitlines()[0]
        raise BundleError(f"The part {part} cannot be opened ({reason}); {again}.") from error


def read_outputs(outputs: Sequence[NDArray[np.float32]]) -> Prediction:
    """Turn the outputs of one query, in the order of `OUTPUTS`, into a prediction; the reference tier is added."""
    passes, gap, difficulty, hidden = (np.asarray(one[0], dtype=np.float64) for one in outputs)
    return Prediction(np.append(passes, 1.0), float(difficulty), hidden, np.append(gap, 0.0))


def _check_tokens(header: OnnxHeader, tokens: TextTokens) -> None:
    """Refuse a tokenizer that is not the graph's, and texts longer than its position table."""
    if tokens.largest_id >= header.vocabulary or tokens.digest() != header.vocabulary_sha256:
        raise BundleError(
            f"The vocabulary of tokenizer.json (largest id {tokens.largest_id}) is not the one encoder.onnx was made "
            f"for ({header.vocabulary} rows); fit the bundle again."
        )
    if header.max_tokens > header.positions:
        raise BundleError(
            f"encoder.json keeps {header.max_tokens} tokens of a text, but the position table of encoder.onnx has "
            f"{header.positions}; fit the bundle again."
        )


def _check_names(session: Any) -> None:
    """Refuse a graph with other inputs or outputs."""
    for what, wanted, found in (
        ("inputs", INPUTS, {node.name for node in session.get_inputs()}),
        ("outputs", OUTPUTS, {node.name for node in session.get_outputs()}),
    ):
        if found != set(wanted):
            raise BundleError(
                f"The part encoder.onnx has the {what} {', '.join(sorted(found))}, where {', '.join(wanted)} are "
                "needed; export it with routenlp fit."
            )
