"""Reading records: what is right is read exactly, what is wrong is named by file, row and column."""

from __future__ import annotations

import csv
import gzip
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router_core.errors import InputError, MissingExtraError
from router_core.portfolio import Portfolio, Tier
from router_core.records import Records, choose_tiers, complete, read_records

ROWS: list[dict[str, Any]] = [
    {
        "query_id": f"q{i}",
        "prompt": f"What is {i} plus {i}?",
        "task": "sums/easy",
        "model": model,
        "response": str(2 * i),
        "quality": quality,
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "cost_usd": cost,
        "split": split,
        "signal_own": 0.5,
    }
    for i, split in enumerate(["train", "calib", "test"])
    for model, quality, cost in [("small", 0.5, 1e-5), ("large", 1.0, 2e-4)]
]


def rows(**changes: Any) -> list[dict[str, Any]]:
    """Return the good rows with row 3 (the fourth) changed."""
    copy = [dict(row) for row in ROWS]
    copy[3] |= changes
    return copy


def write(path: Path, data: list[dict[str, Any]]) -> Path:
    """Write rows in the form the file's name asks for."""
    if path.suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet

        names = list(dict.fromkeys(key for row in data for key in row))
        pyarrow.parquet.write_table(pa.table({name: [row.get(name) for row in data] for name in names}), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(data[0]))
            writer.writeheader()
            writer.writerows(data)
    else:
        text = "".join(json.dumps(row) + "\n" for row in data)
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_a_csv_may_be_separated_by_semicolons_or_tabs(tmp_path: Path) -> None:
    """What a spreadsheet writes where the comma is the decimal mark reads the same, commas inside a cell included."""
    plain = read_records(write(tmp_path / "r.csv", rows(response="4, or four")))
    for mark in ";\t":
        with (tmp_path / "other.csv").open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(ROWS[0]), delimiter=mark)
            writer.writeheader()
            writer.writerows(rows(response="4, or four"))
        other = read_records(tmp_path / "other.csv")
        assert other.response == plain.response
        assert other.query_id == plain.query_id
        assert np.array_equal(other.cost, plain.cost)


FORMS = ["r.parquet", "r.csv", "r.jsonl", "r.jsonl.gz"]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_reads_the_same(tmp_path, name: str) -> None:
    """Parquet, CSV and JSON lines, plain or compressed, give the same records."""
    records = read_records(write(tmp_path / name, ROWS))
    assert records.query_id == ["q0", "q1", "q2"]
    assert records.models == ("small", "large")
    assert records.task == ["sums"] * 3
    assert records.subtask == ["easy"] * 3
    assert records.split == ["train", "calib", "test"]
    assert records.response == [["0", "0"], ["2", "2"], ["4", "4"]]
    np.testing.assert_array_equal(records.quality, [[0.5, 1.0]] * 3)
    np.testing.assert_array_equal(records.cost, [[1e-5, 2e-4]] * 3)
    np.testing.assert_array_equal(records.prompt_tokens, np.full((3, 2), 7.0))
    np.testing.assert_array_equal(records.signals["own"], np.full((3, 2), 0.5))
    assert records.cost_basis == "recorded"
    assert str(tmp_path / name) in records.source


def test_only_the_required_columns_and_a_cost_are_needed(tmp_path) -> None:
    """Optional columns default: one task named default, no split, no group, no answers."""
    keep = ("query_id", "prompt", "model", "quality", "cost_usd")
    records = read_records(write(tmp_path / "r.jsonl", [{k: row[k] for k in keep} for row in ROWS]))
    assert set(records.task) == {"default"}
    assert set(records.subtask) == set(records.split) == set(records.group) == {""}
    assert records.response == [[None, None]] * 3
    assert np.isnan(records.completion_tokens).all()


def test_several_files_are_put_together(tmp_path) -> None:
    """Rows of one query may stand in different files and forms; places keep their own file."""
    small = write(tmp_path / "small.csv", [row for row in ROWS if row["model"] == "small"])
    large = write(tmp_path / "large.jsonl", [row for row in ROWS if row["model"] == "large"])
    records = read_records([small, large])
    np.testing.assert_array_equal(records.quality, [[0.5, 1.0]] * 3)
    with pytest.raises(InputError, match=r"large\.jsonl: line 1: .*already given at .*large\.jsonl: line 1"):
        read_records([small, large, large])


