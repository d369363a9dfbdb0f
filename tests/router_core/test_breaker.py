"""The circuit breaker: closed, open, half-open, and what late results may say."""

import copy
import pickle
import threading

import pytest
from routers import Clock

from router_core import Breaker, InputError


def _fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        ticket = breaker.enter("small")
        assert ticket is not None
        breaker.leave("small", ticket, up=False)


def _opened(clock: Clock) -> Breaker:
    breaker = Breaker(3, 30.0, clock=clock)
    _fail(breaker, 3)
    return breaker


def test_opens_after_failures_in_a_row() -> None:
    """Three in a row open it, a success in between starts the count anew, and other tiers are not concerned."""
    breaker = Breaker(3, 30.0, clock=Clock())
    _fail(breaker, 2)
    ticket = breaker.enter("small")
    assert ticket is not None
    breaker.leave("small", ticket, up=True)
    _fail(breaker, 2)
    assert breaker.state("small") == "closed"
    _fail(breaker, 1)
    assert breaker.state("small") == "open"
    assert breaker.enter("small") is None
    assert breaker.enter("large") is not None


def test_one_probe_after_the_cool_down() -> None:
    """Half-open lets one call through; its success closes the circuit."""
    clock = Clock()
    breaker = _opened(clock)
    clock.now += 29.9
    assert breaker.enter("small") is None
    clock.now += 0.1
    probe = breaker.enter("small")
    assert probe is not None
    assert breaker.state("small") == "half-open"
    assert breaker.enter("small") is None
    breaker.leave("small", probe, up=True)
    assert breaker.state("small") == "closed"
    _fail(breaker, 2)
    assert breaker.state("small") == "closed"


def test_a_failed_probe_opens_again() -> None:
    """And the cool-down begins anew."""
    clock = Clock()
    breaker = _opened(clock)
    clock.now += 30
    probe = breaker.enter("small")
    assert probe is not None
    clock.now += 5
    breaker.leave("small", probe, up=False)
    clock.now += 29
    assert breaker.enter("small") is None
    clock.now += 1
    assert breaker.enter("small") is not None


def test_an_abandoned_probe() -> None:
    """One that is given back is free at once; one that never reports is forgotten after a cool-down."""
    clock = Clock()
    breaker = _opened(clock)
    clock.now += 30
    probe = breaker.enter("small")
    assert probe is not None
    breaker.leave("small", probe, up=None)
    assert breaker.enter("small") is not None
    assert breaker.enter("small") is None
    clock.now += 30
    assert breaker.enter("small") is not None


def test_late_results_do_not_count() -> None:
    """A call begun before the tier was opened neither closes it nor prolongs its rest."""
    clock = Clock()
    breaker = Breaker(1, 30.0, clock=clock)
    early, late = breaker.enter("small"), breaker.enter("small")
    assert early is not None
    assert late is not None
    breaker.leave("small", early, up=False)
    breaker.leave("small", late, up=True)
    assert breaker.state("small") == "open"
    clock.now += 30
    probe = breaker.enter("small")
    assert probe is not None
    breaker.leave("small", late, up=True)
    assert breaker.state("small") == "half-open"
    breaker.leave("small", probe, up=True)
    breaker.leave("small", late, up=False)
    assert breaker.state("small") == "closed"


def test_threads() -> None:
    """Of 32 threads that ask at the same moment exactly one probes, and failures are counted exactly."""
    clock = Clock()
    breaker = Breaker(320, 30.0, clock=clock)
    barrier = threading.Barrier(32)
    tickets: list[int | None] = []

    def fail() -> None:
        barrier.wait()
        _fail(breaker, 10 if threading.current_thread().name != "last" else 9)

    def probe() -> None:
        barrier.wait()
        tickets.append(breaker.enter("small"))

    def together(work: object, *names: str) -> None:
        threads = [threading.Thread(target=work, name=name) for name in names]  # type: ignore[arg-type]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    together(fail, *["other"] * 31, "last")
    assert breaker.state("small") == "closed"
    _fail(breaker, 1)
    assert breaker.state("small") == "open"
    clock.now += 30
    together(probe, *["probe"] * 32)
    assert sum(ticket is not None for ticket in tickets) == 1


def test_copies_start_closed() -> None:
    """State belongs to one process; the settings travel."""
    breaker = Breaker(1, 7.0)
    _fail(breaker, 1)
    for again in (copy.deepcopy(breaker), pickle.loads(pickle.dumps(breaker))):  # noqa: S301
        assert (again.failures, again.cooldown_seconds) == (1, 7.0)
        assert again.state("small") == "closed"
        assert repr(again) == repr(breaker)


@pytest.mark.parametrize(("failures", "cooldown"), [(0, 1.0), (1.5, 1.0), (1, -1.0), (1, float("inf"))])
def test_settings_are_checked(failures: int, cooldown: float) -> None:
    """Numbers without a meaning are refused."""
    with pytest.raises(InputError, match="must be"):
        Breaker(failures, cooldown)
