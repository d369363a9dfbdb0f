"""Splits are stable, disjoint and keep groups whole; near-duplicates are found exactly."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_core.errors import InputError
from router_core.groups import merge_near_duplicates
from router_core.records import Records, read_records
from router_core.splits import (
    Prepared,
    hash_key,
    hash_split,
    normalise,
    one_of_each,
    prepare,
    query_keys,
    unit_interval,
)

WORDS = [f"w{i}" for i in range(4000)]


def records_of(
    prompts: Sequence[str],
    split: Sequence[str] | None = None,
    group: Sequence[str] | None = None,
    task: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
) -> Records:
    """Make records with these texts and labels; two models, nothing missing."""
    n = len(prompts)
    return Records(
        query_id=list(ids or [f"q{i}" for i in range(n)]),
        prompt=list(prompts),
        task=list(task or ["t"] * n),
        subtask=[""] * n,
        group=list(group or [""] * n),
        split=list(split or [""] * n),
        models=("a", "b"),
        quality=np.ones((n, 2)),
        cost=np.ones((n, 2)),
        response=[[None, None] for _ in range(n)],
        prompt_tokens=np.ones((n, 2)),
        completion_tokens=np.ones((n, 2)),
    )


def texts(n: int, length: int = 12, seed: int = 0) -> list[str]:
    """Prompts with nothing in common."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, length)) for _ in range(n)]


def check_sound(prepared: Prepared) -> None:
    """Assert that splits are a partition, no group is on two sides, and each calib group has one row."""
    parts = [prepared.train, prepared.tune, prepared.calib_all, prepared.test, prepared.audit]
    rows = np.concatenate(parts)
    assert sorted(rows.tolist()) == list(range(len(prepared.records))), "not a partition"
    for i, first in enumerate(parts[:4]):
        for second in parts[i + 1 : 4]:
            shared = set(prepared.group_id[first]) & set(prepared.group_id[second])
            assert not shared, "a group on two sides"
    groups, r = prepared.group_id[prepared.calib].tolist(), prepared.records
    cells = [(group, r.task[i], r.subtask[i]) for group, i in zip(groups, prepared.calib.tolist(), strict=True)]
    assert len(set(cells)) == len(cells), "two calib rows of one group and label"
    assert set(groups) == set(prepared.group_id[prepared.calib_all].tolist()), "a calib group unheard"


def test_normalise_follows_the_published_rule() -> None:
    """NFKC, lower case, non-alphanumerics to one space, ASCII letters only as in the published splits."""
    assert normalise("  Hello,\n WORLD!! x_1 ") == "hello world x 1"
    assert normalise("ﬁne ² \uff21\uff22\uff23") == "fine 2 abc"
    assert normalise("Koldskål recipe please") == "koldsk l recipe please"


def test_normalise_keeps_other_scripts_and_signs_apart() -> None:
    """Texts mostly in another script, or without any letter, do not all become one empty key."""
    assert normalise("Привет, мир!") == "привет мир"
    assert normalise("你好世界") != normalise("再见世界")
    assert normalise("नमस्ते") == "नमस्ते"
    assert normalise("😀") != normalise("😡")
    assert normalise("") == ""


@given(st.text(max_size=60))
def test_normalise_is_idempotent(text: str) -> None:
    """Normalising twice changes nothing, so a key is its own key."""
    assert normalise(normalise(text)) == normalise(text)


def test_hash_key_leaves_out_multiple_choice_options() -> None:
    """The key of an MMLU-style question is the question; lists that are not its options stay."""
    assert hash_key("Which is blue?\nA. sky\nB. grass\nAnswer:") == "which is blue"
    assert hash_key("Which is blue?\nA. sky\nB. grass\n") == "which is blue a sky b grass"
    shots = "One?\nA. x\nB. y\nAnswer: A\n\nTwo?\nA. x\nB. y\nAnswer:"
    assert hash_key(shots) == normalise(shots)