def test_rows_in_any_order_give_the_same_table(tmp_path) -> None:
    """Only the order of queries and models follows the rows."""
    turned = read_records(write(tmp_path / "r.jsonl", ROWS[::-1])).for_models(["small", "large"]).take([2, 1, 0])
    straight = read_records(write(tmp_path / "s.jsonl", ROWS))
    assert turned.query_id == straight.query_id
    assert turned.response == straight.response
    np.testing.assert_array_equal(turned.cost, straight.cost)


def test_null_quality_is_a_missing_answer_not_an_error(tmp_path) -> None:
    """A null is kept as nan in every form, for `complete` to drop and count."""
    for name in FORMS:
        records = read_records(write(tmp_path / name, rows(quality=None)))
        np.testing.assert_array_equal(np.isnan(records.quality), [[False, False], [False, True], [False, False]])


def test_a_signal_that_is_not_finite_is_missing(tmp_path) -> None:
    """An infinite log-probability says nothing, so it is missing like a null."""
    records = read_records(write(tmp_path / "r.jsonl", rows(signal_own=float("-inf"))))
    assert np.isnan(records.signals["own"][1, 1])
    assert np.isfinite(records.signals["own"]).sum() == 5


BAD_CELLS = [
    ({"quality": 1.5}, r"(row|line) 4: column 'quality' is 1.5; it must be between 0 and 1"),
    ({"quality": -0.1}, r"(row|line) 4: column 'quality' is -0.1"),
    ({"quality": float("nan")}, r"(row|line) 4: column 'quality' is nan"),
    ({"cost_usd": -1e-9}, r"(row|line) 4: column 'cost_usd' is -1e-09; .*not negative"),
    ({"cost_usd": float("nan")}, r"(row|line) 4: column 'cost_usd' is nan"),
    ({"cost_usd": float("inf")}, r"(row|line) 4: column 'cost_usd' is inf"),
    ({"completion_tokens": -1}, r"(row|line) 4: column 'completion_tokens' is -1"),
    ({"query_id": "q0"}, r"(row|line) 4: query 'q0' and model 'large' were already given at .*(row|line) 2"),
    ({"prompt": "other"}, r"(row|line) 4: column 'prompt' differs from .*(row|line) 3 .*'q1'"),
    ({"task": "other"}, r"(row|line) 4: column 'task' differs from .*(row|line) 3"),
    ({"split": "train"}, r"(row|line) 4: column 'split' differs from .*(row|line) 3"),
    ({"split": None}, r"(row|line) 4: column 'split' differs from .*(row|line) 3"),
    ({"prompt": None}, r"(row|line) 4: column 'prompt' is empty"),
    ({"model": ""}, r"(row|line) 4: column 'model' is empty"),
    ({"query_id": None}, r"(row|line) 4: column 'query_id' is empty"),
]


@pytest.mark.parametrize("name", FORMS[:3])
@pytest.mark.parametrize(("change", "says"), BAD_CELLS, ids=[str(change) for change, _ in BAD_CELLS])
def test_a_bad_cell_is_named(tmp_path, name: str, change: dict[str, Any], says: str) -> None:
    """One bad cell stops the reading with one line that names file, row and column."""
    path = write(tmp_path / name, rows(**change))
    with pytest.raises(InputError, match=says) as caught:
        read_records(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FORMS[:3])
@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("quality", "Quality", "column 'quality' is missing; did you mean 'Quality'"),
        ("quality", "score", "column 'quality' is missing; did you mean 'score'"),
        ("prompt", "question", "column 'prompt' is missing; did you mean 'question'"),
        ("query_id", "queryid", "column 'query_id' is missing; did you mean 'queryid'"),
        ("model", "llm", "column 'model' is missing; did you mean 'llm'"),
        ("model", "xyz", "column 'model' is missing; the file has query_id, prompt"),
        ("split", "splits", "column 'split' is missing; did you mean 'splits'"),
        ("cost_usd", "cost", "column 'cost_usd' is missing; did you mean 'cost'"),
    ],
)
def test_a_missing_or_misnamed_column_is_named(tmp_path, name: str, old: str, new: str, says: str) -> None:
    """A required column that is absent, or any known one misspelt, gets a suggestion."""
    path = write(tmp_path / name, [{new if k == old else k: v for k, v in row.items()} for row in ROWS])
    with pytest.raises(InputError, match=says) as caught:
        read_records(path)
    assert str(caught.value).startswith(str(path))


