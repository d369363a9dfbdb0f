"""`routenlp collect` end to end over scripted models: what it spends, keeps, writes and says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import TIERS, small_records
from scripted import ScriptedModel

from router_core.bundle import Bundle
from router_core.records import read_records
from router_core.redaction import REDACTED
from router_core.splits import hash_split, normalise

TIERS_YAML = """
- {name: small, model: "scripted:small", input_usd_per_m: 1, output_usd_per_m: 2, params: {max_tokens: 8}}
- {name: large, model: "scripted:large", input_usd_per_m: 10, output_usd_per_m: 20, params: {max_tokens: 8}}
"""
Models = dict[str, ScriptedModel]


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Models:
    """Scripted models under the names that tiers.yaml gives; stands in for `init_chat_model`."""
    made: Models = {name: ScriptedModel(model_name=name) for name in ("small", "large", "judge")}
    monkeypatch.setattr(
        "langchain.chat_models.init_chat_model", lambda model, **_: made[model.removeprefix("scripted:")]
    )
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with tiers.yaml and 40 prompts whose gold answer is "good" or "bad"."""
    (tmp_path / "tiers.yaml").write_text(TIERS_YAML)
    rows = [{"prompt": f"Review {i}: I {'love' if i % 2 else 'hate'} lamp {i}", "label": _gold(i)} for i in range(40)]
    _write(tmp_path / "p.jsonl", rows)
    return tmp_path


def _gold(i: int) -> str:
    return "good" if i % 2 else "bad"


def _mood(messages: list[Any]) -> str:
    return "Good." if "love" in messages[-1].text else "Bad."


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _collect(run: Callable[..., Any], folder: Path, *more: object, metric: str = "exact", budget: object = 1) -> Any:
    words = ("--tiers", folder / "tiers.yaml", "--metric", metric, "--budget", budget, "--out", folder / "r.parquet")
    return run("collect", folder / "p.jsonl", *words, "--yes", *more)


def _told(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "told.json").read_text())
    return told


def test_collected_records_are_fitted_directly(
    tmp_path: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What three scripted tiers answer becomes the records they were scripted from, and `fit` certifies on them."""
    records = small_records()
    answers = {prompt: records.response[i] for i, prompt in enumerate(records.prompt)}
    made = {
        name: ScriptedModel(model_name=name, reply=lambda m, k=k: str(answers[m[-1].text][k]), logprobs=[-0.5])
        for k, name in enumerate(TIERS)
    }
    monkeypatch.setattr("langchain.chat_models.init_chat_model", lambda model, **_: made[model])
    rows = [
        {
            "query_id": records.query_id[i], "prompt": prompt, "task": records.task[i], "split": records.split[i],
            "gold": next((records.response[i][k] for k in range(3) if records.quality[i, k]), "nobody knows"),
        }
        for i, prompt in enumerate(records.prompt)
    ]  # fmt: skip
    _write(tmp_path / "p.jsonl", rows)
    tiers = [
        {"name": name, "model": name, "input_usd_per_m": 10**k, "output_usd_per_m": 4 * 10**k}
        for k, name in enumerate(TIERS)
    ]
    (tmp_path / "tiers.yaml").write_text(json.dumps(tiers))
    said = _collect(run, tmp_path, "--json", tmp_path / "told.json", "--concurrency", 8, budget=100)
    assert said.code == 0, said.err
    back = read_records(tmp_path / "r.parquet")
    order = [back.query_id.index(name) for name in records.query_id]
    assert (back.quality[order] == records.quality).all()
    assert back.models == TIERS
    assert (back.signals["mean_logprob"] == -0.5).all()
    assert back.cost_basis == "measured"
    assert back.cost[0].tolist() == pytest.approx([30e-6, 300e-6, 3000e-6])
    told = _told(tmp_path)
    assert (told["complete"], told["queries"], told["rows"]) == (True, 400, 1200)
    assert told["spent_usd"] == pytest.approx(back.cost.sum())
    calib = told["calib"]["mood"]
    assert calib["rows"] == 80
    assert calib["least"] == {"0.01": 230, "0.02": 114, "0.05": 45, "0.1": 22}
    assert all(calib["realistic"][alpha] >= n for alpha, n in calib["least"].items())
    text = " ".join(said.out.split())
    assert f"Next: routenlp fit {tmp_path / 'r.parquet'} --tiers small,medium,large --out bundle" in said.out
    assert "1200 records of 400 queries written" in text
    assert "prompts and answers are stored in the file" in text
    fitted = run("fit", tmp_path / "r.parquet", "--tiers", ",".join(TIERS), "--alpha", 0.1, "--out", tmp_path / "b")
    assert fitted.code == 0, fitted.err
    bundle = Bundle.load(tmp_path / "b")
    assert any(shown.certified for shown in bundle.certificates.values())


def test_splits_follow_the_hash_rule(folder: Path, models: Models, run: Callable[..., Any]) -> None:
    """Prompts without a split get the one of their normalised text."""
    models["small"].reply = _mood
    assert _collect(run, folder, "--task", "mood").code == 0
    records = read_records(folder / "r.parquet")
    assert records.split == [hash_split(normalise(prompt)) for prompt in records.prompt]
    assert set(records.task) == {"mood"}
    assert records.quality[:, 0].all()
    assert not records.quality[:, 1].any()


def test_nothing_is_spent_without_a_yes(
    folder: Path, models: Models, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The price is shown first; where nobody can confirm, or somebody says no, no model is called."""
    words = ["collect", folder / "p.jsonl", "--tiers", folder / "tiers.yaml", "--metric", "exact", "--budget", 1]
    said = run(*words, "--out", folder / "r.parquet")
    assert said.code == 2
    assert "nobody is there to confirm the price; say --yes" in said.err
    assert "40 prompts: about" in said.out
    assert "at most" in said.out
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda _: True})())
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    assert "nothing was asked" in run(*words, "--out", folder / "r.parquet").err
    assert not models["small"].calls
    assert sorted(item.name for item in folder.iterdir() if item.name[0] != ".") == ["p.jsonl", "tiers.yaml"]
    monkeypatch.setattr("typer.confirm", lambda *_, **__: True)
    assert run(*words, "--out", folder / "r.parquet").code == 0
    assert len(models["small"].calls) == 40


