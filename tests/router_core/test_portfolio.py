"""Tiers, portfolios, and the prices recovered from records."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_core.errors import InputError
from router_core.portfolio import Portfolio, Tier, derive_prices
from router_core.records import Records

prices = st.floats(min_value=0, max_value=1e4)
counts = st.integers(min_value=0, max_value=10**7)

CHEAP = Tier("cheap", 0.2, 0.6, assumed_completion_tokens=50)
FRONTIER = Tier("frontier", 10.0, 30.0, usd_per_call=0.001, latency_ms=900.0, model="frontier-2026-01")
PAIR = Portfolio((CHEAP, FRONTIER))


def records_of(p: np.ndarray, c: np.ndarray, cost: np.ndarray) -> Records:
    """Make records that hold only what price recovery reads."""
    n, m = cost.shape
    texts = [str(i) for i in range(n)]
    return Records(
        query_id=texts,
        prompt=texts,
        task=["t"] * n,
        subtask=[""] * n,
        group=[""] * n,
        split=[""] * n,
        models=tuple("abcdefgh"[:m]),
        quality=np.ones((n, m)),
        cost=cost,
        response=[[None] * m for _ in range(n)],
        prompt_tokens=p,
        completion_tokens=c,
    )


@given(prices, prices, prices, counts, counts)
def test_price_is_the_stated_expression(a: float, b: float, call: float, p: int, c: int) -> None:
    """The price of a call is (p * in + c * out) / 1e6 + per call, to the last bit, and never negative."""
    price = Tier("t", a, b, usd_per_call=call).price(p, c)
    assert price == (p * a + c * b) / 1e6 + call
    assert price >= 0


@given(prices, prices, counts, counts, counts)
def test_price_never_falls_with_tokens(a: float, b: float, p: int, c: int, more: int) -> None:
    """More tokens never cost less."""
    tier = Tier("t", a, b)
    assert tier.price(p + more, c) >= tier.price(p, c)
    assert tier.price(p, c + more) >= tier.price(p, c)


def test_portfolio_knows_its_order() -> None:
    """Names come in cascade order, the reference is last, an unknown name lists the known ones."""
    assert PAIR.names == ("cheap", "frontier")
    assert PAIR.reference is FRONTIER
    assert PAIR.index("frontier") == 1
    assert PAIR.select(["frontier", "cheap"]).reference == CHEAP
    with pytest.raises(InputError, match=r"unknown tier 'gpt'.*cheap, frontier"):
        PAIR.index("gpt")


def test_json_round_trip() -> None:
    """A portfolio survives JSON unchanged."""
    assert Portfolio.from_json(json.loads(json.dumps(PAIR.to_json()))) == PAIR


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "list.json",
            '{"tiers": [{"name": "a", "input_usd_per_m": 1, "output_usd_per_m": 2},'
            ' {"name": "b", "input_usd_per_m": 3, "output_usd_per_m": 4, "usd_per_call": 0.5}]}',
        ),
        (
            "named.json",
            '{"a": {"input_usd_per_m": 1, "output_usd_per_m": 2},'
            ' "b": {"input_usd_per_m": 3, "output_usd_per_m": 4, "usd_per_call": 0.5}}',
        ),
        (
            "tiers.toml",
            '[[tiers]]\nname = "a"\ninput_usd_per_m = 1\noutput_usd_per_m = 2\n'
            '[[tiers]]\nname = "b"\ninput_usd_per_m = 3\noutput_usd_per_m = 4\nusd_per_call = 0.5\n',
        ),
        (
            "prices.csv",
            "model,usd_per_1m_input,usd_per_1m_output,usd_per_call,source\na,1,2,,here\nb,3,4,0.5,there\n",
        ),
        ("plain.csv", "name,input_usd_per_m,output_usd_per_m,usd_per_call\na,1,2,0\nb,3,4,0.5\n"),
    ],
)
def test_every_file_form_gives_the_same_portfolio(tmp_path, name: str, text: str) -> None:
    """JSON (both shapes), TOML and CSV (both headers) read alike."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert Portfolio.load(tmp_path / name) == Portfolio((Tier("a", 1.0, 2.0), Tier("b", 3.0, 4.0, usd_per_call=0.5)))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p.csv", "name,input_usd_per_m,output_usd_per_m\na,-1,2\nb,1,2\n", "tier 'a'.*not negative"),
        ("p.csv", "name,input_usd_per_m,output_usd_per_m\na,nan,2\nb,1,2\n", "tier 'a'.*finite"),
        ("p.csv", "name,input_usd_per_m,output_usd_per_m\na,inf,2\nb,1,2\n", "tier 'a'.*finite"),
        (
            "p.csv",
            "name,input_usd_per_m,output_usd_per_m\na,1 dollar,2\nb,1,2\n",
            "tier 'a'.*must be a number",
        ),
        ("p.csv", "name,input_usd_per_m,output_usd_per_m\na,1,2\na,1,2\n", "tier 'a' is listed 2 times"),
        ("p.csv", "name,input_usd_per_m,output_usd_per_m\na,1,2\n", "at least two tiers, found 1"),
        ("p.csv", "name,input_usd_per_m,output_usd_per_m\na,1,2\nb,1\n", "row 2 has fewer fields"),
        ("p.csv", "name,input_usd_per_m,output_usd_per_m\na,1,2\nb,1,2,3\n", "row 2 has more fields"),
        (
            "p.csv",
            "name,input_usd,output_usd_per_m\na,1,2\nb,1,2\n",
            "tier 'a'.*did you mean 'input_usd_per_m'",
        ),
        ("p.csv", "name,input_usd_per_m\na,1\nb,1\n", "tier 'a': input_usd_per_m is given without output"),
        ("p.csv", "input_usd_per_m,output_usd_per_m\n1,2\n1,2\n", "tier 1 has no name"),
        (
            "p.csv",
            "name,input_usd_per_m,usd_per_1m_input\na,1,2\nb,1,2\n",
            "tier 'a': input_usd_per_m is given twice",
        ),
        ("p.json", '{"tiers": [', "not valid JSON"),
        ("p.json", '{"a": {}, "a": {}}', "'a' is listed twice"),
        ("p.json", '{"tiers": [], "tolerance": 1}', "unknown key 'tolerance'"),
        ("p.json", '{"tiers": [1, 2]}', "tier 1 must be an object"),
        ("p.json", "[1]", "must be an object"),
        ("p.json", '{"a": {"assumed_completion_tokens": 1.5}, "b": {}}', "tier 'a'.*whole"),
        ("p.json", '{"a": {"usd_per_call": true}, "b": {}}', "tier 'a': usd_per_call must be a number"),
        ("p.json", '{"a": {"model": 3}, "b": {}}', "tier 'a': model must be text"),
        ("p.json", '{" ": {}, "b": {}}', "no name"),
        ("p.toml", "[[tiers]\n", "not valid TOML"),
        ("p.yaml", "tiers: []\n", "not '.yaml'"),
    ],
)
def test_bad_portfolio_files_are_named(tmp_path, name: str, text: str, says: str) -> None:
    """Each fault gives one line that names the file and, where there is one, the tier."""
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=says) as caught:
        Portfolio.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_portfolio_file_is_named(tmp_path) -> None:
    """An absent file is bad input, not a traceback."""
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        Portfolio.load(tmp_path / "none.json")


