"""The one evidence function: pure, total, and equal for replayed and live answers."""

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_core.evidence import ANSWER_FEATURES, PAIR_FEATURES, evidence, final_answer

TEXT = st.text(max_size=200)


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        ("POSITIVE", "positive"),
        ("POSITIVE\n\nThe firm grew.", "positive"),
        ("Sure, here it is!\n\nLabel: NEUTRAL\n\nExplanation: ...", "neutral"),
        ('```json\n{"reasoning": "6 * 7", "answer": "42"}\n```', "42"),
        ('{"reasoning": "unfinished", "answer": "\\"abc\\"', "abc"),
        (r"So the value is \boxed{17}.", "17"),
        ("The final answer is 12.5", "12.5"),
        ("", ""),
        (
            "This is a long sentence of free text that ends nowhere in particular and names no label at all",
            "",
        ),
    ],
)
def test_final_answer(answer: str, key: str) -> None:
    """The part a grader would compare is found."""
    assert final_answer(answer) == key


def test_offered_options_win() -> None:
    """An option quoted in the prompt is recognised inside a longer answer."""
    prompt = "Classify as 'HAWKISH', 'DOVISH' or 'NEUTRAL'."
    assert (
        evidence(prompt, "I would call this sentence dovish, since rates fall further this year.", {}).key == "dovish"
    )


def test_agreement() -> None:
    """Equal final answers agree, others do not, and the first tier has nobody to agree with."""
    prompt = "Classify as 'YES' or 'NO'."
    same = evidence(prompt, "YES", {"a": "yes."})
    other = evidence(prompt, "YES", {"a": "NO", "b": "YES"})
    agree = ANSWER_FEATURES.index("tried_agree")
    assert same.pairs["a"][PAIR_FEATURES.index("same_key")] == 1.0
    assert same.answer[agree] == 1.0
    assert other.pairs["a"][0] == 0.0
    assert other.answer[agree] == 1.0
    assert evidence(prompt, "YES", {}).answer[agree] == 0.0


def test_structured_lines_are_compared() -> None:
    """Token labels are compared as pairs, whatever prose surrounds them."""
    one = "Here you go:\nParis:Location_B\nis:Other\nbig:Other"
    two = "Paris:Organisation_B\nis:Other\nbig:Other\nHope that helps!"
    pair = evidence("label", two, {"a": one}).pairs["a"]
    assert pair[PAIR_FEATURES.index("pair_f1")] == pytest.approx(2 / 3)
    assert pair[PAIR_FEATURES.index("pair_difference")] == pytest.approx(math.log1p(2))


@settings(max_examples=60, deadline=None)
@given(TEXT, TEXT, st.dictionaries(st.sampled_from("abc"), TEXT, max_size=2))
def test_total_and_pure(prompt: str, answer: str, tried: dict[str, str]) -> None:
    """Any text gives finite numbers, the same ones every time, of the announced length."""
    found = evidence(prompt, answer, tried, {"mean_logprob": -0.5})
    assert found == evidence(prompt, answer, dict(tried), {"mean_logprob": -0.5})
    assert len(found.answer) == len(ANSWER_FEATURES)
    assert all(math.isfinite(value) for value in found.answer)
    assert set(found.pairs) == set(tried)
    assert all(len(pair) == len(PAIR_FEATURES) and all(map(math.isfinite, pair)) for pair in found.pairs.values())


@given(st.text(st.one_of(st.characters(max_codepoint=127), st.characters(categories=["Nd", "No", "Lo"]))))
def test_digits_are_those_of_every_script(text: str) -> None:
    """The quick way for ASCII counts what asking every character does."""
    found = evidence(text, text, {}).answer
    asked = [math.log1p(sum(character.isdigit() for character in text))] * 2
    assert [found[ANSWER_FEATURES.index(name)] for name in ("prompt_digits", "digits")] == asked


@pytest.mark.parametrize(
    "text", ["", "x" * 100_000, "\x00\x00", "😀" * 50, "مرحبا بالعالم", "\ud800", '{"answer": ' * 3_000]
)
def test_strange_texts(text: str) -> None:
    """Nothing a user or a model can write breaks the evidence."""
    found = evidence(text, text, {"a": text})
    assert all(math.isfinite(value) for value in found.answer)


@pytest.mark.parametrize("loop", ["\n", "\t", " ", "*", "`", "a: ", '"answer": '])
def test_looping_answers(loop: str) -> None:
    """A looping answer is read in milliseconds; the gate is a hundred times that (unbounded patterns took 450)."""
    answer = "answer is" + loop * (5_900 // len(loop))
    began = time.perf_counter()
    found = evidence("prompt", answer, {})
    assert time.perf_counter() - began < 0.25
    assert all(map(math.isfinite, found.answer))