def test_the_budget_stops_and_a_larger_one_goes_on(folder: Path, models: Models, run: Callable[..., Any]) -> None:
    """What is complete is written, the message says how to go on, and no call is made twice."""
    said = _collect(run, folder, "--json", folder / "told.json", budget=0.004)
    assert said.code == 0
    told = _told(folder)
    assert told["stopped"] == "budget"
    assert not told["complete"]
    assert told["spent_usd"] <= 0.004
    assert 0 < len(read_records(folder / "r.parquet")) == told["queries"] < 40
    assert "run the same command with a larger --budget" in " ".join(said.out.split())
    again = _collect(run, folder, "--json", folder / "told.json", budget=1)
    assert again.code == 0
    assert len(read_records(folder / "r.parquet")) == 40
    assert [len(models[name].calls) for name in ("small", "large")] == [40, 40]
    assert _told(folder)["spent_usd"] == pytest.approx(40 * (20e-6 + 200e-6))
    assert _told(folder)["spent_before_usd"] == pytest.approx(told["spent_usd"])


def test_a_budget_for_nothing_is_an_error(folder: Path, models: Models, run: Callable[..., Any]) -> None:
    """Less than one prompt's worst price writes nothing."""
    said = _collect(run, folder, budget=0.0000001)
    assert said.code == 2
    assert "pays for no whole prompt" in said.err
    assert not models["small"].calls


def test_a_changed_tier_is_asked_again_and_no_other(folder: Path, models: Models, run: Callable[..., Any]) -> None:
    """A new parameter of one tier re-asks that tier; new prices, metric or limit re-ask nobody."""
    assert _collect(run, folder, "--limit", 10).code == 0
    (folder / "tiers.yaml").write_text(TIERS_YAML.replace("input_usd_per_m: 10", "input_usd_per_m: 30"))
    assert _collect(run, folder, "--limit", 10, metric="f1").code == 0
    assert [len(models[name].calls) for name in ("small", "large")] == [10, 10]
    assert read_records(folder / "r.parquet").cost[0, 1] == pytest.approx((10 * 30 + 5 * 20) / 1e6)
    (folder / "tiers.yaml").write_text(TIERS_YAML.replace("max_tokens: 8}", "max_tokens: 8, temperature: 0}", 1))
    assert _collect(run, folder, "--limit", 12).code == 0
    assert [len(models[name].calls) for name in ("small", "large")] == [22, 12]


