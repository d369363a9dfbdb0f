"""Students of a few thousand weights over the population of `bundles`, and checkpoints made of them.

    python tests/tiny_student.py        writes tests/fixtures/tiny_student anew; needs the package onnx

The committed graphs let the tests run without torch and onnx. A graph sums a row of logits per token: words that say
the mood have large ones, all others small random ones, so that arithmetic is not exact and confidences differ.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from bundles import SPLIT_SIZES, TIERS, small_records
from tiny_encoder import tokenizer_json

from router_core.checkpoint import Checkpoint, StudentSpec
from router_core.own_confidence import Calibration
from router_core.records import Records
from router_core.student import Student, make_student
from router_core.text_tokens import TextTokens

FIXTURE = Path(__file__).resolve().parent / "fixtures" / "tiny_student"
MAX_TOKENS = 64
MOODS = ("good", "bad")
TOPICS = ("love", "hate", "kettle")
TAGS = ("O", "B-PER", "I-PER", "B-LOC")
_TEMPLATE_WORDS = (
    "review", "from", "the", "is", "mood", "or", "good", "bad", "this", "oh", "sure", "hardly", "anything", "about",
    "love", "hate", "disappoint", "convince", "save", "break", "kettle", "ann", "lee", "oslo",
)  # fmt: skip
_SAYS = {"love": (4, -4), "hate": (-4, 4), "##s": (0, 0), "disappoint": (3, -3), "convince": (-3, 3)}
_TOPIC = {"love": (9, 0, 0), "hate": (0, 9, 0), "kettle": (0, 0, 9)}
_NAMES = {"ann": (0, 9, 0, 0), "lee": (0, 0, 9, 0), "oslo": (0, 0, 0, 9)}


def student_tokenizer() -> bytes:
    """The tiny encoder's tokenizer with words of the population."""
    content = json.loads(tokenizer_json())
    vocabulary = content["model"]["vocab"]
    for word in _TEMPLATE_WORDS:
        vocabulary.setdefault(word, len(vocabulary))
    return json.dumps(content).encode()


def table(
    says: dict[str, tuple[float, ...]], base: tuple[float, ...], first: tuple[float, ...], seed: int
) -> np.ndarray:
    """Logits per token id, float32 ``[V, L]``: `base` of any token, `first` of [CLS], which every text has once."""
    vocabulary = json.loads(student_tokenizer())["model"]["vocab"]
    found = np.random.default_rng(seed).normal(base, 0.1, (len(vocabulary), len(base))).astype(np.float32)
    for word, row in says.items():
        found[vocabulary[word]] = row
    found[vocabulary["[CLS]"]] = first
    return found


def graphs() -> dict[str, bytes]:
    """Make the graphs; needs onnx."""
    return {
        "classifier.onnx": _summing(table(_SAYS, (0.0,) * 2, (0.0,) * 2, 1)),
        "multilabel.onnx": _summing(table(_TOPIC, (0.0,) * 3, (-4.0,) * 3, 2)),
        "tagger.onnx": _tagging(table(_NAMES, (4.0, 0.0, 0.0, 0.0), (0.0,) * 4, 3)),
    }


def _summing(rows: np.ndarray) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["kept", "last"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["counted"]),
        helper.make_node("ReduceSum", ["counted", "middle"], ["logits"], keepdims=0),
    ]
    held = [
        numpy_helper.from_array(rows, "table"),
        numpy_helper.from_array(np.array([2]), "last"),
        numpy_helper.from_array(np.array([1]), "middle"),
    ]
    return _model(nodes, held, ("input_ids", "attention_mask"), ["b", rows.shape[1]])


def _tagging(rows: np.ndarray) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    shapes = np.zeros((8, rows.shape[1]), dtype=np.float32)
    shapes[1, 0] = 12.0  # a name in small letters is none
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Gather", ["shapes", "word_shape"], ["shaped"]),
        helper.make_node("Add", ["rows", "shaped"], ["sum"]),
        helper.make_node("Cast", ["attention_mask"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["kept", "last"], ["column"]),
        helper.make_node("Mul", ["sum", "column"], ["logits"]),
    ]
    held = [
        numpy_helper.from_array(rows, "table"),
        numpy_helper.from_array(shapes, "shapes"),
        numpy_helper.from_array(np.array([2]), "last"),
    ]
    return _model(nodes, held, ("input_ids", "attention_mask", "word_shape"), ["b", "t", rows.shape[1]])


def _model(nodes: list[Any], held: list[Any], inputs: tuple[str, ...], shape: list[Any]) -> bytes:
    from onnx import TensorProto, checker, helper

    graph = helper.make_graph(
        nodes, "student",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "t"]) for name in inputs],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)], held,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def tiny_checkpoint(kind: str = "classifier", tier: str = "small", **changes: Any) -> Checkpoint:
    """A checkpoint of a committed graph; `changes` are fields of its spec."""
    labels = {"classifier": MOODS, "multilabel": TOPICS, "tagger": TAGS}[kind]
    tokenizer = student_tokenizer()
    fields = {
        "kind": kind,
        "labels": labels,
        "max_tokens": MAX_TOKENS,
        "vocabulary_sha256": TextTokens(tokenizer, MAX_TOKENS).digest(),
        "calibration": Calibration(temperature=2.0),
        "settings": {"threshold": 0.5} if kind == "multilabel" else {},
        **changes,
    }
    weights = {"model.onnx": (FIXTURE / f"{kind}.onnx").read_bytes(), "tokenizer.json": tokenizer}
    return Checkpoint(tier, StudentSpec(**fields), weights, {"teacher": "large"}, {"accuracy": 0.9})


def tiny_student(kind: str = "classifier", **changes: Any) -> Student:
    """The student of `tiny_checkpoint`, in memory."""
    return make_student(tiny_checkpoint(kind, **changes))


def write_release(root: Path, name: str, **checkpoints: Checkpoint) -> Path:
    """Write a release without a bundle and make it current."""
    for tier, checkpoint in checkpoints.items():
        checkpoint.save(root / "releases" / name / "checkpoints" / tier)
    promote(root, name)
    return root


def promote(root: Path, name: str) -> None:
    """Make a release current, by rename."""
    (root / "current.new").write_text(f"{name}\n")
    (root / "current.new").replace(root / "current")


def student_records(student: Student, seed: int = 0) -> Records:
    """`small_records` whose small tier is the student: its answers, its confidence, graded on the task "mood"."""
    found = small_records(seed)
    own = np.full(found.quality.shape, np.nan)
    small = TIERS.index("small")
    for i, prompt in enumerate(found.prompt):
        answer = student.answer(prompt)
        right = found.response[i][TIERS.index("large")] or ""
        found.response[i][small] = answer.text
        found.quality[i, small] = float(answer.text in right.split(" ")[-1])
        own[i, small] = answer.signals["own_confidence"]
    found.signals["own_confidence"] = own
    assert len(found.prompt) == sum(SPLIT_SIZES.values())
    return found


def main() -> None:
    """Write the fixture."""
    FIXTURE.mkdir(parents=True, exist_ok=True)
    for name, content in graphs().items():
        (FIXTURE / name).write_bytes(content)


if __name__ == "__main__":
    main()
