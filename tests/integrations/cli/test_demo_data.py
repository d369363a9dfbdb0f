"""The packaged demo data: whole, priced by its own portfolio, graded by its own rule, apart from its seed."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_ROOT = Path(__file__).resolve().parents[3]
_DATA = _ROOT / "routenlp_integrations/cli/demo_data"
_SCRIPTS = _ROOT / "benchmarks/demo_data"
if not _SCRIPTS.is_dir():
    pytest.skip("reads the recording script, which only a checkout has", allow_module_level=True)
_TASKS = {"intent", "sentiment", "extract"}
_SPLITS = {"train", "calib", "test"}
_COLUMNS = {
    "query_id",
    "task",
    "prompt",
    "model",
    "response",
    "quality",
    "prompt_tokens",
    "completion_tokens",
    "cost_usd",
    "split",
    "cost_basis",
}
_SIGNALS = {"keyword": set(), "student": {"signal_own_confidence"}, "smollm2-135m": {"signal_mean_logprob"}}
_SIGNALS["panel"] = {"signal_own_confidence"}

Row = dict[str, Any]


def _read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def queries() -> list[Row]:
    return _read(_DATA / "queries.jsonl")


@pytest.fixture(scope="module")
def records() -> list[Row]:
    return _read(_DATA / "records.jsonl")


@pytest.fixture(scope="module")
def seed() -> list[Row]:
    return _read(_SCRIPTS / "seed.jsonl")


@pytest.fixture(scope="module")
def tiers() -> list[Row]:
    return json.loads((_DATA / "portfolio.json").read_text(encoding="utf-8"))["tiers"]


@pytest.fixture(scope="module")
def items_module() -> Iterable[ModuleType]:
    spec = importlib.util.spec_from_file_location("_demo_items", _SCRIPTS / "items.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def _near_duplicates(prompts: list[str], normalise: Callable[[str], str], least: float) -> list[tuple[str, str]]:
    """Pairs whose sets of word 3-grams have a Jaccard index of at least `least`."""
    grams = []
    holders = defaultdict(list)
    for index, prompt in enumerate(prompts):
        words = normalise(prompt).split()
        grams.append({tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))})
        for gram in grams[-1]:
            holders[gram].append(index)
    pairs = {pair for held in holders.values() for pair in combinations(held, 2)}
    return [
        (prompts[a], prompts[b])
        for a, b in sorted(pairs)
        if len(grams[a] & grams[b]) >= least * len(grams[a] | grams[b])
    ]


def test_queries_have_every_field(queries):
    """Each query has an id of its own, a known task, a prompt and a gold answer."""
    assert all(set(row) == {"query_id", "task", "prompt", "gold"} for row in queries)
    assert all(isinstance(value, str) and value.strip() for row in queries for value in row.values())
    assert len({row["query_id"] for row in queries}) == len(queries)
    assert {row["task"] for row in queries} == _TASKS


def test_gold_is_a_label_or_a_span_of_the_prompt(queries, seed, items_module):
    """A gold label is one of its task's labels, a gold span stands in the context."""
    for row in queries + seed:
        if row["task"] == "extract":
            context, question = items_module.split_question(row["prompt"])
            assert row["gold"].lower() in context.lower(), row
            assert question.endswith("?"), row
        else:
            assert row["gold"] in items_module.LABELS[row["task"]], row


def test_every_label_is_asked_for_evenly(queries, items_module):
    """No label of a task is rare: each has at least half of its even share."""
    for task, labels in items_module.LABELS.items():
        counts = Counter(row["gold"] for row in queries if row["task"] == task)
        assert min(counts[label] for label in labels) * len(labels) * 2 >= counts.total()


def test_records_follow_the_schema(records):
    """Every row has the columns of a record, its tier's signal, and values in range."""
    for row in records:
        assert set(row) == _COLUMNS | _SIGNALS[row["model"]], row
        assert isinstance(row["response"], str), row
        assert row["quality"] in {0, 1}, row
        assert row["prompt_tokens"] > 0, row
        assert row["completion_tokens"] >= 0, row
        assert (row["completion_tokens"] == 0) == (row["response"] == ""), row
        assert 0.0 <= row.get("signal_own_confidence", 0.5) <= 1.0, row
        assert row.get("signal_mean_logprob", -1.0) <= 0.0, row


