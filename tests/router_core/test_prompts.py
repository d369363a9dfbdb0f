"""Prompts from tables and exports: what each shape gives, and what a bad row says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from router_core.errors import InputError
from router_core.prompts import Prompt, PromptFile, read_prompts
from router_core.records_file import write_records

USER = {"role": "user", "content": "What is due?"}
SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = (("system", "Be brief."), ("human", "What is due?"))


def _read(folder: Path, rows: list[Any], name: str = "p.jsonl", **options: Any) -> PromptFile:
    path = folder / name
    if name.endswith(".json"):
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_prompts(path, **options)


def _one(folder: Path, row: Any, **options: Any) -> Prompt:
    found = _read(folder, [row], **options)
    assert len(found.prompts) == 1
    return found.prompts[0]


@pytest.mark.parametrize("column", ["prompt", "text", "input", "question"])
@pytest.mark.parametrize("gold", ["gold", "label", "answer"])
def test_a_table_of_prompts(column: str, gold: str, tmp_path: Path) -> None:
    """Any of the column names is read, with everything optional."""
    row = {column: "What?", gold: "this", "task": "t/a", "group": "g", "query_id": "q1", "split": "train"}
    prompt = _one(tmp_path, row)
    assert prompt.turns == (("human", "What?"),)
    assert (prompt.text, prompt.gold, prompt.task) == ("What?", "this", "t/a")
    assert (prompt.group, prompt.query_id, prompt.split) == ("g", "q1", "train")


def test_csv_and_parquet_give_the_same_prompts(tmp_path: Path) -> None:
    """Kinds of file differ in nothing but their place."""
    rows = [{"prompt": "Is 2 > 1?", "label": "yes"}, {"prompt": 'Say "ä",\nthen stop', "label": "ä"}]
    (tmp_path / "p.csv").write_text('prompt,label\nIs 2 > 1?,yes\n"Say ""ä"",\nthen stop",ä\n', encoding="utf-8")
    write_records(tmp_path / "p.parquet", rows)
    seen = [
        [(p.text, p.gold, p.query_id) for p in read_prompts(tmp_path / name).prompts] for name in ("p.csv", "p.parquet")
    ]
    assert seen[0] == seen[1]
    assert [text for text, _, _ in seen[0]] == [row["prompt"] for row in rows]


def test_ids_are_made_from_the_text_and_repeats_are_kept(tmp_path: Path) -> None:
    """The same words get the same id in any file; asked again they are another query, and no row is lost."""
    first = _read(tmp_path, [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}]).prompts
    other = _read(tmp_path, [{"prompt": "b"}], "q.jsonl").prompts
    assert first[1].query_id == other[0].query_id
    assert first[2].query_id == f"{first[0].query_id}-2"
    assert len({prompt.query_id for prompt in first}) == 3


def test_the_task_option_names_the_nameless(tmp_path: Path) -> None:
    """A row's own task wins over the option; without either it is "default"."""
    rows = [{"prompt": "a", "task": "own"}, {"prompt": "b"}]
    assert [p.task for p in _read(tmp_path, rows, task="given").prompts] == ["own", "given"]
    assert [p.task for p in _read(tmp_path, rows).prompts] == ["own", "default"]


def test_the_gold_option_names_a_column(tmp_path: Path) -> None:
    """Any column can hold gold answers; numbers become text, lists several answers; an unknown one is refused."""
    rows = [{"prompt": "a", "want": 7, "label": "no"}, {"prompt": "b", "want": ["x", "y"]}]
    assert [p.gold for p in _read(tmp_path, rows, gold="want").prompts] == ["7", ("x", "y")]
    with pytest.raises(InputError, match="--gold 'wanted' names no column"):
        _read(tmp_path, rows, gold="wanted")