def test_unit_interval_is_the_stated_hash() -> None:
    """48 bits of SHA-256 of salt|key over 2**48, pinned by value."""
    expected = int(hashlib.sha256(b"routenlp-v1|hello world").hexdigest()[:12], 16) / 2**48
    assert unit_interval("routenlp-v1", "hello world") == expected
    assert hash_split("hello world") == ("train" if expected < 0.6 else "calib" if expected < 0.8 else "test")


@given(st.text(), st.text())
def test_unit_interval_is_in_range(salt: str, key: str) -> None:
    """Every text, however strange, gets a number in [0, 1)."""
    assert 0.0 <= unit_interval(salt, key) < 1.0


prompts_strategy = st.lists(
    st.lists(st.sampled_from(WORDS[:30]), min_size=1, max_size=8).map(" ".join), min_size=1, max_size=40
)


@settings(deadline=None)
@given(prompts_strategy, st.randoms(use_true_random=False))
def test_made_splits_are_stable_disjoint_and_keep_groups_whole(prompts: list[str], random) -> None:
    """A query's split does not depend on the order of rows, and no group is on two sides."""
    prepared = prepare(records_of(prompts), require=())
    check_sound(prepared)
    ids = [f"q{i}" for i in range(len(prompts))]
    order = list(range(len(prompts)))
    random.shuffle(order)
    again = prepare(records_of([prompts[i] for i in order], ids=[ids[i] for i in order]), require=())
    splits = dict(zip(prepared.records.query_id, prepared.records.split, strict=True))
    assert splits == dict(zip(again.records.query_id, again.records.split, strict=True))
    calib = {prepared.records.query_id[i] for i in prepared.calib}
    assert calib == {again.records.query_id[i] for i in again.calib}


@settings(deadline=None)
@given(prompts_strategy, st.data())
def test_supplied_splits_are_obeyed_and_end_up_disjoint(prompts: list[str], data) -> None:
    """Kept rows keep their split, and taken-out rows are those whose group stands in a later split."""
    names = ["train", "tune", "calib", "test"]
    split = data.draw(st.lists(st.sampled_from(names), min_size=len(prompts), max_size=len(prompts)))
    prepared = prepare(records_of(prompts, split), require=())
    check_sound(prepared)
    given_split = {f"q{i}": name for i, name in enumerate(split)}
    kept = prepared.records
    assert all(given_split[query] == name for query, name in zip(kept.query_id, kept.split, strict=True))
    assert sum(prepared.straddlers.values()) == len(prompts) - len(kept)
    assert "test" not in prepared.straddlers
    assert len(prepared.test) == split.count("test")


@settings(deadline=None)
@given(prompts_strategy)
def test_settling_twice_changes_nothing(prompts: list[str]) -> None:
    """Prepared records prepare to themselves."""
    once = prepare(records_of(prompts), require=())
    twice = prepare(once.records, require=())
    assert twice.records.split == once.records.split
    assert twice.records.query_id == once.records.query_id
    assert [a.tolist() for a in (twice.train, twice.calib, twice.test)] == [
        a.tolist() for a in (once.train, once.calib, once.test)
    ]


def test_mutants_fail_the_soundness_check() -> None:
    """Splitting rows instead of groups, or certifying on repeats, is caught by the check above."""
    prompts = [text for text in texts(60) for _ in range(3)]
    good = prepare(records_of(prompts))
    check_sound(good)
    by_row = [hash_split(query) for query in good.records.query_id]

    def rows(name: str) -> np.ndarray:
        return np.flatnonzero(np.array(by_row) == name)

    calib = rows("calib")
    mutants: dict[str, Prepared] = {
        "a group on two sides": replace(
            good, train=rows("train"), calib_all=calib, calib=calib, test=rows("test"), tune=good.audit
        ),
        "two calib rows of one group": replace(good, calib=good.calib_all),
        "not a partition": replace(good, train=good.train[1:]),
        "a calib group unheard": replace(good, calib=good.calib[1:]),
    }
    for says, mutant in mutants.items():
        with pytest.raises(AssertionError, match=says):
            check_sound(mutant)


