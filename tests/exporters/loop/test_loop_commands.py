"""``routenlp loop start``, ``loop round`` and ``rollback`` from end to end, with students that count words."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

for _name in ("sqlalchemy", "sklearn", "filelock"):
    pytest.importorskip(_name, reason="needs routenlp[fit,ledger] and filelock")

from loops import PORTFOLIO, TASKS, fake_distil, first_students, know, loop_records, stream

import exporters.students
import routenlp_integrations.cli.loop as commands
from exporters.loop.files import hashes_of
from routenlp_integrations.cli import main
from router_core.errors import InputError
from router_core.records import Records
from router_core.release import Release

PLAN = """
tier = "small"
tiers = ["small", "large"]
portfolio = "portfolio.json"
folds = 3
least = 6
[settings]
alpha = 0.1
""" + "".join(f'[tasks.{task}]\nkind = "classifier"\ngrade = "exact"\n' for task in TASKS)


@pytest.fixture(autouse=True)
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """`fake_distil` stands in for the trainer, so nothing here needs torch."""
    monkeypatch.setitem(vars(exporters.students), "distil", fake_distil)
    monkeypatch.setattr(commands, "need_loop", lambda: None)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")


def write_records(path: Path, records: Records) -> Path:
    """A records file in which the reference tier is always right, and the other said nothing."""
    rows = (
        {
            "query_id": records.query_id[i], "task": records.task[i], "prompt": records.prompt[i], "model": model,
            "response": said, "quality": quality, "prompt_tokens": 8, "completion_tokens": 1, "cost_usd": usd,
            "split": records.split[i],
        }
        for i in range(len(records))
        for model, said, quality, usd in (("small", "", 0.0, 1e-5), ("large", records.response[i][1], 1.0, 1e-3))
    )  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A loop that the command line started, and the ledger of what was sent through it."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "portfolio.json").write_text(json.dumps(PORTFOLIO.to_json()))
    (folder / "plan.toml").write_text(PLAN)
    write_records(folder / "records.jsonl", loop_records())
    for name, student in first_students().items():
        student.save(folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "need_loop", lambda: None)
        assert main(begin(folder, "--json", folder / "start.json")) == 0
    stream(folder / "root", url(folder), loop_records())
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it to change; the records stay where the plan found them."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def begin(folder: Path, *more: object, root: str = "root", plan: str = "plan.toml") -> list[str]:
    """Words of a start."""
    words = ["loop", "start", folder / root, folder / "records.jsonl", "--plan", folder / plan]
    given = [word for task in TASKS for word in ("--checkpoint", f"small@{task}={folder / f'small@{task}'}")]
    return [str(word) for word in (*words, *given, *more)]


def go_on(folder: Path, *more: object, ledger: str = "ledger.db") -> list[str]:
    """Words of a round."""
    return [str(word) for word in ("loop", "round", folder / "root", "--ledger", url(folder, ledger), *more)]


def url(folder: Path, name: str = "ledger.db") -> str:
    """Address of a ledger in a folder."""
    return f"sqlite:///{folder / name}"


def left(folder: Path) -> dict[str, str]:
    """Every file of a loop by its hash, but for locks."""
    return {name: found for name, found in hashes_of(folder / "root").items() if not name.endswith("lock")}


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Make sure that words are refused with exit code 2 and one line, and nothing on stdout; the line."""
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    assert said.err.startswith("routenlp: ")
    return said.err