SHAPES: list[tuple[str, dict[str, Any], Any]] = [
    ("OpenAI conversation", {"messages": [SYSTEM, USER, {"role": "assistant", "content": "Rent."}]}, "Rent."),
    ("OpenAI conversation", {"messages": [SYSTEM, USER], "answer": "Tax."}, "Tax."),
    ("prompt", {"prompt": [SYSTEM, USER], "label": "Tax."}, "Tax."),
    ("OpenAI batch request", {"custom_id": "r", "url": "/v1", "body": {"messages": [SYSTEM, USER]}}, None),
    ("OpenAI batch request", {"custom_id": "r", "body": {"model": "m", "input": [SYSTEM, USER]}}, None),
    (
        "OpenAI stored completion",
        {"object": "chat.completion", "messages": [SYSTEM, USER], "choices": [{"message": {"content": "said"}}]},
        None,
    ),
    ("OpenAI evals sample", {"input": [SYSTEM, USER], "ideal": ["Rent.", "Tax."]}, ("Rent.", "Tax.")),
    ("OpenAI eval item", {"item": {"messages": [SYSTEM, USER], "label": "Tax."}, "sample": {"x": 1}}, "Tax."),
    (
        "LangSmith example",
        {"id": "e1", "dataset_id": "d", "inputs": {"messages": [SYSTEM, USER]}, "outputs": {"answer": "Tax."}},
        "Tax.",
    ),
    (
        "LangSmith example",
        {
            "inputs": {
                "messages": [
                    {"type": "system", "data": {"content": "Be brief.", "type": "system"}},
                    {"type": "human", "data": {"content": [{"type": "text", "text": "What is due?"}]}},
                ]
            },
            "outputs": {"messages": [{"type": "ai", "data": {"content": "Tax."}}]},
        },
        "Tax.",
    ),
    (
        "LangSmith run",
        {
            "run_type": "llm",
            "inputs": {
                "messages": [
                    [
                        {"lc": 1, "id": ["x", "SystemMessage"], "kwargs": {"content": "Be brief."}},
                        {"lc": 1, "id": ["x", "HumanMessage"], "kwargs": {"content": "What is due?"}},
                    ]
                ]
            },
            "outputs": {"generations": [[{"text": "said"}]]},
        },
        None,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "row", "gold"), SHAPES)
def test_every_export_is_told_by_its_shape(kind: str, row: dict[str, Any], gold: Any, tmp_path: Path) -> None:
    """The turns are asked, the last human one is routed, and only what was meant as an answer is gold."""
    found = _read(tmp_path, [row])
    assert found.kinds == {kind: 1}
    assert found.prompts[0].turns == TURNS
    assert found.prompts[0].text == "What is due?"
    assert found.prompts[0].gold == gold


def test_a_json_export_is_read(tmp_path: Path) -> None:
    """A LangSmith export as one JSON list, or a list under `examples`, is read, with the ids it gives."""
    rows = [{"id": f"e{i}", "inputs": {"question": f"q{i}"}, "outputs": {"output": i}} for i in range(3)]
    assert [(p.query_id, p.gold) for p in _read(tmp_path, rows, "a.json").prompts] == [
        ("e0", "0"),
        ("e1", "1"),
        ("e2", "2"),
    ]
    (tmp_path / "b.json").write_text(json.dumps({"examples": rows}))
    assert len(read_prompts(tmp_path / "b.json").prompts) == 3


def test_a_csv_may_hold_conversations_as_json(tmp_path: Path) -> None:
    """Tables hold messages as JSON text."""
    cell = json.dumps([SYSTEM, USER]).replace('"', '""')
    (tmp_path / "p.csv").write_text(f'messages,label\n"{cell}",x\n')
    assert read_prompts(tmp_path / "p.csv").prompts[0].turns == TURNS


def test_a_run_can_give_gold_when_told(tmp_path: Path) -> None:
    """A run's outputs become gold answers only by --gold."""
    row = {"run_type": "chain", "inputs": {"input": "q"}, "outputs": {"output": "said"}}
    assert _one(tmp_path, row).gold is None
    assert _one(tmp_path, row, gold="output").gold == "said"