def shares_hold(counts: dict[str, int]) -> bool:
    """Whether 60/20/20 explains these counts within five standard errors."""
    n = sum(counts.values())
    wanted = {"train": 0.6, "calib": 0.2, "test": 0.2}
    return all(abs(counts[name] - n * p) < 5 * np.sqrt(n * p * (1 - p)) for name, p in wanted.items())


def test_shares_are_sixty_twenty_twenty() -> None:
    """Of 4,000 prompts each split gets its share; 50/25/25 fails the same check."""
    prompts = texts(4000)
    prepared = prepare(records_of(prompts))
    counts = {"train": len(prepared.train) + len(prepared.tune)}
    counts |= {"calib": len(prepared.calib_all), "test": len(prepared.test)}
    assert shares_hold(counts)
    below = [unit_interval("routenlp-v1", hash_key(prompt)) for prompt in prompts]
    mutant = {"train": sum(u < 0.5 for u in below), "calib": sum(0.5 <= u < 0.75 for u in below)}
    assert not shares_hold(mutant | {"test": 4000 - sum(mutant.values())})
    tune_share = len(prepared.tune) / counts["train"]
    assert abs(tune_share - 0.2) < 5 * np.sqrt(0.16 / counts["train"])


def test_tune_needs_two_thousand_train_queries() -> None:
    """One query below 2,000 there is no tune; at 2,000 it is the stated hash of the group's key."""
    prompts = texts(2002)
    split = ["train"] * 2000 + ["calib", "test"]
    tuned = prepare(records_of(prompts, split))
    expected = [i for i in range(2000) if unit_interval("routenlp-tune-v1", hash_key(prompts[i])) < 0.2]
    assert tuned.tune.tolist() == expected
    assert len(tuned.train) == 2000 - len(expected)
    assert len(prepare(records_of(prompts[1:], split[1:])).tune) == 0
    supplied = ["tune"] * 5 + split[5:]
    assert prepare(records_of(prompts, supplied)).tune.tolist() == [0, 1, 2, 3, 4]


def test_group_column_binds_rows_and_made_splits_hash_its_value() -> None:
    """Rows of one group share a split, the one that the group's name hashes to."""
    group = [f"Document {i // 5}" for i in range(100)]
    prepared = prepare(records_of(texts(100), group=group))
    check_sound(prepared)
    assert prepared.records.split == [hash_split(normalise(name)) for name in group]
    assert len(prepared.calib) * 5 == len(prepared.calib_all)


def test_one_calib_row_per_group_is_the_smallest_hash() -> None:
    """Which repeat certifies is fixed by its id alone; test keeps every row."""
    prompts = texts(3) + ["same question here now"] * 4 + ["another repeat in the test part"] * 2
    split = ["train", "calib", "test"] + ["calib"] * 4 + ["test"] * 2
    prepared = prepare(records_of(prompts, split))
    expected = min(range(3, 7), key=lambda i: hashlib.sha256(f"q{i}".encode()).digest())
    assert prepared.calib.tolist() == sorted([1, expected])
    assert prepared.calib_all.tolist() == [1, 3, 4, 5, 6]
    assert prepared.test.tolist() == [2, 7, 8]


def test_a_conversation_over_two_tasks_is_heard_in_both() -> None:
    """One turn of each task, fixed by its id alone; over all tasks one turn."""
    prompts = texts(6)
    records = replace(
        records_of(prompts, ["train", "test", *["calib"] * 4], group=["a", "b", "talk", "talk", "talk", "c"]),
        task=["tone", "tone", "tone", "mood", "mood", "mood"],
    )
    prepared = prepare(records)
    digest = [hashlib.sha256(one.encode()).digest() for one in prepared.records.query_id]
    mood = min((3, 4), key=lambda i: digest[i])
    assert prepared.calib.tolist() == [2, mood, 5]
    both = one_of_each(prepared.records, prepared.calib.tolist())
    assert both == [min((2, mood), key=lambda i: digest[i]), 5]


