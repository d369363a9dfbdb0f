"""Budgets: what is admitted, per call, run and window, and how far spending can exceed it."""

import copy
import pickle
import random
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from routers import Clock

from router_core import Budget, InputError
from router_core.budget import Account


def _spend(account: Account, usd: float) -> bool:
    if not account.reserve(usd):
        return False
    account.settle(usd, usd)
    return True


def test_per_call() -> None:
    """Every query has the whole budget to itself."""
    budget = Budget(1.0)
    assert _spend(budget.account("a"), 1.0)
    assert _spend(budget.account("a"), 1.0)
    account = budget.account()
    assert _spend(account, 0.6)
    assert not account.reserve(0.5)
    assert (account.spent_usd, account.left_usd) == (0.6, 0.4)


def test_per_run() -> None:
    """Queries of a run share it; one without an id is a run of its own; the oldest run is forgotten first."""
    budget = Budget(1.0, "run", max_runs=2)
    assert _spend(budget.account("a"), 0.7)
    assert not _spend(budget.account("a"), 0.7)
    assert _spend(budget.account("b"), 0.7)
    assert _spend(budget.account(), 0.7)
    assert _spend(budget.account(), 0.7)
    budget.account("a")
    budget.account("c")
    assert not _spend(budget.account("a"), 0.7)
    assert _spend(budget.account("b"), 0.7)


def test_per_window() -> None:
    """Spending counts for as long as the window, whoever spends; it is forgotten at most 1 % late, never early."""
    clock = Clock(0.0)
    budget = Budget(1.0, "window", window_seconds=100.0, clock=clock)
    assert _spend(budget.account("a"), 0.6)
    clock.now = 50.5
    assert _spend(budget.account("b"), 0.4)
    assert not _spend(budget.account("c"), 0.1)
    clock.now = 100.0
    assert not _spend(budget.account(), 0.1)
    clock.now = 101.0
    assert _spend(budget.account(), 0.6)
    assert budget.account().spent_usd == 1.0
    clock.now = 10_000.0
    assert budget.account().spent_usd == 0.0


def test_memory_of_a_window_is_bounded() -> None:
    """However many calls, a hundred amounts are kept or so."""
    clock = Clock(0.0)
    account = Account(1e9, 10.0, clock)
    for i in range(5_000):
        clock.now = i * 0.01
        assert _spend(account, 0.001)
    assert len(account._spent) <= 102
    assert account.spent_usd == pytest.approx(1.0, rel=0.011)


def test_free_calls_are_always_admitted() -> None:
    """A tier that costs nothing is affordable whatever was spent; the rest is not."""
    account = Account(0.1)
    assert account.reserve(0.1)
    account.settle(0.1, 5.0)
    assert account.reserve(0.0)
    assert not account.reserve(1e-12)
    assert account.left_usd == 0.0


def test_decimal_amounts_fit() -> None:
    """Ten times 0.1 is 1, though not in binary; eleven times is not."""
    account = Account(1.0)
    assert [_spend(account, 0.1) for _ in range(11)] == [True] * 10 + [False]


def test_a_failed_call_costs_nothing() -> None:
    """Its reservation is given back."""
    account = Account(1.0)
    assert account.reserve(1.0)
    assert not account.reserve(1.0)
    account.settle(1.0, 0.0)
    assert account.reserve(1.0)


@given(st.lists(st.tuples(st.floats(0.001, 0.5), st.floats(0.0, 2.0)), max_size=60), st.randoms())
def test_overspending_is_bounded(calls: list[tuple[float, float]], order: random.Random) -> None:
    """Spent <= budget + what the calls in flight at the last admission cost beyond their expected price."""
    account, waiting, bound = Account(1.0), [], 1.0
    for expected, actual in calls:
        if account.reserve(expected):
            waiting.append((expected, actual))
            bound = 1.0 + sum(paid - guess for guess, paid in waiting)
        while waiting and order.random() < 0.4:
            account.settle(*waiting.pop(order.randrange(len(waiting))))
    for call in waiting:
        account.settle(*call)
    assert account.spent_usd <= bound + 1e-6


def _race(account: Any, cost: float) -> int:
    """Calls admitted when 64 threads ask at once, each three times."""
    barrier, admitted = threading.Barrier(64), []

    def work() -> None:
        barrier.wait()
        for _ in range(3):
            if account.reserve(0.01):
                admitted.append(1)
                account.settle(0.01, cost)

    threads = [threading.Thread(target=work) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(admitted)


def test_threads_do_not_overspend() -> None:
    """64 threads at once: calls that cost what was expected never exceed the budget, and use all of it."""
    account = Budget(1.0, "window", window_seconds=60.0).account()
    assert _race(account, 0.01) == 100
    assert account.spent_usd == pytest.approx(1.0)


def test_threads_overspend_by_calls_in_flight_only() -> None:
    """Calls that cost thrice as much exceed it by no more than 64 calls' excess."""
    account = Account(0.5)
    _race(account, 0.03)
    assert account.spent_usd <= 0.5 + 64 * 0.02 + 1e-9


class _Checked(Account):
    """The mutant: looks before it leaps, but does not reserve."""

    def reserve(self, expected_usd: float) -> bool:
        return self.spent_usd + expected_usd <= self._usd

    def settle(self, expected_usd: float, paid_usd: float) -> None:
        self._reserved.append(expected_usd)
        super().settle(expected_usd, paid_usd)


def test_the_mutant_overspends() -> None:
    """Without reservations, calls in flight together exceed the budget; the same schedule is refused by `Account`."""
    for account, admitted in ((Account(1.0), 1), (_Checked(1.0), 2)):
        taken = [account.reserve(0.6) for _ in range(2)]
        assert sum(taken) == admitted
        for _ in range(admitted):
            account.settle(0.6, 0.6)
        assert (account.spent_usd > 1.0) == (admitted == 2)


def test_copies_start_with_nothing_spent() -> None:
    """The settings travel, the spending stays."""
    budget = Budget(1.0, "window", window_seconds=9.0, on_exceeded="raise", max_runs=3)
    assert _spend(budget.account(), 1.0)
    for again in (copy.deepcopy(budget), pickle.loads(pickle.dumps(budget))):  # noqa: S301
        assert (again.usd, again.per, again.window_seconds) == (1.0, "window", 9.0)
        assert (again.on_exceeded, again.max_runs) == ("raise", 3)
        assert again.account().spent_usd == 0.0


@pytest.mark.parametrize("wrong", [{"usd": -1.0}, {"usd": float("nan")}, {"per": "day"}, {"on_exceeded": "warn"},
                                   {"per": "window"}, {"window_seconds": 5.0}, {"max_runs": 0},
                                   {"per": "window", "window_seconds": 0.0}])  # fmt: skip
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    """What has no meaning is refused."""
    with pytest.raises(InputError):
        Budget(**{"usd": 1.0} | wrong)
