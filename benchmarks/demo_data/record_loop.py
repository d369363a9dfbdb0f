"""Run the demo's loop where torch is, and keep what its students think of every query of the demo.

    python -m benchmarks.demo_data.record_loop [--out routenlp_integrations/cli/demo_data/loop_students.npz]

Notebook 4 goes through the same loop without torch: in the place of each student stands one that looks its logits up
(`routenlp_integrations.notebook.loop.recorded_distil`). Needs routenlp[train,fit,ledger]. The file holds arrays only:
a tokenizer cut down to the words of the demo, one graph a task, the logits of each student, and what else its
checkpoint says, as JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from routenlp_integrations.cli.demo import DATA
from routenlp_integrations.cli.demo_loop import loop_options, loop_records, send_through, shuffled
from router_core.checkpoint import Checkpoint
from router_core.onnx_student import OnnxStudent
from router_core.portfolio import Portfolio
from router_core.records import Records, read_records
from router_core.student import make_student
from router_core.text_tokens import TextTokens

_DROPPED = ("seconds", "bytes")
_NEVER = -60.0
_INPUTS = ("input_ids", "attention_mask")


class Keeper:
    """Trains students as they are asked for, and keeps what each thinks of every query of its task."""

    def __init__(self, records: Records) -> None:
        self.prompts = {task: _prompts(records, task) for task in sorted(set(records.task))}
        self.arrays: dict[str, np.ndarray] = {}
        self.told: dict[str, Any] = {}
        self.source: Checkpoint | None = None

    def around(self, distil: Callable[..., Checkpoint]) -> Callable[..., Checkpoint]:
        """The same trainer, listened to."""

        def made(kind: str, pairs: Any, options: Any, **more: Any) -> Checkpoint:
            student = distil(kind, pairs, options, **more)
            self._keep(student, pairs[0].task, int(more["lineage"]["round"]), pairs)
            return student

        return made

    def _keep(self, made: Checkpoint, task: str, number: int, pairs: Any) -> None:
        student = make_student(made)
        assert isinstance(student, OnnxStudent)
        temperature = made.spec.calibration.temperature
        logits = [student.run(student.tokens.ids(text)) * temperature for text in self.prompts[task]]
        self.arrays[f"logits@{number}@{task}"] = np.asarray(logits, dtype=np.float32)
        self.told[f"{number}@{task}"] = {
            "kind": made.spec.kind, "labels": list(made.spec.labels), "max_tokens": made.spec.max_tokens,
            "calibration": made.spec.calibration.to_json(), "taught": sorted(pair.query_id for pair in pairs),
            "metrics": {name: value for name, value in made.metrics.items() if name not in _DROPPED},
        }  # fmt: skip
        self.source = made

    def _widen(self) -> None:
        """Give the students of a task the same labels: one that an early student never saw is impossible to it."""
        for task in self.prompts:
            mine = [name for name in self.told if name.endswith(f"@{task}")]
            labels = max((self.told[name]["labels"] for name in mine), key=len)
            for name in mine:
                assert self.told[name]["labels"] == labels[: len(self.told[name]["labels"])]
                known = self.arrays[f"logits@{name}"]
                more = np.full((len(known), len(labels) - known.shape[1]), _NEVER, np.float32)
                self.arrays[f"logits@{name}"] = np.hstack([known, more])
                self.told[name]["labels"] = labels

    def write(self, out: Path) -> None:
        """Make tokenizer and graphs, check that they say the same, and write the file."""
        assert self.source is not None
        whole = self.source.weights["tokenizer.json"]
        texts = [text for mine in self.prompts.values() for text in mine]
        labels = sorted({label for told in self.told.values() for label in told["labels"]})
        small = _cut_down(whole, [*texts, *labels])
        self._widen()
        arrays = {**self.arrays, "tokenizer": np.frombuffer(small, np.uint8)}
        before, after = (TextTokens(content, self.source.spec.max_tokens) for content in (whole, small))
        assert all(len(before.ids(text)) == len(after.ids(text)) for text in texts)
        for task, mine in self.prompts.items():
            graph = _look_up([after.ids(text) for text in mine], after.largest_id + 1, arrays[f"logits@0@{task}"])
            arrays[f"graph@{task}"] = np.frombuffer(graph, np.uint8)
        arrays["told"] = np.frombuffer(json.dumps(self.told, sort_keys=True).encode(), np.uint8)
        np.savez_compressed(out, **arrays)


def _prompts(records: Records, task: str) -> list[str]:
    return sorted({text for text, its in zip(records.prompt, records.task, strict=True) if its == task})


def _cut_down(content: bytes, texts: list[str]) -> bytes:
    """A WordPiece tokenizer with those of its pieces only that the texts are cut into, numbered anew."""
    from tokenizers import Tokenizer

    told = json.loads(content)
    whole, vocabulary = Tokenizer.from_str(content.decode()), told["model"]["vocab"]
    whole.no_truncation()
    whole.no_padding()
    used = {one for text in texts for one in whole.encode(text).tokens} | {
        one["content"] for one in told["added_tokens"]
    }
    place = {piece: i for i, piece in enumerate(sorted(used, key=lambda piece: int(vocabulary[piece])))}
    told["model"]["vocab"] = place
    for one in told["added_tokens"]:
        one["id"] = place[one["content"]]
    for name, one in told["post_processor"]["special_tokens"].items():
        one["ids"] = [place[name]]
    told["truncation"] = told["padding"] = None
    return json.dumps(told, separators=(",", ":")).encode()


def _look_up(ids: list[np.ndarray], size: int, logits: np.ndarray) -> bytes:
    """A graph that knows texts by the sum of random numbers of their tokens, and looks their logits up."""
    from onnx import TensorProto, checker, helper, numpy_helper

    numbers = np.random.default_rng(0).integers(1, 2**50, size)
    keys = np.array([numbers[one].sum() for one in ids])
    assert len(np.unique(keys)) == len({tuple(one.tolist()) for one in ids})
    # The same tokens twice would count twice.
    first = np.zeros(len(keys), bool)
    first[np.unique(keys, return_index=True)[1]] = True
    nodes = [
        helper.make_node("Gather", ["numbers", "input_ids"], ["drawn"]),
        helper.make_node("Mul", ["drawn", "attention_mask"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "one"], ["sum"], keepdims=1),
        helper.make_node("Equal", ["sum", "keys"], ["same"]),
        helper.make_node("Cast", ["same"], ["row"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["row", "logits_of"], ["logits"]),
    ]
    held = [
        numpy_helper.from_array(numbers, "numbers"),
        numpy_helper.from_array(np.array([1]), "one"),
        numpy_helper.from_array(np.where(first, keys, -1)[None, :], "keys"),
        numpy_helper.from_array(logits, "logits_of"),
    ]
    graph = helper.make_graph(
        nodes, "recorded",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "t"]) for name in _INPUTS],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", logits.shape[1]])], held,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def main() -> None:
    """Go through the loop as `routenlp demo --loop` does, and write the file."""
    from exporters.loop import run_round, start
    from exporters.students import distil

    parser = argparse.ArgumentParser(description="Record the students of the demo's loop.")
    parser.add_argument("--out", type=Path, default=DATA / "loop_students.npz")
    out = parser.parse_args().out
    portfolio = Portfolio.load(DATA / "portfolio.json").select(("student", "panel"))
    records, options = loop_records(read_records(DATA / "records.jsonl")), loop_options(portfolio)
    keeper = Keeper(records)
    with tempfile.TemporaryDirectory() as folder:
        root, url = Path(folder) / "loop", f"sqlite:///{folder}/ledger.db"
        start(root, records, options=options, distil=keeper.around(distil))
        for trainer in (distil, shuffled):
            send_through(root, records, url=url)
            told = run_round(root, ledger=url, records=records, options=options, distil=keeper.around(trainer))
            print(f"round {told.number}: {told.outcome} {dict(told.reasons)}")
    keeper.write(out)
    print(f"{out}: {out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