def test_repeating_calib_items_does_not_add_to_n() -> None:
    """Five copies of every item certify no more than one."""
    prompts = texts(300)
    one = prepare(records_of(prompts))
    five = prepare(records_of(prompts * 5))
    assert len(five.calib) == len(one.calib)
    assert len(five.calib_all) == 5 * len(one.calib)


def test_straddlers_leave_the_earlier_split() -> None:
    """Train goes for calib and test, calib for test; audit takes from train and calib, not from test."""
    a, b, c, d, e, f = texts(6)
    pairs = [(a, "train"), (a, "calib"), (b, "calib"), (b, "test"), (c, "train"), (c, "test")]
    pairs += [(d, "test"), (d, "audit"), (e, "train"), (e, "train"), (f, "calib")]
    prepared = prepare(records_of([p for p, _ in pairs], [s for _, s in pairs]))
    assert dict(prepared.straddlers) == {"train": 2, "calib": 1}
    assert prepared.records.query_id == ["q1", "q3", "q5", "q6", "q7", "q8", "q9", "q10"]
    assert len(prepared.audit) == 1
    assert "3 straddlers taken out" in str(prepared)


@pytest.mark.parametrize(
    ("split", "says"),
    [
        (
            ["train", "calib", "dev"],
            "query 'q2' has unknown split 'dev'; use train, tune, calib, test, audit",
        ),
        (["train", "calib", ""], "query 'q2' has no split, though others have one"),
        (["train", "train", "test"], "split 'calib' is empty; the split column names no query for it"),
        (["calib", "calib", "test"], "split 'train' is empty"),
        (["train", "calib", "train"], "split 'test' is empty"),
    ],
)
def test_bad_splits_are_named(split: list[str], says: str) -> None:
    """Unknown, partial and empty splits are bad input."""
    with pytest.raises(InputError, match=says):
        prepare(records_of(texts(3), split))


def test_a_split_that_only_held_straddlers_is_said_to() -> None:
    """It is not the split column that is wrong, but the group column: all rows are of one group."""
    records = records_of(texts(6), ["train", "train", "calib", "calib", "test", "test"], group=["one"] * 6)
    with pytest.raises(InputError, match="split 'train' is empty; all its 2 queries were taken out as straddlers"):
        prepare(records)


def test_too_few_queries_for_three_splits() -> None:
    """A handful of rows that hash to one split is bad input; asking for fewer splits is not."""
    with pytest.raises(InputError, match="is empty; 1 queries are too few"):
        prepare(records_of(["one question only"]))
    assert len(prepare(records_of(["one question only"]), require=()).records) == 1


def test_completing_keeps_every_split() -> None:
    """Dropping queries without an answer never moves another query."""
    prepared = prepare(records_of(texts(400)))
    prepared.records.quality[prepared.train[0], 0] = np.nan
    prepared.records.quality[prepared.calib[0], 1] = np.nan
    done, report = prepared.complete(["b", "a"])
    assert report.count == 2
    check_sound(done)
    assert done.records.models == ("b", "a")
    before = dict(zip(prepared.records.query_id, prepared.records.split, strict=True))
    assert all(before[query] == s for query, s in zip(done.records.query_id, done.records.split, strict=True))
    assert len(done.calib) == len(prepared.calib) - 1


def brute_force(prompts: Sequence[str], tasks: Sequence[str], train: np.ndarray) -> list[frozenset[int]]:
    """Find groups by the definition: all pairs, Python sets, transitive closure."""
    grams = []
    for prompt in prompts:
        words = normalise(prompt).split()
        grams.append({tuple(words[i : i + 3]) for i in range(len(words) - 2)})
    kept = []
    for own, task in zip(grams, tasks, strict=True):
        peers = [g for g, t, is_train in zip(grams, tasks, train, strict=True) if t == task and is_train]
        limit = max(5, 0.05 * len(peers))
        kept.append({gram for gram in own if sum(gram in peer for peer in peers) <= limit})
    groups = [{i} for i in range(len(prompts))]
    for i in range(len(prompts)):
        for j in range(i):
            alike = kept[i] and kept[j] and 10 * len(kept[i] & kept[j]) >= 9 * len(kept[i] | kept[j])
            if (alike or normalise(prompts[i]) == normalise(prompts[j])) and groups[i] is not groups[j]:
                groups[i] |= groups[j]
                for k in groups[j]:
                    groups[k] = groups[i]
    return [frozenset(group) for group in groups]


