"""T2 of the classification tasks: a student that reads MiniLM's vector and the text's word pieces, in one ONNX graph.

Logits are those of a linear SVM on the vector beside counts of word pieces and of pairs of neighbouring ones (hashed),
and where wanted the logarithm of what the learned texts around the vector say. It is trained in seconds and served as
any classifier student is, so the loop can teach it: `Wide.distil` stands in for `exporters.students.distil`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.students import Pair
from exporters.students.bodies import TextBody, frozen_graphs
from exporters.students.calibrating import calibration_error, fit_platt
from exporters.students.data import lineage_of, mix, texts_of
from exporters.students.options import EncoderOptions
from exporters.students.task import Task
from exporters.transformer.labels import group_folds
from exporters.transformer.source import load_source
from router_core.checkpoint import Checkpoint, StudentSpec
from router_core.own_confidence import log_softmax
from router_core.student import make_student
from router_core.text_tokens import TextTokens

__all__ = ["Rows", "Wide"]

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

_HEAT, _SHARP, _FLOOR, _PRIME, _FOLDS, _CHECKED = 8.0, 30.0, 0.01, 7919, 3, 50
_UNSEEN = -1.5
"""Decision of a label that a fold has no example of."""


@dataclass(frozen=True)
class Wide:
    """How the student is made.

    Attributes
    ----------
    cost
        C of the SVM.
    vector
        Length of the vector beside the counts, which are divided by the root of their number.
    near
        Weight of the neighbours; 0 leaves them out.
    bits
        Pairs of pieces are hashed to so many.
    """

    cost: float = 0.5
    vector: float = 1.0
    near: float = 0.0
    bits: int = 15

    def distil(
        self, kind: str, pairs: Sequence[Pair], options: EncoderOptions, *, tier: str, vectors: Mapping[str, Any],
        replay: Sequence[Pair] = (), parent: Checkpoint | None = None, lineage: Mapping[str, Any] | None = None,
        seed: int = 0, **_: Any,
    ) -> Checkpoint:  # fmt: skip
        """Make a student of pairs and everything that is replayed.

        Parameters
        ----------
        vectors
            By text MiniLM's vector of it, float32 [d], from the graph that is served.
        kind, pairs, options, tier, replay, parent, lineage, seed
            As for `exporters.students.distil`.
        """
        mixed = mix(pairs, replay, None, seed, by_answer=True)
        task = Task.of(kind, mixed, parent.spec.labels if parent is not None else (), options)
        source = load_source(options.source, options.max_tokens)
        tokens = TextTokens(source.tokenizer, options.max_tokens)
        ids = [tokens.ids(text) for text in task.texts]
        read = np.stack([vectors[text] for text in texts_of(mixed, options.prompt_template)])
        wanted = task.wanted(np.arange(len(mixed)))
        vocabulary = tokens.largest_id + 1
        rows = Rows.of(self.pieces(ids, vocabulary), read, wanted)
        fold, out = group_folds(task.texts, _FOLDS, seed), np.zeros((len(mixed), len(task.labels)))
        for number in range(_FOLDS):
            mask = fold == number
            out[mask] = self.fitted(rows.at(~mask), len(task.labels), seed).logits(rows.at(mask))
        log_p = log_softmax(out)
        said, right = np.exp(log_p.max(1)), log_p.argmax(1) == wanted
        calibration = fit_platt(said, right)
        made = self.fitted(rows, len(task.labels), seed)
        _, body = frozen_graphs(source, TextBody(source), quantised=True)
        spec = StudentSpec(
            kind, task.labels, options.max_tokens, tokens.digest(), options.prompt_template, calibration, {}
        )
        checkpoint = Checkpoint(
            tier, spec, {"model.onnx": made.graph(body, vocabulary), "tokenizer.json": source.tokenizer},
            lineage=lineage_of(mixed, _lineage(lineage, parent), {"seed": seed, **asdict(self)}),
            metrics={
                "pairs": len(mixed), "labels": len(task.labels), "held_out": "folds",
                "tune_right": round(float(right.mean()), 4),
                "tune_calibration_error": round(
                    calibration_error(np.array([calibration.confidence(p) for p in said.tolist()]), right), 4
                ),
            },
        )  # fmt: skip
        some = list(range(0, len(mixed), max(1, len(mixed) // _CHECKED)))
        wrong = made.logits(rows.at(np.array(some))).argmax(1)
        told = make_student(checkpoint).answer_many([mixed[i].prompt for i in some])
        alike = np.mean([one.text == task.labels[j] for one, j in zip(told, wrong.tolist(), strict=True)])
        if alike < 1 - 2 / len(some):
            raise RuntimeError(f"the graph gives the fitted model's answer to {alike:.2f} of the texts only")
        return checkpoint

    def pieces(self, ids: Sequence[Ids], vocabulary: int) -> Any:
        """Counts of pieces and hashed pairs over the root of their number, csr [n, vocabulary + 2^bits]."""
        from scipy.sparse import csr_matrix

        found = [np.concatenate([one, vocabulary + (one[:-1] * _PRIME + one[1:]) % 2**self.bits]) for one in ids]
        size = np.array([len(one) for one in found])
        value = np.repeat(1.0 / np.sqrt(size), size)
        return csr_matrix(
            (value, (np.repeat(np.arange(len(ids)), size), np.concatenate(found))),
            shape=(len(ids), vocabulary + 2**self.bits),
        )

    def fitted(self, rows: Rows, labels: int, seed: int) -> _Fitted:
        """The SVM of some rows; labels that none of them has are hardly ever said."""
        from scipy.sparse import csr_matrix, hstack
        from sklearn.svm import LinearSVC

        x = hstack([rows.pieces, csr_matrix(self.vector * rows.unit)]).tocsr()
        model = LinearSVC(C=self.cost, random_state=seed).fit(x, rows.wanted)
        coefficient, offset = model.coef_, model.intercept_
        if len(model.classes_) == 2:
            coefficient, offset = np.concatenate([-coefficient, coefficient]), np.concatenate([-offset, offset])
        weight, bias = np.zeros((labels, x.shape[1])), np.full(labels, _UNSEEN)
        weight[model.classes_], bias[model.classes_] = coefficient, offset
        cut = rows.pieces.shape[1]
        return _Fitted(weight[:, :cut].T, self.vector * weight[:, cut:].T, bias, rows, labels, self.near, self.bits)


@dataclass(frozen=True, eq=False)
class Rows:
    """Texts as they are learned from.

    Attributes
    ----------
    pieces
        See `Wide.pieces`.
    unit
        float32 [n, d], vectors of length 1.
    wanted
        intp [n], place of the right label.
    """

    pieces: Any
    unit: NDArray[np.float32]
    wanted: NDArray[np.intp]

    @classmethod
    def of(cls, pieces: Any, vectors: NDArray[np.float32], wanted: NDArray[np.intp]) -> Rows:
        """Rows with vectors of any length."""
        length: Any = np.linalg.norm(vectors, axis=1, keepdims=True)
        return cls(pieces, np.asarray(vectors / np.maximum(length, 1e-9), dtype=np.float32), wanted)

    def at(self, rows: NDArray[Any]) -> Rows:
        """Some of the rows."""
        return Rows(self.pieces[rows], self.unit[rows], self.wanted[rows])


@dataclass(frozen=True, eq=False)
class _Fitted:
    """Weights of pieces [P, L] and of the vector [d, L], offsets [L], and what was learned from."""

    table: Floats
    vector: Floats
    bias: Floats
    learned: Rows
    labels: int
    near: float
    bits: int

    def logits(self, rows: Rows) -> Floats:
        """Logits of rows, float64 [n, L]."""
        found = _HEAT * (rows.pieces @ self.table + rows.unit @ self.vector + self.bias)
        if self.near:
            like = np.exp(_SHARP * (rows.unit @ self.learned.unit.T - 1.0)) @ np.eye(self.labels)[self.learned.wanted]
            found = found + self.near * np.log(like / like.sum(1, keepdims=True) + _FLOOR)
        return np.asarray(found)

    def graph(self, body: bytes, vocabulary: int) -> bytes:
        """The body with this on top: ``input_ids``, ``attention_mask`` -> ``logits``."""
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        model, nodes = onnx.load_from_string(body), list[Any]()

        def held(name: str, value: Any, kind: Any = np.float32) -> str:
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype=kind), f"wide_{name}"))
            return f"wide_{name}"

        def node(op: str, *given: str, **more: Any) -> str:
            out = f"wide_{op.lower()}_{len(nodes)}"
            nodes.append(helper.make_node(op, list(given), [out], **more))
            return out

        zero, one, end, last = (held(f"int{i}", [v], np.int64) for i, v in enumerate((0, 1, 2**62, -1)))
        mask = node("Cast", "attention_mask", to=TensorProto.FLOAT)

        def summed(table: str, ids: str, kept: str) -> str:
            rows = node("Mul", node("Gather", table, ids), node("Unsqueeze", kept, last))
            return node("ReduceSum", rows, one, keepdims=0)

        before, after = (node("Slice", "input_ids", *cut, one) for cut in ((zero, last), (one, end)))
        paired = node("Slice", mask, one, end, one)
        prime, size = held("prime", [_PRIME], np.int64), held("size", [2**self.bits], np.int64)
        hashed = node("Mod", node("Add", node("Mul", before, prime), after), size)
        total = node("Add", *(node("ReduceSum", part, one, keepdims=1) for part in (mask, paired)))
        counts = node(
            "Add", summed(held("pieces", self.table[:vocabulary]), "input_ids", mask),
            summed(held("pairs", self.table[vocabulary:]), hashed, paired),
        )  # fmt: skip
        length = node("Sqrt", node("ReduceSum", node("Mul", "features", "features"), one, keepdims=1))
        unit = node("Div", "features", node("Max", length, held("least", [1e-9])))
        linear = node("Add", node("MatMul", unit, held("vector", self.vector)), held("bias", self.bias))
        logits = node("Mul", node("Add", node("Div", counts, node("Sqrt", total)), linear), held("heat", [_HEAT]))
        if self.near:
            like = node("MatMul", unit, held("learned", self.learned.unit.T))
            like = node("Exp", node("Mul", node("Sub", like, held("unity", [1.0])), held("sharp", [_SHARP])))
            votes = node("MatMul", like, held("labels", np.eye(self.labels)[self.learned.wanted]))
            share = node("Div", votes, node("ReduceSum", votes, one, keepdims=1))
            odds = node("Log", node("Add", share, held("floor", [_FLOOR])))
            logits = node("Add", logits, node("Mul", odds, held("near", [self.near])))
        nodes.append(helper.make_node("Identity", [logits], ["logits"]))
        model.graph.node.extend(nodes)
        del model.graph.output[:]
        model.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", self.labels]))
        onnx.checker.check_model(model)
        return model.SerializeToString(deterministic=True)


def _lineage(lineage: Mapping[str, Any] | None, parent: Checkpoint | None) -> dict[str, Any]:
    return {**({"parent": parent.fingerprint} if parent is not None else {}), **(lineage or {})}