@given(
    st.tuples(st.integers(0, 9999), st.integers(0, 9999)),
    st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 3000)), min_size=3, max_size=30, unique=True),
)
def test_prices_are_recovered_to_the_digit(cents: tuple[int, int], tokens: list[tuple[int, int]]) -> None:
    """Costs made from two prices give back those prices exactly, unless the counts cannot tell them apart."""
    a, b = cents[0] / 100, cents[1] / 100
    counts_ = np.array(tokens, dtype=float)
    p = np.column_stack([counts_[:, 0]] * 2)
    c = np.column_stack([counts_[:, 1]] * 2)
    portfolio, basis = derive_prices(records_of(p, c, (p * a + c * b) / 1e6))
    if np.linalg.matrix_rank(counts_) < 2:
        assert set(basis.values()) == {"mean of records"}
    elif np.linalg.cond(counts_) < 1e3:
        assert basis == {"a": "prices from records", "b": "prices from records"}
        assert (portfolio.tiers[0].input_usd_per_m, portfolio.tiers[0].output_usd_per_m) == (a, b)


def test_costs_that_fit_no_price_become_a_mean() -> None:
    """Unexplained costs, missing counts or a single row give the mean per call and say so."""
    p = np.array([[10.0, 10.0], [20.0, 20.0], [30.0, np.nan]])
    c = np.array([[1.0, 5.0], [2.0, 1.0], [9.0, 3.0]])
    cost = np.array([[1e-5, 1e-5], [7e-5, 2e-5], [1e-5, 6e-5]])
    portfolio, basis = derive_prices(records_of(p, c, cost))
    assert basis == {"a": "mean of records", "b": "mean of records"}
    assert portfolio.tiers[0].price(100, 100) == pytest.approx(3e-5)
    assert portfolio.tiers[1].input_usd_per_m is None


def test_a_model_without_any_cost_is_refused() -> None:
    """A tier is never priced at zero because nobody recorded what it costs."""
    cost = np.array([[1e-5, np.nan], [2e-5, np.nan]])
    with pytest.raises(InputError, match="'b' has no cost"):
        derive_prices(records_of(np.ones((2, 2)), np.ones((2, 2)), cost))


def test_shared_prices_are_what_the_records_were_made_with(shared) -> None:
    """The published price list loads, and the prices recovered from records equal it."""
    from router_core.records import read_records

    listed = Portfolio.load(shared / "routing" / "prices.csv")
    derived, basis = derive_prices(read_records(shared / "routing" / "finance_sentiment.parquet"))
    assert set(basis.values()) == {"prices from records"}
    for tier in derived.tiers:
        known = listed.tiers[listed.index(tier.name)]
        assert (tier.input_usd_per_m, tier.output_usd_per_m) == (
            known.input_usd_per_m,
            known.output_usd_per_m,
        )