def test_later_turns_of_a_conversation_are_cut_off(tmp_path: Path) -> None:
    """Earlier answers stay as context; what follows the last human turn is not asked."""
    talk = [USER, {"role": "assistant", "content": "Rent."}, {"role": "user", "content": "When?"}]
    prompt = _one(tmp_path, {"messages": [*talk, {"role": "assistant", "content": "Now."}]})
    assert prompt.turns == (("human", "What is due?"), ("ai", "Rent."), ("human", "When?"))
    assert (prompt.text, prompt.gold) == ("human: What is due?\nai: Rent.\n\nWhen?", "Now.")


def test_what_is_no_text_is_set_aside_and_counted(tmp_path: Path) -> None:
    """Images and tool calls of an export are left out by reason, the rest is kept."""
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    tool = {"role": "tool", "content": "4"}
    rows = [{"messages": part} for part in ([USER], [image], [USER, call, tool, USER], [USER, tool, USER])]
    found = _read(tmp_path, rows)
    assert len(found.prompts) == 1
    assert found.set_aside == {"'image_url' content": 1, "tool calls": 1, "tool results": 1}
    with pytest.raises(InputError, match=r"no prompt can be asked as text .1 with 'image_url' content"):
        _read(tmp_path, [{"messages": [image]}])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt": "a"}, {"prompt": " "}], r"line 2: column 'prompt' is empty"),
        ([{"prompt": "a"}, {"prompt": math.inf}], r"line 2: column 'prompt' is inf"),
        ([{"query": "a"}], r"line 1: has none of the columns prompt, text, input, question.*it has query"),
        ([{"prompt": 3.5}, {"prompt": {"a": 1}}], r"line 2: column 'prompt' must be text or a list of messages"),
        ([{"prompt": [{"role": "user", "content": [{"type": "image"}]}]}], r"line 1: holds 'image' content"),
        ([{"messages": "hello"}, {"messages": [{"role": "king", "content": "a"}]}], r"line 2: column 'messages'"),
        ([{"messages": [{"role": "user", "content": ""}]}], r"line 1: the last human turn in 'messages' is empty"),
        ([{"body": {"model": "m"}}], r"line 1: column 'body.messages' must be"),
        ([{"inputs": {"a": "x", "b": "y"}}], r"line 1: which of the inputs a, b is the prompt"),
        ([{"prompt": "a", "label": {"x": [1]}}], r"line 1: column 'label' must be a gold answer"),
        ([{"prompt": "a", "task": "*"}], r"line 1: task '\*' is reserved"),
        ([{"prompt": "a", "task": ["t"]}], r"line 1: column 'task' must be text, not list"),
        ([{"prompt": "a", "split": "dev"}], r"line 1: column 'split' is 'dev'; it must be one of train"),
        ([{"prompt": "a", "split": "train"}, {"prompt": "b"}], r"line 2: column 'split' is empty, though other rows"),
        ([{"prompt": "a", "query_id": 1}, {"prompt": "b", "query_id": "1"}], r"line 2: query_id '1' was .*line 1"),
        ([{"prompt": "a \ud800"}], r"line 1: .*half a character"),
    ],
)  # fmt: skip
def test_bad_rows_name_their_place(rows: list[Any], said: str, tmp_path: Path) -> None:
    """File, line and column are in every error."""
    with pytest.raises(InputError, match=said) as caught:
        _read(tmp_path, rows)
    assert "p.jsonl" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.json", "{", "not valid JSON"),
        ("p.json", "[1]", "item 1 is not a JSON object"),
        ("p.json", "[]", "holds no list of prompts"),
        ("p.jsonl", '{"prompt": 1}\n{', "line 2 is not valid JSON"),
        ("p.txt", "hello", "are .parquet, .csv"),
        ("none.json", None, "cannot be read"),
    ],
)
def test_bad_files_are_named(name: str, content: str | None, said: str, tmp_path: Path) -> None:
    """What cannot be read at all says so."""
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=said):
        read_prompts(tmp_path / name)
