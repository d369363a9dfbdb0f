"""``routenlp distill``: pairs and records in, a checkpoint out; bad input is one line and exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

for _name in ("torch", "transformers", "onnx"):
    pytest.importorskip(_name, reason="needs routenlp[train]")

from bundles import small_records
from tiny_encoder import write_folder

from exporters.students import Pair, pairs_from_records, read_pairs, within_budget
from routenlp_integrations.cli import main
from router_core.bundle import Bundle
from router_core.checkpoint import Checkpoint
from router_core.errors import InputError
from router_core.groups import hash_key
from router_core.keys import hash_keys
from router_core.student import load_student

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

DEMO = Path(__file__).resolve().parents[2] / "routenlp_integrations/cli/demo_data/records.jsonl"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model folder with a tiny encoder."""
    return str(write_folder(tmp_path_factory.mktemp("tiny"), layers=1))


def rows(count: int = 60, **changes: object) -> list[dict[str, object]]:
    """Rows whose label is the word they hold."""
    words = ("prove", "name")
    return [
        {"id": f"r{i}", "text": f"{words[i % 2]} {words[i % 2]} item {i}", "label": words[i % 2], **changes}
        for i in range(count)
    ]


def write(path: Path, lines: list[dict[str, object]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_pairs_to_a_checkpoint_that_serves(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole way: labelled rows, a replay file, a parent whose labels keep their places, JSON that says it all."""
    first = write(tmp_path / "first.jsonl", rows())
    common = ["--kind", "classifier", "--tier", "small", "--source", source]
    told = tmp_path / "told.json"
    # A tiny random encoder reads at most 48 tokens, fewer than the default.
    options = [*common, "--max-tokens", "32", "--json", str(told)]
    assert main(["distill", str(first), "--out", str(tmp_path / "one"), *options]) == 0
    shown = capsys.readouterr()
    assert "small: a classifier student" in shown.out
    assert shown.err == ""
    found = json.loads(told.read_text())
    assert found["id"] == Checkpoint.load(tmp_path / "one").fingerprint
    assert load_student(tmp_path / "one", "small").answer("prove prove item 7").text == "prove"
    new = write(tmp_path / "new.jsonl", [{**row, "text": f"sum sum {row['text']}", "label": "sum"} for row in rows(30)])
    more = ["--replay", str(first), "--parent", str(tmp_path / "one"), "--out", str(tmp_path / "two")]
    assert main(["distill", str(new), *more, *options]) == 0
    two = Checkpoint.load(tmp_path / "two")
    assert two.spec.labels == ("name", "prove", "sum")
    assert two.lineage["parent"] == found["id"]
    assert two.lineage["pairs"] == {"cluster": 0, "replay": 60, "seed": 30}
    student = load_student(tmp_path / "two")
    assert [student.answer(text).text for text in ("name name item 4", "sum sum name name item 2")] == ["name", "sum"]


def test_records_teach_with_train_rows_alone() -> None:
    """Of records the teacher's answers to train queries are learned; calib and test are set aside and fenced off."""
    found = read_pairs([DEMO], "classifier", teacher="panel", task="intent")
    assert found.teacher == "panel"
    assert len(found.pairs) == 150
    assert found.set_aside["split calib"] == 427
    assert found.set_aside["another task"] == 317
    assert len(found.calib) == 427
    learned = hash_keys(key for pair in found.pairs for key in pair.keys)
    assert not np.intersect1d(learned, found.calib).size
    spent = sum(pair.cost_usd for pair in found.pairs)
    half = within_budget(found.pairs, spent / 2)
    assert 60 < len(half) < 90
    assert sum(pair.cost_usd for pair in half) <= spent / 2
    with pytest.raises(InputError, match="pays for no answer"):
        within_budget(found.pairs, 0.0)
    with pytest.raises(InputError, match="unknown teacher 'oracle'; the records have small"):
        pairs_from_records(small_records(), "oracle")


def test_a_bundle_fences_its_calibration_off(
    source: str, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --bundle a query the bundle certified on is refused; without, nothing says that it is one."""
    records = small_records()
    calib = Bundle.load(small_bundle).keys.calib
    held = next(prompt for prompt in records.prompt if np.isin(hash_keys([hash_key(prompt)]), calib).any())
    path = write(tmp_path / "pairs.jsonl", [*rows(30), {"id": "x", "text": held, "label": "name"}])
    given = ["distill", str(path), "--kind", "classifier", "--tier", "small", "--source", source, "--max-tokens", "32"]
    assert main([*given, "--out", str(tmp_path / "a"), "--bundle", str(small_bundle)]) == 2
    assert "training pairs and calib share 1 ids or groups" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    assert main([*given, "--out", str(tmp_path / "a")]) == 0


BAD: dict[str, tuple[list[dict[str, object]], list[str], str]] = {
    "kind": (rows(4), ["--kind", "oracle"], "--kind is 'oracle'"),
    "no answer": ([{"text": "a"}], [], "line 1: has none of the columns answer, label, response, gold"),
    "no prompt": ([{"label": "a"}], [], "line 1: has none of the columns prompt, text, tokens"),
    "empty prompt": ([{"text": " ", "label": "a"}], [], "line 1: pair .* has an empty prompt"),
    "split": (rows(4, split="dev"), [], "column 'split' is 'dev'"),
    "all calib": (rows(4, split="calib"), [], r"no row can be learned from \(4 of split calib\)"),
    "soft": (rows(4, soft="x"), [], "column 'soft' must be an object"),
    "weight": (rows(4, weight="heavy"), [], "columns 'weight' and 'cost_usd' must be numbers"),
    "one label": ([{"text": f"text {i}", "label": "a"} for i in range(9)], [], "needs two labels"),
    "teacher of pairs": (rows(4), ["--teacher", "large"], "a teacher is named of records alone"),
    "export": (rows(4), ["--export", "merged"], "--export is of generative students"),
    "finetune": (rows(4), ["--kind", "generative", "--finetune", "2"], "--finetune and --balance are of encoder"),
    "budget": (rows(4, cost_usd=0.5), ["--budget", "0.1"], "pays for no answer; the first cost 0.5"),
    "budget of nan": (rows(4, cost_usd=0.5), ["--budget", "nan"], "--budget is nan; it must be a number of US dollars"),
    "budget below 0": (rows(4, cost_usd=0.5), ["--budget", "-1"], "--budget is -1.0; it must be"),
    "seed": (rows(30), ["--seed", "-1"], "Invalid value for '--seed'"),
    "tier": (rows(30), ["--tier", "a/b"], "--tier 'a/b' cannot name a folder of a release"),
    "source": (rows(30), ["--source", "/nowhere"], "/nowhere is neither a folder nor"),
    "template": (rows(30), ["--template", "Say {text}"], "does not have the form of the prompt template"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_2(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback, nothing on stdout, no half-written checkpoint."""
    lines, options, message = BAD[name]
    path = write(tmp_path / "pairs.jsonl", lines)
    given = ["distill", str(path), "--kind", "classifier", "--tier", "small", "--out", str(tmp_path / "out"), *options]
    assert main(given) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    import re

    assert re.search(message, shown.err), shown.err
    assert not (tmp_path / "out").exists()


def test_records_need_a_teacher_and_other_folders_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Records without a teacher, and an --out that is no checkpoint, are refused before any work."""
    given = ["distill", str(DEMO), "--kind", "classifier", "--tier", "small"]
    assert main([*given, "--out", str(tmp_path / "a")]) == 2
    assert "name the teacher with --teacher" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert main([*given, "--teacher", "panel", "--out", str(tmp_path / "mine")]) == 2
    assert "exists and is not a checkpoint" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_shapes_of_rows(tmp_path: Path) -> None:
    """Lists of tokens, tags and labels, soft labels as objects or JSON, splits given in part."""
    tagged = write(
        tmp_path / "t.jsonl", [{"id": 1, "tokens": ["Ann", "met"], "tags": ["B-PER", "O"], "split": "train"}]
    )
    assert read_pairs([tagged], "tagger").pairs == (Pair("1", "Ann met", "", tags=("B-PER", "O")),)
    several = write(tmp_path / "m.jsonl", [{"id": "a", "prompt": "x", "answer": ["b", "a"], "task": "t/s"}])
    assert read_pairs([several], "multilabel", task="t").pairs == (Pair("a", "x", '["b", "a"]', "t"),)
    soft = write(tmp_path / "s.jsonl", [{"id": "a", "prompt": "x", "soft": '{"a": 0.9, "b": 0.1}', "split": "tune"}])
    assert read_pairs([soft], "classifier").pairs[0].soft == {"a": 0.9, "b": 0.1}
    both = write(tmp_path / "b.jsonl", [*rows(2, split="train"), *rows(2, split="tune")])
    assert [pair.split for pair in read_pairs([both], "classifier").pairs] == ["train", "train", "tune", "tune"]