def test_extra_columns_are_left_alone(tmp_path) -> None:
    """A column nobody asked for is no error."""
    data = [row | {"answered_at": "today", "judge": 3} for row in ROWS]
    assert len(read_records(write(tmp_path / "r.csv", data))) == 3


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (
            [row for row in ROWS if row["model"] == "small"],
            "at least two models are needed, found only 'small'",
        ),
        ([row | {"split": "dev"} for row in ROWS], "row 1: column 'split' is 'dev'; it must be one of train"),
        ([row | {"task": "*"} for row in ROWS], r"row 1: task '\*' is reserved"),
        ([row | {"task": "a/*"} for row in ROWS], r"row 1: task 'a/\*' is reserved"),
        ([row | {"task": "/b"} for row in ROWS], "row 1: task '/b' is reserved or has no name"),
        (rows(query_id="q9", task="a\x00b"), r"row 4: column 'task' holds U\+0000, a control character"),
        (rows(query_id="q9", task="a/b\nc"), r"row 4: column 'task' holds U\+000A"),
        (rows(query_id="q9", task="a\u202egpj"), r"row 4: column 'task' holds U\+202E"),
        ([row | {"cost_usd": None} for row in ROWS], "no row has a cost_usd; give a portfolio with prices"),
    ],
)
def test_bad_tables_are_named(tmp_path, data: list[dict[str, Any]], says: str) -> None:
    """Too few models, unknown splits, reserved task names, and records without any cost are bad input."""
    with pytest.raises(InputError, match=says):
        read_records(write(tmp_path / "r.csv", data))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("r.jsonl", b'{"query_id": "a"}\n\n{"query_id": \n', "line 3 is not valid JSON"),
        ("r.jsonl", b'{"query_id": "a"}\n[1]\n', "line 2 is not a JSON object"),
        ("r.jsonl", b'{"query_id": "a"}\n"\xff"\n', "line 2 is not UTF-8"),
        ("r.jsonl.gz", b"not gzip at all", "not a readable gzip file"),
        ("r.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 9000)[:-20], "not a readable gzip file after line"),
        ("r.jsonl", b"", "holds no records"),
        ("r.csv", b"", "holds no records"),
        ("r.csv", b"query_id,prompt\n", "holds no records"),
        ("r.csv", b"query_id,prompt\na,b\nc\n", "row 2 has 1 fields, the header has 2"),
        ("r.csv", b'query_id,prompt\na,"b"c\n', "line 2 is not valid CSV"),
        ("r.csv", b"query_id,prompt\na,\xff\n", "line 2 is not UTF-8"),
        ("r.csv", b"\xff\xfe\x00", "line 1 is not UTF-8"),
        ("r.csv", b"prompt,prompt\na,b\n", "column 'prompt' occurs twice"),
        ("r.parquet", b"PAR1 but not really", "not a readable Parquet file"),
        ("r.xlsx", b"", "records are .parquet, .csv, .jsonl"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name: str, content: bytes, says: str) -> None:
    """A file that cannot be read says so, with the line where there is one."""
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        read_records(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["none.csv", "none.jsonl", "none.parquet"])
def test_an_absent_file_is_named(tmp_path, name: str) -> None:
    """An absent file, or no file at all, is bad input."""
    with pytest.raises(InputError, match=name):
        read_records(tmp_path / name)
    with pytest.raises(InputError, match="no records given"):
        read_records([])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"quality": "good"}, "line 4: column 'quality' must be a number, not 'good'"),
        ({"quality": [1]}, "line 4: column 'quality' must be a number"),
        ({"cost_usd": 10**400}, "line 4: column 'cost_usd' must be a number"),
        ({"prompt": ["a", "b"]}, "line 4: column 'prompt' must be text, not list"),
        ({"response": "\ud800"}, "line 4: column 'response' holds half a character"),
    ],
)
def test_wrong_types_in_json_are_named(tmp_path, change: dict[str, Any], says: str) -> None:
    """Text for numbers, lists for text and broken Unicode name their line."""
    with pytest.raises(InputError, match=says):
        read_records(write(tmp_path / "r.jsonl", rows(**change)))


def test_a_line_without_quality_is_named(tmp_path) -> None:
    """A key left out of one line is a slip, not a missing answer."""
    data = rows()
    del data[3]["quality"]
    with pytest.raises(InputError, match="line 4: column 'quality' is missing; write null"):
        read_records(write(tmp_path / "r.jsonl", data))