def test_one_row_per_query_and_model(records, queries, tiers):
    """Each tier of the portfolio answered each query once, and nothing else is there."""
    wanted = {(query["query_id"], tier["name"]) for query in queries for tier in tiers}
    given = [(row["query_id"], row["model"]) for row in records]
    assert len(given) == len(set(given))
    assert set(given) == wanted


def test_records_and_queries_tell_the_same(records, queries):
    """Task and prompt of a record are those of its query."""
    told = {(row["query_id"], row["task"], row["prompt"]) for row in records}
    assert told == {(row["query_id"], row["task"], row["prompt"]) for row in queries}


def test_costs_are_the_price_formula_exactly(records, tiers):
    """The cost of a row is the very float that the portfolio's prices give."""
    prices = {tier["name"]: tier for tier in tiers}
    for row in records:
        tier = prices[row["model"]]
        tokens = row["prompt_tokens"] * tier["input_usd_per_m"] + row["completion_tokens"] * tier["output_usd_per_m"]
        assert row["cost_usd"] == tokens / 1e6 + tier["usd_per_call"], row


def test_portfolio_runs_from_cheapest_to_the_best(records, tiers):
    """Prices rise along the tiers, the last tier is the best on the whole, and the note calls prices nominal."""
    prices = [tier["input_usd_per_m"] for tier in tiers]
    assert prices == sorted(set(prices))
    mean = {t["name"]: sum(row["quality"] for row in records if row["model"] == t["name"]) for t in tiers}
    assert max(mean, key=lambda name: mean[name]) == tiers[-1]["name"]
    assert all(tier["latency_ms"] > 0 for tier in tiers)
    assert "nominal" in json.loads((_DATA / "portfolio.json").read_text(encoding="utf-8"))["note"]


def test_quality_is_the_grade_of_the_response(records, queries, items_module):
    """No quality is edited: grading each response again gives each recorded value."""
    items = {row["query_id"]: items_module.Item(**row) for row in queries}
    for row in records:
        assert items_module.grade(items[row["query_id"]], row["response"]) == row["quality"], row


def test_a_changed_response_would_be_noticed(queries, items_module):
    """Mutant: the gold answer grades 1, another query's gold answer of the same task mostly does not."""
    wrong = 0
    for row, other in zip(queries, queries[1:] + queries[:1], strict=True):
        item = items_module.Item(**row)
        assert items_module.grade(item, row["gold"]) == 1, row
        wrong += items_module.grade(item, other["gold"]) == 0
    assert wrong > 0.6 * len(queries)


def test_splits_are_the_hash_rule_and_whole(records, items_module):
    """A query is in one split, the one its prompt's hash names, and no split is empty for a task."""
    assert all(row["split"] == items_module.split_of(row["prompt"]) for row in records)
    splits = {(row["task"], row["query_id"]): row["split"] for row in records}
    counts = Counter((task, split) for (task, _), split in splits.items())
    assert set(counts) == {(task, split) for task in _TASKS for split in _SPLITS}
    assert min(counts[task, "calib"] for task in _TASKS) >= 130


def test_no_near_duplicates_among_queries_and_seed(queries, seed, items_module):
    """No two prompts are near-duplicates, so nothing the models were trained on is in the records."""
    prompts = [row["prompt"] for row in queries + seed]
    assert len({items_module.normalise(prompt) for prompt in prompts}) == len(prompts)
    assert _near_duplicates(prompts, items_module.normalise, 0.9) == []


def test_the_duplicate_check_finds_one(queries, items_module):
    """Mutant: a query written twice with other punctuation is reported."""
    prompt = queries[0]["prompt"]
    found = _near_duplicates([prompt, prompt.upper() + "!!", "Something else entirely."], items_module.normalise, 0.9)
    assert found == [(prompt, prompt.upper() + "!!")]


def test_sizes(queries):
    """Each task has 380 queries or more, and the folder stays below 1.7 MB."""
    counts = Counter(row["task"] for row in queries)
    assert min(counts.values()) >= 380
    assert sum(path.stat().st_size for path in _DATA.iterdir() if path.is_file()) < 1_700_000
