"""Stickiness: up at once, down after a while, and what it does to the certificate."""

import copy
import pickle
import threading
from typing import Any

import pytest
from routers import SURE, UNSURE, Clock, plain_router

from router_core import Answer, Cascade, InputError, Route, Sticky
from router_core.policy import CASCADE
from router_core.sticky import conversation_key

TURNS = [("system", "Be brief."), ("human", "My name is Ada."), ("ai", "Hello"), ("human", "And?")]


def _cascade(sticky: Sticky, risk: str = "joint", **answers: str) -> Cascade:
    said = {"small": SURE, "medium": SURE, "large": SURE} | answers
    tiers: dict[str, Any] = {name: (lambda _, text=text: Answer(text, 10, 5)) for name, text in said.items()}
    return Cascade(plain_router(risk), tiers, sticky=sticky)


def _served(cascade: Cascade, starts: str, conversation: str = "c") -> list[Route]:
    return [cascade.run(f"{at} query", "t", conversation=conversation) for at in starts]


def test_up_at_once_down_after_a_while() -> None:
    """The third decision in a row for a cheaper tier is followed; one for the same tier starts the count anew."""
    routes = _served(_cascade(Sticky(3)), "0 1 00 1 00 0".replace(" ", ""))
    assert [route.tier for route in routes] == ["small", *["medium"] * 6, "small"]


def test_patience_of_one_is_the_policy() -> None:
    """No stickiness at all."""
    routes = _served(_cascade(Sticky(1)), "0120102")
    assert [route.tier for route in routes] == ["small", "medium", "large", "small", "medium", "small", "large"]
    assert all(route.certificate for route in routes)


@pytest.mark.parametrize(("risk", "kept"), [("joint", True), ("expectation", True), ("selective", False),
                                            ("retention", False)])  # fmt: skip
def test_certificates(risk: str, kept: bool) -> None:
    """Staying on the reference keeps a joint certificate, staying elsewhere none, others any who outlive departures."""
    first, second, stays = _served(_cascade(Sticky(3), risk), "120")
    assert (first.certificate is not None) == kept
    assert (second.certificate is not None) == kept
    assert kept or "conversations stay" in first.reason
    assert stays.tier == "large"
    assert (stays.certificate is not None) == kept
    assert "stays on large" in stays.reason
    follows, stays = _served(_cascade(Sticky(3), risk), "10")
    assert (follows.certificate is not None) == kept
    alone = _cascade(Sticky(3), risk).run("0 query", "t")
    assert (alone.certificate is not None) == kept
    assert stays.tier == "medium"
    assert stays.certificate is None
    assert "stays on medium" in stays.reason


def test_an_escalated_answer_leaves_the_tier() -> None:
    """The tier that served is remembered, and answers of a tier that is stuck to are judged as ever."""
    cascade = _cascade(Sticky(3), medium=UNSURE)
    routes = _served(cascade, "1000")
    assert [route.tier for route in routes] == ["large", "large", "large", "small"]
    assert all(route.certificate is not None for route in routes)


def test_a_cheaper_tier_that_escalates_earns_its_next_try_anew() -> None:
    """After a failed way down the count starts from nothing."""
    cascade = _cascade(Sticky(2), small=UNSURE, medium=UNSURE)
    routes = _served(cascade, "200000")
    assert [len(route.attempts) for route in routes] == [1, 1, 3, 1, 3, 1]


def test_margin() -> None:
    """A decision for a cheaper tier counts only if P(bad) is lower than needed by the margin (here 0.4)."""
    for margin, last in ((0.4, "small"), (0.41, "medium")):
        routes = _served(_cascade(Sticky(2, margin=margin)), "1000")
        assert routes[-1].tier == last


def test_conversations_are_apart() -> None:
    """One's tier is not another's, and without a conversation there is no stickiness."""
    cascade = _cascade(Sticky(3))
    assert _served(cascade, "2", "a")[0].tier == "large"
    assert _served(cascade, "0", "b")[0].tier == "small"
    assert _served(cascade, "0", "a")[0].tier == "large"
    assert cascade.run("0 query", "t").tier == "small"


def test_a_forced_tier_is_not_changed() -> None:
    """Who forces a tier gets it, and the conversation is on it from then on."""
    router, sticky = plain_router(), Sticky(3)
    sticky.served("c", "large")
    forced = router.force("0 query", "t", CASCADE, "small", "asked for")
    assert sticky.start(router, forced, "c") is forced


def test_memory_is_bounded() -> None:
    """By age and by number; a conversation that is used stays."""
    clock = Clock()
    sticky = Sticky(3, ttl_seconds=60.0, max_conversations=2, clock=clock)
    router = plain_router()
    begun = router.start("0 query", "t")

    def stays(key: str) -> bool:
        return sticky.start(router, begun, key).tier == 2

    for key in "abc":
        sticky.served(key, "large")
    assert [stays(key) for key in "abc"] == [False, True, True]
    assert len(sticky) == 2
    clock.now += 59
    sticky.served("b", "large")
    clock.now += 1
    assert [stays(key) for key in "bc"] == [True, False]
    assert len(sticky) == 1


def test_a_tier_that_is_gone() -> None:
    """A remembered tier that the portfolio does not have is no tier to stay on."""
    sticky, router = Sticky(3), plain_router()
    sticky.served("c", "huge")
    begun = router.start("0 query", "t")
    assert sticky.start(router, begun, "c") is begun


def test_threads() -> None:
    """64 conversations at once: each sees its own decisions only."""
    cascade = _cascade(Sticky(3))
    seen: dict[int, list[str]] = {}

    def talk(number: int) -> None:
        top = ("small", "medium", "large")[number % 3]
        routes = _served(cascade, f"{number % 3}000", str(number))
        seen[number] = [route.tier for route in routes]
        assert seen[number] == [top, top, top, "small"]

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 64


def test_key() -> None:
    """The same beginning gives the same key, whatever follows; an id wins; no text is in it."""
    key = conversation_key(TURNS)
    assert key == conversation_key(TURNS[:2])
    assert key != conversation_key(TURNS[1:])
    assert conversation_key(TURNS, "thread-1") == conversation_key([], "thread-1")
    assert conversation_key(TURNS, "Be brief.") != key
    assert "Ada" not in key
    assert len(conversation_key([("human", "\ud800")])) == 64


def test_copies_start_empty() -> None:
    """The settings travel, what is remembered stays."""
    sticky = Sticky(2, margin=0.1, ttl_seconds=5.0, max_conversations=7)
    sticky.served("c", "large")
    for again in (copy.deepcopy(sticky), pickle.loads(pickle.dumps(sticky))):  # noqa: S301
        assert (again.patience, again.margin, again.ttl_seconds, again.max_conversations) == (2, 0.1, 5.0, 7)
        assert len(again) == 0


@pytest.mark.parametrize("wrong", [{"patience": 0}, {"margin": -0.1}, {"ttl_seconds": 0.0}, {"max_conversations": 0}])
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    """Numbers outside their range are refused."""
    with pytest.raises(InputError, match="sticky"):
        Sticky(**wrong)