def test_a_judge_grades_blind_and_its_failures_are_counted(
    folder: Path, models: Models, run: Callable[..., Any]
) -> None:
    """Grades come from the judge, who sees no tier; a reply that is no number leaves the quality null."""
    (folder / "tiers.yaml").write_text(
        "tiers:" + TIERS_YAML.replace("\n-", "\n  -") + "judge: {input_usd_per_m: 1, output_usd_per_m: 1}\n"
    )
    models["small"].reply = _mood
    models["large"].reply = _mood
    models["judge"].reply = lambda m: "10" if "Good." in m[-1].text else "It is bad"
    said = _collect(run, folder, "--json", folder / "told.json", metric="judge:scripted:judge")
    assert said.code == 0, said.err
    told = _told(folder)
    assert told["ungraded"] == 40
    assert [line["name"] for line in told["expected"]] == ["small", "large", "judge"]
    # Both tiers say the same, so that the judge is asked once for both.
    assert len(models["judge"].calls) == 40
    asked = " ".join(call["messages"][-1].text for call in models["judge"].calls)
    assert "small" not in asked
    assert "large" not in asked
    text = " ".join(said.out.split())
    assert "about this judge's grades, not people's" in text
    assert "80 answers" not in text
    assert "40 answers have no grade" in text
    quality = read_records(folder / "r.parquet").quality
    assert (np.isnan(quality).sum(), np.nansum(quality)) == (40, 40.0)
    before = len(models["judge"].calls)
    assert _collect(run, folder, metric="judge:scripted:judge").code == 0
    assert len(models["judge"].calls) == before


def test_agreement_needs_no_gold(folder: Path, models: Models, run: Callable[..., Any]) -> None:
    """The reference scores 1 everywhere, the other tier where it says the same; other metrics name the bare row."""
    _write(folder / "p.jsonl", [{"text": f"I {'love' if i % 2 else 'hate'} lamp {i}"} for i in range(20)])
    models["small"].reply = "good"
    models["large"].reply = _mood
    said = _collect(run, folder)
    assert said.code == 2
    assert "line 1: no gold answer, and 20 of 20 prompts have none" in said.err
    assert _collect(run, folder, metric="agree_with_reference").code == 0
    records = read_records(folder / "r.parquet")
    assert records.quality[:, 1].all()
    assert records.quality[:, 0].tolist() == ["love" in prompt for prompt in records.prompt]