def test_start_round_and_rollback(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole road: a first release, a round that is promoted and told, as JSON too, and the way back, once."""
    root, told = folder / "root", folder / "told.json"
    began = json.loads((folder / "start.json").read_text())
    assert (began["release"], began["folds"]) == ("r0001", 3)
    assert set(TASKS) <= set(began["certified"])
    assert main(go_on(folder, "--json", told)) == 0
    said = capsys.readouterr()
    for words in ("round 1: promoted; release r0002 serves", "taught mood", "teacher:", "report.md"):
        assert words in said.out
    found = json.loads(told.read_text())
    assert found == json.loads((root / "rounds" / "0001" / "report.json").read_text())
    assert (found["outcome"], found["release"], found["reasons"]) == ("promoted", "r0002", {})
    assert main(go_on(folder, "--json", "-")) == 0
    assert json.loads(capsys.readouterr().out)["round"] == 2
    assert main(["rollback", str(root), "--json", str(told)]) == 0
    assert f"release r0001 serves again from {root}" in " ".join(capsys.readouterr().out.split())
    assert json.loads(told.read_text()) == {"release": "r0001"}
    assert Release.current(root).id == "r0001"
    before = left(folder)
    assert "nothing to go back to" in refused(["rollback", str(root)], capsys)
    assert left(folder) == before


BAD_PLANS = {
    "no toml": ("tier = [", "not valid TOML"),
    "no tasks": ('tier = "small"', "[tasks.<name>]"),
    "unknown key": (PLAN.replace("least", "lest"), "unknown key 'lest'"),
    "unknown key of a task": (PLAN + "grades = 1\n", "[tasks.tone]: unknown key 'grades'"),
    "unknown kind": (PLAN.replace('"classifier"', '"oracle"'), "kind 'oracle'"),
    "reference learns": (PLAN.replace('tier = "small"', 'tier = "large"'), "is the reference tier"),
    "one fold": (PLAN.replace("folds = 3", "folds = 1"), "folds is 1; it must be a whole number, at least 2"),
    "folds of another type": (PLAN.replace("folds = 3", 'folds = "3"'), "folds is '3'; it must be a whole number"),
    "folds as a word": (PLAN.replace("folds = 3", 'folds = "four"'), "folds is 'four'"),
    "seed pairs as a word": (PLAN + 'seed_pairs = "x"\n', "seed_pairs is 'x'"),
    "alpha as a word": (PLAN.replace("alpha = 0.1", 'alpha = "x"'), "alpha is 'x'"),
    "age as a word": (PLAN.replace("[settings]", '[settings]\nmax_age_days = "x"'), "max_age_days is 'x'"),
    "budget of nan": ("budget_usd = nan" + PLAN, "budget_usd is nan"),
    "unknown metric": (PLAN.replace('"exact"', '"exakt"'), "unknown metric 'exakt'"),
    "alpha": (PLAN.replace("alpha = 0.1", "alpha = 2"), "alpha"),
    "unknown task": (PLAN.replace("tasks.tone", "tasks.taste"), "planned task 'taste'"),
    "options that are no table": (PLAN + "options = 7\n", "[tasks.tone] options is 7; it must be a table"),
    "a head that is no table": (PLAN + "options = {head = 7}\n", "[tasks.tone] head must be a table"),
    "negative seed": ("seed = -1" + PLAN, "seed is -1"),
    "no portfolio": (PLAN.replace("portfolio.json", "nothing.json"), "nothing.json"),
}


@pytest.mark.parametrize("name", BAD_PLANS)
def test_bad_plans_start_nothing(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A plan that is wrong is named in one line, and no folder is left."""
    plan, message = BAD_PLANS[name]
    (folder / "bad.toml").write_text(plan)
    assert message in refused(begin(folder, root="other", plan="bad.toml"), capsys)
    assert not (folder / "other").exists()


def test_bad_starts_start_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files that are missing, checkpoints that fit no plan, a loop that is there: one line each, nothing changed."""
    before = left(folder)
    assert "started here already" in refused(begin(folder), capsys)
    assert "nothing.toml" in refused(begin(folder, root="other", plan="nothing.toml"), capsys)
    for given, message in {
        "small@mood": "write TIER@TASK=FOLDER",
        f"small@taste={folder / 'small@mood'}": "of no task that has a plan",
        f"small@mood={folder / 'nowhere'}": "nowhere",
    }.items():
        assert message in refused(begin(folder, "--checkpoint", given, root="other"), capsys)
    (folder / "records.jsonl").write_text("")
    assert "records.jsonl" in refused(begin(folder, root="other"), capsys)
    assert not (folder / "other").exists()
    assert left(folder) == before


def test_bad_rounds_change_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No loop, no ledger, other records, no teacher, no text: one line each, and the next round is still the first."""
    before = left(folder)
    elsewhere = ["loop", "round", str(folder / "nowhere"), "--ledger", url(folder)]
    assert "holds no loop" in refused(elsewhere, capsys)
    assert not (folder / "nowhere").exists()
    assert "missing.db" in refused(go_on(folder, ledger="missing.db"), capsys)
    assert not (folder / "missing.db").exists()
    foreign = write_records(folder / "foreign.jsonl", loop_records(seed=3))
    assert "not the records" in refused(go_on(folder, "--records", foreign), capsys)
    told = refused(go_on(folder, "--teacher", folder / "nothing.yaml"), capsys)
    assert ("nothing.yaml" if find_spec("langchain_core") and find_spec("yaml") else "routenlp[collect]") in told
    assert "budget" in refused(go_on(folder, "--budget", -1), capsys)
    stream(folder / "root", url(folder, "mute.db"), loop_records(seed=5), store_text=False)
    assert "store_text=True" in refused(go_on(folder, ledger="mute.db"), capsys)
    assert left(folder) == before
    plan = folder / "root" / "loop" / "plan.json"
    content = plan.read_text()
    for damaged in ('{"x": 1}', "[]", '{"plan": {}, "records": [1]}'):
        plan.write_text(damaged)
        assert "plan.json is damaged" in refused(go_on(folder), capsys)
    plan.write_text(content)
    assert left(folder) == before
    assert main(go_on(folder)) == 0


def test_a_report_never_replaces_what_a_loop_lives_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Records that only the plan names, folds, journals and what serves: refused before anything is read."""
    root = folder / "root"
    (records,) = json.loads((root / "loop" / "plan.json").read_text())["records"]
    before, content = left(folder), Path(records).read_bytes()
    kept = (root / "loop" / "folds.json", root / "rounds" / "0000" / "journal.json", root / "current")
    for target in (Path(records), folder / "ledger.db", *kept):
        assert "name another file" in refused(go_on(folder, "--json", target), capsys)
    assert (left(folder), Path(records).read_bytes()) == (before, content)


# An empty list of folds is one that says nothing yet.
DAMAGED = [
    (name, content)
    for name in ("folds.json", "start.json", "journal.json", "spent.json", "mood.jsonl")
    for content in ("{}", "[]", "7", "{")
    if (name, content) != ("spent.json", "{}")
]


@pytest.mark.parametrize(("name", "content"), DAMAGED)
def test_damaged_files_of_a_loop_are_named(
    name: str, content: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each says which file it is and what to do about it, in one line; nothing else is changed."""
    root = folder / "root"
    places = {"journal.json": root / "rounds" / "0000", "mood.jsonl": root / "loop" / "pairs" / "r0001"}
    path = places.get(name, root / "loop") / name
    path.write_text(content)
    before = left(folder)
    said = refused(go_on(folder), capsys)
    assert f"{path} is" in said
    assert "damaged" in said
    assert "restore it" in said
    assert {key: value for key, value in left(folder).items() if "rounds/0001" not in key} == before


def test_a_damaged_journal_of_a_round_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It may be removed with its round; a round that was promoted goes on serving."""
    assert main(go_on(folder)) == 0
    path = folder / "root" / "rounds" / "0001" / "journal.json"
    whole = json.loads(path.read_text())
    begun = {**whole["begun"], "incumbent": 7}
    for damaged in ([], {}, {**whole, "begun": begun}, {**whole, "steps": {"harvest": {}}}, {**whole, "begun": []}):
        path.write_text(json.dumps(damaged))
        said = refused(go_on(folder), capsys)
        assert f"{path} is damaged" in said
        assert f"restore it, or remove {path.parent} to lose the round" in said


def test_a_student_of_another_tier_starts_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Found before anything is written: no ROOT is left."""
    know(0, tier="tiny").save(folder / "other")
    words = begin(folder, "--checkpoint", f"small@mood={folder / 'other'}", root="new")
    assert "was made for the tier 'tiny', not for 'small'" in refused(words, capsys)
    assert not (folder / "new").exists()


def test_a_round_takes_a_plan_of_its_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A loop that was started from Python has no plan; given one with its records, its rounds run."""
    (folder / "root" / "loop" / "plan.json").unlink()
    assert "give --plan and --records" in refused(go_on(folder), capsys)
    words = ("--plan", folder / "plan.toml", "--records", folder / "records.jsonl")
    assert main(go_on(folder, *words)) == 0


def test_a_ledger_of_calibration_queries_teaches_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Calibration queries in the ledger are counted and left out: there is nothing to learn, and no fold is used."""
    stream(folder / "root", url(folder, "calib.db"), loop_records(), splits=("calib",))
    assert main(go_on(folder, "--json", folder / "told.json", ledger="calib.db")) == 0
    assert "nothing to learn; release r0001 serves" in capsys.readouterr().out
    told = json.loads((folder / "told.json").read_text())
    assert told["harvest"]["found"] == {}
    assert told["harvest"]["left_out"]["calibration queries"] > 0
    assert not (folder / "root" / "loop" / "spent.json").exists()
    assert Release.current(folder / "root").id == "r0001"


@pytest.mark.skipif(find_spec("langchain") is None, reason="needs routenlp[collect]")
def test_a_live_teacher_is_asked_within_the_budget(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no escalation left an answer to is asked of the last tier of tiers.yaml, and paid once."""
    from scripted import ScriptedModel

    right = {prompt: row[1] for prompt, row in zip(loop_records().prompt, loop_records().response, strict=True)}
    model = ScriptedModel(model_name="large", reply=lambda messages: str(right[messages[-1].text]))
    monkeypatch.setattr("langchain.chat_models.init_chat_model", lambda name, **_: model)
    (folder / "tiers.yaml").write_text(
        '- {name: small, model: "scripted:small", input_usd_per_m: 1, output_usd_per_m: 2}\n'
        '- {name: large, model: "scripted:large", input_usd_per_m: 10, output_usd_per_m: 20, params: {max_tokens: 8}}\n'
    )
    told = folder / "root" / "loop" / "plan.json"
    plan: dict[str, Any] = json.loads(told.read_text())
    plan["plan"]["reuse_records"] = False
    told.write_text(json.dumps(plan))
    stream(folder / "root", url(folder, "mute.db"), loop_records(), store_text=False)
    words = ("--teacher", folder / "tiers.yaml", "--budget", 1, "--json", folder / "told.json")
    assert main(go_on(folder, *words, ledger="mute.db")) == 0, capsys.readouterr().err
    found = json.loads((folder / "told.json").read_text())
    teach = found["teach"]
    assert found["outcome"] == "promoted", found["reasons"]
    assert teach["asked"] == len(model.calls) > 20
    assert teach["reused"] == 0
    assert teach["usd"] == pytest.approx(teach["asked"] * (10 * 10 + 5 * 20) / 1e6)
    assert "sk-" not in (folder / "root" / "rounds" / "0001" / "teacher.jsonl").read_text()


@pytest.mark.parametrize(
    ("names", "found"), [(["large", "small"], "large"), (["small", "gpt"], "gpt"), (["gpt", "small"], None)]
)
def test_the_reference_of_a_file_of_tiers(names: list[str], found: str | None) -> None:
    """The tier of its name, wherever it stands; else the last, which must not be another tier of the portfolio."""
    from routenlp_integrations.cli.teacher import reference_of

    if found is not None:
        assert reference_of(Path("tiers.yaml"), names, PORTFOLIO) == found
        return
    with pytest.raises(InputError, match="no tier is named 'large', the reference, and the last one, 'small', is"):
        reference_of(Path("tiers.yaml"), names, PORTFOLIO)