def found(prompts: Sequence[str], tasks: Sequence[str], train: np.ndarray) -> list[frozenset[int]]:
    """Find groups as the package does."""
    names = merge_near_duplicates(prompts, [normalise(p) for p in prompts], tasks, train)
    return [frozenset(j for j, other in enumerate(names) if other == name) for name in names]


def edited(seed: int, n: int = 120, template: str = "") -> list[str]:
    """Prompts that are edited copies of a few, with Jaccard similarities on both sides of .9."""
    rng = np.random.default_rng(seed)
    bases = [rng.choice(WORDS, rng.integers(20, 90)).tolist() for _ in range(12)]
    prompts = []
    for _ in range(n):
        words = list(bases[rng.integers(len(bases))])
        for _ in range(rng.integers(0, 4)):
            at = int(rng.integers(len(words)))
            words[at : at + int(rng.integers(0, 2))] = rng.choice(WORDS, rng.integers(0, 3)).tolist()
        prompts.append(f"{template} {' '.join(words)}".strip())
    return prompts


@pytest.mark.parametrize("seed", range(6))
def test_near_duplicates_equal_the_definition(seed: int) -> None:
    """The filtered join finds exactly the groups that comparing all pairs finds."""
    template = " ".join(WORDS[100:130]) if seed % 2 else ""
    prompts = edited(seed, template=template)
    rng = np.random.default_rng(seed)
    tasks = [["x", "y"][i] for i in rng.integers(0, 2, len(prompts))]
    train = rng.random(len(prompts)) < 0.6
    expected = brute_force(prompts, tasks, train)
    assert found(prompts, tasks, train) == expected
    assert 1 < len(set(expected)) < len(prompts)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.sampled_from("abcdefg"), min_size=0, max_size=14).map(" ".join), min_size=2, max_size=14))
def test_near_duplicates_of_small_texts_equal_the_definition(prompts: list[str]) -> None:
    """Same for texts short enough that every rounding of the bounds is met."""
    train = np.ones(len(prompts), dtype=bool)
    tasks = ["t"] * len(prompts)
    assert found(prompts, tasks, train) == brute_force(prompts, tasks, train)


def test_jaccard_of_exactly_nine_tenths_merges() -> None:
    """A similarity of exactly .9 makes a near-duplicate, anything below does not."""
    words = WORDS[:11]  # 9 grams
    same = " ".join(words)
    longer = f"{same} {WORDS[11]}"  # 10 grams, 9 shared: 9/10
    much_longer = f"{longer} {WORDS[12]}"  # 11 grams, 9 shared with the first: 9/11, 10/11 with the second

    def groups(*prompts: str) -> int:
        return len(set(found(prompts, ["t"] * len(prompts), np.ones(len(prompts), dtype=bool))))

    assert groups(same, longer) == 1
    assert groups(same, much_longer) == 2
    assert groups(same, longer, much_longer) == 1


def test_a_shared_template_makes_nobody_alike() -> None:
    """Long prompts that differ in a few words stay apart; keeping template 3-grams would merge them."""
    template = " ".join(WORDS[:200])
    prompts = [f"{template} {WORDS[300 + i]} {WORDS[900 + i]} {WORDS[1500 + i]}" for i in range(60)]
    train = np.ones(60, dtype=bool)
    assert len(set(found(prompts, ["t"] * 60, train))) == 60
    # With no train rows nothing is a template, which is the rule without its exception.
    assert len(set(found(prompts, ["t"] * 60, ~train))) == 1