def test_keys_and_patterns_are_in_no_file(
    folder: Path, models: Models, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in records, journal, JSON, nor on the screen; what is graded is what is stored; tiers see the whole."""
    monkeypatch.setenv("SECRET_API_KEY", "zebra-crossing-0")
    rows = [{"prompt": f"Mail joe{i}@x.org about sk-live-quagga{i}?", "label": f"joe{i}@x.org"} for i in range(10)]
    _write(folder / "p.jsonl", rows)
    models["small"].reply = lambda m: m[-1].text.split()[1] if "joe3" not in m[-1].text else _refuse()
    models["large"].reply = "zebra-crossing-0"
    said = _collect(run, folder, "--redact", r"\w+@[\w.]+", "--json", folder / "told.json", "--concurrency", 1)
    assert said.code == 0, said.err
    (folder / "p.jsonl").unlink()
    stored = b" ".join(path.read_bytes() for path in folder.iterdir()).decode("utf-8", "ignore")
    records = read_records(folder / "r.parquet")
    stored += said.out + said.err + json.dumps([records.prompt, records.response])
    for secret in ("zebra", "quagga", "joe", "f00ba4"):
        assert secret not in stored, secret
    assert set(records.prompt) == {f"Mail {REDACTED} about {REDACTED}?"}
    assert np.nansum(records.quality[:, 0]) == 9.0
    assert "joe" in models["small"].calls[0]["messages"][-1].text
    assert "ValueError" in _told(folder)["why"]["small"]


def _refuse() -> str:
    raise ValueError("no good: Authorization: Bearer f00ba4f00ba4, key sk-live-quagga1")


def test_a_failing_tier_is_null_and_counted(folder: Path, models: Models, run: Callable[..., Any]) -> None:
    """Queries one tier cannot answer stay in the records without a quality."""
    models["small"].reply = lambda m: _mood(m) if "lamp 7" not in m[-1].text else _refuse()
    said = _collect(run, folder, "--json", folder / "told.json")
    assert said.code == 0
    assert _told(folder)["missing"] == {"small": 1, "large": 0}
    assert "small gave no answer to 1 queries (ValueError: no good" in " ".join(said.out.split())
    records = read_records(folder / "r.parquet")
    at = next(i for i, prompt in enumerate(records.prompt) if prompt.endswith("lamp 7"))
    assert np.isnan(records.quality[at, 0])
    assert np.isnan(records.cost[at, 0])
    assert records.response[at][0] is None
    models["small"].reply = _mood
    assert _collect(run, folder).code == 0
    assert np.isfinite(read_records(folder / "r.parquet").quality).all()
    assert [len(models[name].calls) for name in ("small", "large")] == [41, 40]


def test_a_dead_tier_ends_the_run_early(folder: Path, models: Models, run: Callable[..., Any]) -> None:
    """Five failures and no answer: exit 2 with the reason, before the budget goes to the other tiers."""
    models["small"].fails = PermissionError("wrong key")
    said = _collect(run, folder, "--concurrency", 1)
    assert said.code == 2
    assert "small failed 5 times and never answered (PermissionError: wrong key)" in said.err
    assert len(said.err.splitlines()) == 1
    assert len(models["large"].calls) <= 5


def test_interrupting_says_how_to_go_on(folder: Path, models: Models, run: Callable[..., Any]) -> None:
    """Control-C gives exit 130 and one line; the same command goes on where it was."""
    count = 0

    def stop(messages: list[Any]) -> str:
        nonlocal count
        count += 1
        if count == 20:
            raise KeyboardInterrupt
        return _mood(messages)

    models["small"].reply = stop
    said = _collect(run, folder, "--concurrency", 1)
    assert said.code == 130
    assert "interrupted; 38 answers are kept" in said.err
    assert not (folder / "r.parquet").exists()
    assert _collect(run, folder).code == 0
    assert [len(models[name].calls) for name in ("small", "large")] == [41, 40]


def test_a_full_disk_is_one_line_and_loses_nothing(
    folder: Path, models: Models, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the records cannot be synced, the journal holds every answer."""
    synced = []

    def fail(*_: Any) -> None:
        synced.append(len(models["small"].calls))
        if synced[-1]:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", fail)
        said = _collect(run, folder)
    assert synced[:2] == [0, 40]
    assert said.code == 2
    assert "No space left" in said.err
    assert _collect(run, folder).code == 0
    assert len(models["small"].calls) == 40


@pytest.mark.parametrize(
    ("tiers", "said"),
    [
        (TIERS_YAML.replace(", input_usd_per_m: 10, output_usd_per_m: 20", ""), "its price is missing; add input_usd"),
        (TIERS_YAML.replace("max_tokens: 8}", "api_key: abc}", 1), "api_key holds a key in plain text"),
        ("- [", "not valid YAML"),
    ],
)
def test_bad_tiers_are_one_line(tiers: str, said: str, folder: Path, models: Models, run: Callable[..., Any]) -> None:
    """Exit 2, one line, nothing asked."""
    (folder / "tiers.yaml").write_text(tiers)
    done = _collect(run, folder)
    assert done.code == 2
    assert said in done.err
    assert len(done.err.splitlines()) == 1
    assert not models["small"].calls


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--metric", "bleu"), "unknown metric 'bleu'"),
        (("--metric", "judge:"), "names no model"),
        (("--metric", "judge:scripted:judge"), "the price of the judge scripted:judge is missing"),
        (("--budget", "-1"), "--budget must be US dollars"),
        (("--budget", "nan"), "--budget must be US dollars"),
        (("--redact", "("), "not a regular expression"),
        (("--gold", "nope"), "--gold 'nope' names no column"),
        (("--limit", "0"), "--limit"),
        (("--out", "r.csv"), "must end in .parquet or .jsonl"),
        (("--out", "no/r.parquet"), "does not exist"),
        (("--tiers", "none.yaml"), "none.yaml: cannot be read"),
    ],
)
def test_bad_options_are_one_line(
    more: tuple[str, str], said: str, folder: Path, models: Models, run: Callable[..., Any]
) -> None:
    """Exit 2, one line, nothing asked."""
    done = _collect(run, folder, *more)
    assert done.code == 2
    assert said in done.err
    assert len(done.err.splitlines()) == 1
    assert not models["small"].calls


def test_records_of_other_making_are_not_replaced(folder: Path, models: Models, run: Callable[..., Any]) -> None:
    """A file that no journal explains stays."""
    (folder / "r.parquet").write_text("precious")
    done = _collect(run, folder)
    assert done.code == 2
    assert "choose another --out" in done.err
    assert (folder / "r.parquet").read_text() == "precious"
    assert not models["small"].calls


def test_json_alone_on_stdout(folder: Path, models: Models, run: Callable[..., Any]) -> None:
    """With `--json -` stdout is JSON and nothing else; set-aside rows are told."""
    with (folder / "p.jsonl").open("a") as file:
        image = {"role": "user", "content": [{"type": "image_url"}]}
        file.write(json.dumps({"messages": [image]}) + "\n")
    said = _collect(run, folder, "--json", "-")
    assert said.code == 0
    told = json.loads(said.out)
    assert told["kinds"] == {"prompt": 40, "OpenAI conversation": 1}
    assert told["set_aside"] == {"'image_url' content": 1}
    assert told["spent_usd"] == pytest.approx(40 * 220e-6)
    assert len(models["small"].calls) == 40


def test_missing_packages_name_their_extra(
    folder: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without langchain the line names routenlp[collect]."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    done = _collect(run, folder)
    assert done.code == 2
    assert "routenlp[collect] is needed to collect records" in done.err