def test_wrong_types_in_parquet_are_named(tmp_path) -> None:
    """A text column where numbers belong names the column."""
    data = [row | {"quality": "1"} for row in ROWS]
    with pytest.raises(InputError, match="column 'quality' must be numbers, not text"):
        read_records(write(tmp_path / "r.parquet", data))
    data = [row | {"prompt": [1]} for row in ROWS]
    with pytest.raises(InputError, match="column 'prompt' must be text, not list"):
        read_records(write(tmp_path / "r.parquet", data))


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch) -> None:
    """Without pyarrow the error names routenlp[fit]."""
    path = tmp_path / "r.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"routenlp\[fit\] is needed to read Parquet records"):
        read_records(path)


def test_strange_text_is_kept_as_it_is(tmp_path) -> None:
    """Emoji, right-to-left text, NUL, line breaks and long fields survive every form."""
    prompt = '\u05e9\u05dc\u05d5\u05dd \U0001f600 \x00 a,"b"\r\nc ' + "x" * 200_000
    data = [row | {"prompt": prompt, "query_id": "q"} for row in ROWS[:2]]
    for name in FORMS:
        assert read_records(write(tmp_path / name, data)).prompt == [prompt]


PRICES = Portfolio(
    (
        Tier("small", 1.0, 2.0, assumed_completion_tokens=100),
        Tier("large", 10.0, 20.0, usd_per_call=0.01, assumed_completion_tokens=200),
    )
)


def without(*names: str) -> list[dict[str, Any]]:
    """Return the good rows without some columns."""
    return [{k: v for k, v in row.items() if k not in names} for row in ROWS]


def test_recorded_costs_win_over_prices(tmp_path) -> None:
    """A portfolio changes no cost that was recorded, and fills only the gaps."""
    path = write(tmp_path / "r.jsonl", rows(cost_usd=None))
    records = read_records(path, PRICES)
    expected = np.array([[1e-5, 2e-4]] * 3)
    expected[1, 1] = PRICES.reference.price(7, 2)
    np.testing.assert_array_equal(records.cost, expected)
    assert records.cost_basis == "computed"
    assert read_records(write(tmp_path / "s.jsonl", ROWS), PRICES).cost_basis == "recorded"


def test_costs_from_recorded_tokens_equal_tier_price(tmp_path) -> None:
    """Recorded tokens at portfolio prices, to the last bit."""
    records = read_records(write(tmp_path / "r.jsonl", without("cost_usd")), PRICES)
    assert records.cost.tolist() == [[tier.price(7, 2) for tier in PRICES.tiers]] * 3
    assert records.cost_basis == "computed"


def test_costs_from_assumed_lengths_say_so(tmp_path) -> None:
    """Without counts the prompt is a quarter of its bytes and the answer as long as assumed."""
    data = without("cost_usd", "prompt_tokens", "completion_tokens")
    records = read_records(write(tmp_path / "r.jsonl", data), PRICES)
    p = -(-len("What is 0 plus 0?") // 4)
    assert records.cost.tolist() == [[PRICES.tiers[0].price(p, 100), PRICES.tiers[1].price(p, 200)]] * 3
    assert records.cost_basis == "assumed"
    assert np.isnan(records.prompt_tokens).all()


def test_a_portfolio_that_prices_nothing_is_no_help(tmp_path) -> None:
    """Other names, no prices, or no assumed length where one is needed leave records without a cost; each is said."""
    path = write(tmp_path / "r.jsonl", without("cost_usd", "completion_tokens"))
    for tiers, says in (
        ((Tier("x", 1.0, 1.0), Tier("y", 1.0, 1.0)), "prices none of the models"),
        ((Tier("small"), Tier("large")), "prices none of the models"),
        (
            (Tier("small", 1.0, 1.0), Tier("large", 1.0, 1.0)),
            "none of small, large has completion_tokens to apply its prices to; give these tiers assumed_completion",
        ),
        ((Tier("x", 1.0, 1.0), Tier("large", 1.0, 1.0)), "none of large has completion_tokens"),
    ):
        with pytest.raises(InputError, match=says):
            read_records(path, Portfolio(tiers))


def test_free_output_and_calls_need_no_assumption(tmp_path) -> None:
    """A tier that charges by call or only for input has a cost without knowing the answer's length."""
    path = write(tmp_path / "r.jsonl", without("cost_usd", "completion_tokens"))
    records = read_records(path, Portfolio((Tier("small", usd_per_call=0.5), Tier("large", 3.0, 0.0))))
    assert records.cost.tolist() == [[0.5, 7 * 3.0 / 1e6]] * 3
    assert records.cost_basis == "computed"


def grid(quality: list[list[float]], cost: list[list[float]], split: list[str] | None = None) -> Records:
    """Make records with these numbers; models a, b, c, ..."""
    n, m = len(quality), len(quality[0])
    ids = [f"q{i}" for i in range(n)]
    empty = np.full((n, m), np.nan)
    return Records(
        query_id=ids,
        prompt=ids,
        task=["t"] * n,
        subtask=[""] * n,
        group=[""] * n,
        split=split or [""] * n,
        models=tuple("abcdefghij"[:m]),
        quality=np.array(quality, dtype=float),
        cost=np.array(cost, dtype=float),
        response=[[None] * m for _ in range(n)],
        prompt_tokens=empty,
        completion_tokens=empty,
    )


def test_default_tiers_are_the_hull_up_to_the_best() -> None:
    """Dominated models, those under the hull, and any dearer than the best are left out; the best is last."""
    #                best  cheapest  hull  under  dominated  dearer
    quality = [[0.90, 0.10, 0.60, 0.50, 0.05, 0.89]]
    cost = [[1.0, 0.1, 0.3, 0.4, 0.2, 2.0]]
    assert choose_tiers(grid(quality, cost), [0]) == ("b", "c", "a")


def test_default_tiers_are_at_most_four_before_the_reference() -> None:
    """Of a longer hull the models that lift it least go, never the cheapest or the reference."""
    cost = [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]]
    quality = [[0.0, 0.30, 0.50, 0.51, 0.52, 0.529, 0.53]]
    names = choose_tiers(grid(quality, cost), [0])
    assert len(names) == 5
    assert names[0] == "a"
    assert names[-1] == "g"
    assert {"b", "c"} <= set(names)


