"""``routenlp distill --teacher tiers.yaml``: the price first, then answers within the budget, each paid once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain", reason="needs routenlp[collect]")
pytest.importorskip("filelock", reason="needs filelock")

from loops import fake_distil
from scripted import ScriptedModel

import exporters.students
import routenlp_integrations.cli.distill as command
from router_core.checkpoint import Checkpoint
from router_core.student import load_student

TIERS_YAML = (
    '- {name: small, model: "scripted:small", input_usd_per_m: 1, output_usd_per_m: 2}\n'
    '- {name: large, model: "scripted:large", input_usd_per_m: 10, output_usd_per_m: 20, max_retries: 0, '
    "params: {max_tokens: 8}}\n"
)
ONE_USD = (10 * 10 + 5 * 20) / 1e6
"""What one scripted answer costs, US dollars."""


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ScriptedModel:
    """A teacher by the word that gives the mood away; the trainer is `fake_distil`, which needs no torch."""
    made = ScriptedModel(model_name="large", reply=lambda said: "good" if "love" in said[-1].text else "bad")
    monkeypatch.setattr("langchain.chat_models.init_chat_model", lambda name, **_: made)
    monkeypatch.setitem(vars(exporters.students), "distil", fake_distil)
    monkeypatch.setitem(vars(exporters.students), "KINDS", ("classifier",))
    monkeypatch.setattr(command, "_PACKAGES", ())
    monkeypatch.setattr(command, "_show", lambda *_: None)
    return made


@pytest.fixture
def words(tmp_path: Path) -> list[object]:
    """A command over 21 rows, one of which is answered and one a calibration query."""
    (tmp_path / "tiers.yaml").write_text(TIERS_YAML)
    rows = [{"id": f"r{i}", "text": f"They {'love' if i % 2 else 'hate'} lamp {i}"} for i in range(20)]
    rows[0]["label"] = "bad"
    rows.append({"id": "c", "text": "They love calibration", "split": "calib"})
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = ["--teacher", tmp_path / "tiers.yaml", "--out", tmp_path / "out", "--json", tmp_path / "told.json"]
    return ["distill", tmp_path / "p.jsonl", "--kind", "classifier", "--tier", "small", *told]


def test_only_what_is_missing_is_asked_and_paid_once(
    words: list[object], model: ScriptedModel, run: Callable[..., Any], tmp_path: Path
) -> None:
    """19 of 20 answers are asked for; the same command asks nothing again, and the student knows what it was taught."""
    said = run(*words, "--budget", 1, "--yes")
    assert said.code == 0, said.err
    assert "19 answers of large: about" in said.out
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["pairs"] == 20
    assert (told["teacher"]["asked"], told["teacher"]["unanswered"], told["teacher"]["stopped"]) == (19, 0, "")
    assert told["teacher"]["usd"] == pytest.approx(19 * ONE_USD)
    assert len(model.calls) == 19
    assert told["lineage"]["teacher"] == "large"
    assert told["id"] == Checkpoint.load(tmp_path / "out").fingerprint
    assert load_student(tmp_path / "out").answer("They love this").text == "good"
    again = run(*words, "--budget", 1)
    assert again.code == 0, again.err
    assert len(model.calls) == 19
    assert json.loads((tmp_path / "told.json").read_text())["teacher"]["usd_before"] == pytest.approx(19 * ONE_USD)


def test_nothing_is_spent_without_a_yes(
    words: list[object], model: ScriptedModel, run: Callable[..., Any], tmp_path: Path
) -> None:
    """The price is shown; where nobody can confirm it, or no budget is named, nobody is asked and nothing written."""
    before = sorted(tmp_path.iterdir())
    said = run(*words, "--budget", 1)
    assert said.code == 2
    assert "nobody is there to confirm the price" in said.err
    assert "at most" in said.out
    assert "say how many US dollars with --budget" in run(*words, "--yes").err
    assert not model.calls
    assert sorted(tmp_path.iterdir()) == before


def test_the_budget_stops_and_a_larger_one_goes_on(
    words: list[object], model: ScriptedModel, run: Callable[..., Any], tmp_path: Path
) -> None:
    """What the budget pays for is learned, a larger one asks the rest; one for nothing is refused."""
    said = run(*words, "--budget", 0.003, "--yes")
    assert said.code == 0, said.err
    first = json.loads((tmp_path / "told.json").read_text())["teacher"]
    assert first["stopped"] == "budget"
    assert 0 < first["asked"] < 19
    assert first["usd"] <= 0.003
    assert "left unanswered" in said.out
    assert run(*words, "--budget", 1, "--yes").code == 0
    assert len(model.calls) == 19
    (tmp_path / "p.jsonl").write_text('{"id": "x", "text": "They love tea"}\n')
    words[words.index("--out") + 1] = tmp_path / "other"
    said = run(*words, "--budget", 0, "--yes")
    assert said.code == 2
    assert "pays for no answer" in said.err
    assert not (tmp_path / "other").exists()


def test_a_failing_teacher_is_given_up_and_what_came_is_kept(
    words: list[object], model: ScriptedModel, run: Callable[..., Any], tmp_path: Path
) -> None:
    """Exit code 2 and one line; once it is mended the same command asks only the rest."""
    model.fails = RuntimeError("down, sk-secret-key-0123456789abcdef")
    said = run(*words, "--budget", 1, "--yes")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "run the same command again to go on" in said.err
    assert "0123456789abcdef" not in said.err
    assert not (tmp_path / "out").exists()
    model.fails = None
    assert run(*words, "--budget", 1, "--yes").code == 0
    assert Checkpoint.load(tmp_path / "out").spec.kind == "classifier"


def test_bad_input_asks_nobody(
    words: list[object], model: ScriptedModel, run: Callable[..., Any], tmp_path: Path
) -> None:
    """A missing tiers file, records, two rows of one id: one line each."""
    words[words.index("--teacher") + 1] = tmp_path / "nothing.yaml"
    assert "nothing.yaml" in run(*words, "--budget", 1, "--yes").err
    words[words.index("--teacher") + 1] = tmp_path / "tiers.yaml"
    (tmp_path / "p.jsonl").write_text('{"id": "x", "text": "a"}\n{"id": "x", "text": "b"}\n')
    assert "have the same id" in run(*words, "--budget", 1, "--yes").err
    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "model": "m", "quality": 1}\n')
    assert "name one of their models" in run(*words, "--budget", 1, "--yes").err
    assert not model.calls