def clones(n: int) -> list[str]:
    """Many copies with small edits of few texts, each copied rarely enough not to count as template."""
    rng = np.random.default_rng(1)
    bases = [rng.choice(WORDS, 60).tolist() for _ in range(30)]
    prompts = []
    for i in range(n):
        words = list(bases[i % 30])
        words[int(rng.integers(60))] = f"x{i}"
        words[int(rng.integers(60))] = f"y{i}"
        prompts.append(" ".join(words))
    return prompts


@pytest.mark.parametrize(
    "make",
    [
        lambda: texts(14_000, 60),
        lambda: [f"{' '.join(WORDS[:400])} {text}" for text in texts(3_000, 30)],
        lambda: clones(14_000),
        lambda: ["the same short question again"] * 14_000,
    ],
    ids=["unlike", "long template", "edited clones", "all equal"],
)
def test_fourteen_thousand_prompts_take_seconds(make: Callable[[], list[str]]) -> None:
    """Neither a template nor masses of similar prompts make the join explode."""
    prompts = make()
    train = np.random.default_rng(0).random(len(prompts)) < 0.6
    begin = time.process_time()
    names = merge_near_duplicates(prompts, [normalise(p) for p in prompts], ["t"] * len(prompts), train)
    assert time.process_time() - begin < 10
    assert len(names) == len(prompts)


ROUTING = {
    "alpaca_eval_v1": (471, 177, 157),
    "alpaca_eval_v2": (471, 177, 157),
    "code_crux": (500, 145, 155),
    "finance_fomc": (710, 251, 238),
    "finance_ner_finer_ord": (634, 223, 207),
    "finance_sentiment": (663, 232, 223),
    "math_l5": (423, 168, 130),
    "mmlu": (8506, 2709, 2791),
    "mt_bench": (86, 40, 34),
}


@pytest.mark.parametrize("name", ROUTING)
def test_shared_files_settle_soundly_and_fast(shared, name: str) -> None:
    """Every routing file keeps its published sizes but for counted straddlers, in under ten seconds."""
    pytest.importorskip("pyarrow.parquet")
    records = read_records(shared / "routing" / f"{name}.parquet")
    begin = time.process_time()
    prepared = prepare(records)
    assert time.process_time() - begin < 10
    check_sound(prepared)
    train, calib, test = ROUTING[name]
    gone = prepared.straddlers
    assert len(prepared.train) + len(prepared.tune) == train - gone.get("train", 0)
    assert len(prepared.calib_all) == calib - gone.get("calib", 0)
    assert len(prepared.test) == test
    assert sum(gone.values()) <= 2
    assert (len(prepared.tune) > 0) == (train >= 2000)


def test_finer_ord_keeps_its_calib_items(shared) -> None:
    """Prompts that share one long template are not near-duplicates: all 223 calib items count."""
    prepared = prepare(read_records(shared / "routing" / "finance_ner_finer_ord.parquet"))
    assert len(prepared.calib) == 223


@pytest.mark.parametrize("name", ["mmlu", "alpaca_eval_v1", "alpaca_eval_v2"])
def test_made_splits_reproduce_the_published_ones(shared, name: str) -> None:
    """Where the published key is the prompt, hashing gives back the split column of every query."""
    records = read_records(shared / "routing" / f"{name}.parquet")
    assert [hash_split(hash_key(prompt)) for prompt in records.prompt] == records.split


def test_a_merged_group_remembers_the_names_it_was_merged_from() -> None:
    """Every group key that near-duplicates merged is kept, also when the records are prepared once more."""
    same = texts(1, seed=5)[0]
    prompts = [*texts(20), same, f"{same}!"]
    group = [*(f"g{i}" for i in range(20)), "talk b", "talk a"]
    once = prepare(records_of(prompts, ["train"] * 22, group=group), require=())
    assert once.records.group[20:] == ["talk a", "talk a"]
    for records in (once.records, prepare(once.records.take(range(15, 22)), require=()).records):
        assert query_keys(records, [len(records) - 2]) == {"talk a", "talk b", normalise(same)}
        assert query_keys(records, [0]) == {records.group[0], normalise(records.prompt[0])}