def test_default_tiers_look_at_train_only() -> None:
    """What happens outside train cannot move the choice."""
    records = grid([[0.2, 0.9, 0.5], [1.0, 0.0, 1.0]], [[1.0, 3.0, 2.0], [1.0, 3.0, 9.0]])
    assert choose_tiers(records, [0]) == ("a", "b")
    assert choose_tiers(grid([[0.2, 0.9, 0.5]], [[1.0, 3.0, 2.0]]), [0]) == ("a", "b")


def test_default_tiers_skip_models_with_too_many_gaps() -> None:
    """A model that lacks more than 5 % of train is no candidate."""
    nan = float("nan")
    quality = [[0.1, 0.5, nan if i < 2 else 1.0] for i in range(20)]
    assert choose_tiers(grid(quality, [[1.0, 2.0, 3.0]] * 20), range(20)) == ("a", "b")
    quality[1][2] = 1.0
    assert choose_tiers(grid(quality, [[1.0, 2.0, 3.0]] * 20), range(20))[-1] == "c"


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a", "gpt"], "unknown tier 'gpt'; the records have a, b"),
        (["a", "a"], "tier 'a' is named twice"),
        (["a"], "at least two tiers are needed, 1 named"),
    ],
)
def test_named_tiers_are_checked(names: list[str], says: str) -> None:
    """Unknown names list the known ones; duplicates and single tiers are refused."""
    with pytest.raises(InputError, match=says):
        choose_tiers(grid([[0.1, 0.9]], [[1.0, 2.0]]), [0], names)
    assert choose_tiers(grid([[0.1, 0.9]], [[1.0, 2.0]]), [0], ["b", "a"]) == ("b", "a")


def test_nothing_to_route_is_said() -> None:
    """When the best model is the cheapest too, or no two have costs, the user must name the tiers."""
    with pytest.raises(InputError, match="'a' is both the best and the cheapest"):
        choose_tiers(grid([[0.9, 0.1]], [[1.0, 2.0]]), [0])
    with pytest.raises(InputError, match="fewer than two models have a quality and a cost"):
        choose_tiers(grid([[0.9, 0.1]], [[1.0, float("nan")]]), [0])
    with pytest.raises(InputError, match="no train rows"):
        choose_tiers(grid([[0.9, 0.1]], [[1.0, 2.0]]), [])


def test_incomplete_queries_are_dropped_and_counted() -> None:
    """Counts are per split and per tier; only the tiers in use matter."""
    nan = float("nan")
    quality = [[0.1, 0.9, nan]] * 40
    cost = [[1.0, 2.0, 3.0] for _ in range(40)]
    quality[3] = [nan, 0.9, 1.0]
    cost[25][1] = nan
    records = grid(quality, cost, ["train"] * 20 + ["calib"] * 20)
    kept, report = complete(records, ["a", "b"])
    assert dict(report.total) == {"train": 20, "calib": 20}
    assert dict(report.dropped) == {"train": 1, "calib": 1}
    assert dict(report.lacking) == {"a": 1, "b": 1}
    assert report.count == 2
    assert str(report) == "dropped for a missing quality or cost: train 1 of 20, calib 1 of 20"
    assert kept.query_id == [f"q{i}" for i in range(40) if i not in (3, 25)]
    assert kept.models == ("a", "b")


def test_more_than_five_per_cent_of_a_split_is_an_error() -> None:
    """Two of twenty is too many, one is not; losing everything is an error whatever the size."""
    nan = float("nan")
    quality = [[0.1, 0.9] for _ in range(40)]
    quality[0][1] = quality[1][1] = nan
    cost = [[1.0, 2.0]] * 40
    with pytest.raises(InputError, match=r"2 of 20 queries of split 'train' .* more than 5 % \(most often 'b'\)"):
        complete(grid(quality, cost, ["train"] * 20 + ["test"] * 20), ["a", "b"])
    assert complete(grid(quality, cost, ["train"] * 40), ["a", "b"])[1].count == 2
    with pytest.raises(InputError, match="3 of 3 queries"):
        complete(grid([[nan, 1.0]] * 3, [[1.0, 2.0]] * 3), ["a", "b"])


def test_take_and_for_models_keep_rows_and_columns_together() -> None:
    """Selecting queries and models moves every field alike; an unknown model lists the known ones."""
    records = grid([[0.1, 0.2], [0.3, 0.4]], [[1.0, 2.0], [3.0, 4.0]])
    part = records.take([1]).for_models(["b"])
    assert part.query_id == ["q1"]
    assert part.quality.tolist() == [[0.4]]
    assert part.cost.tolist() == [[4.0]]
    with pytest.raises(InputError, match="unknown model 'z'; the records have a, b"):
        records.for_models(["z"])


SHARED = {
    "alpaca_eval_v1": (805, 23),
    "alpaca_eval_v2": (805, 20),
    "code_crux": (800, 27),
    "finance_fomc": (1199, 5),
    "finance_ner_finer_ord": (1064, 8),
    "finance_sentiment": (1118, 8),
    "math_l5": (721, 25),
    "mmlu": (14006, 2),
    "mt_bench": (160, 2),
}


@pytest.mark.parametrize("name", SHARED)
def test_shared_files_are_read_whole_and_fast(shared, name: str) -> None:
    """Every routing file with costs gives its published size in two seconds, and tiers that complete."""
    path = shared / "routing" / f"{name}.parquet"
    pytest.importorskip("pyarrow.parquet")
    begin = time.process_time()
    records = read_records(path)
    assert time.process_time() - begin < 2
    assert (len(records), len(records.models)) == SHARED[name]
    assert records.cost_basis == "estimated"
    train = [i for i, split in enumerate(records.split) if split == "train"]
    tiers = choose_tiers(records, train)
    kept, report = complete(records, tiers)
    assert len(kept) + report.count == len(records)
    assert np.isfinite(kept.quality).all()
    assert np.isfinite(kept.cost).all()


def test_shared_file_without_costs_needs_assumed_lengths(shared) -> None:
    """Alone llmrouter_mix is refused; with assumed lengths it reads fast and says so."""
    from dataclasses import replace

    path = shared / "routing" / "llmrouter_mix.parquet"
    with pytest.raises(InputError, match="no row has a cost_usd; give a portfolio"):
        read_records(path)
    listed = Portfolio.load(shared / "routing" / "prices.csv")
    with pytest.raises(InputError, match="assumed_completion_tokens"):
        read_records(path, listed)
    assumed = Portfolio(tuple(replace(tier, assumed_completion_tokens=150) for tier in listed.tiers))
    begin = time.process_time()
    records = read_records(path, assumed)
    assert time.process_time() - begin < 2
    assert len(records) == 4740
    assert records.cost_basis == "assumed"
    assert np.isfinite(records.cost).all()


def test_shared_file_with_two_prompts_for_one_query_is_refused(shared) -> None:
    """The two models of legal_lexglue_gpt35 are asked in different words, which is not one query."""
    with pytest.raises(InputError, match="row 2: column 'prompt' differs from"):
        read_records(shared / "routing" / "legal_lexglue_gpt35.parquet")
