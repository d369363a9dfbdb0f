"""Hashed features of a text: any string works, the same string always gives the same numbers."""

from __future__ import annotations

import time
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_core.text_features import BUCKETS, HEAD, STATISTICS, TAIL, clip_text, text_features

ANY_TEXT = st.text(st.characters(), max_size=200)
WEIRD = [
    "",
    "\0",
    "\ud800",
    "a\udfffb",
    "\U0001f600" * 5,
    "שלום עולם",
    "مرحبا بالعالم؟",
    "\n\n\n",
    "ﷺ" * 7000,
    "x" * 100_000,
    "word " * 20_000,
    "é" * 100_000,
    "İ" * 7000,
]


@given(ANY_TEXT)
@settings(max_examples=300, deadline=None)
def test_every_string_gives_finite_features_in_range(text: str) -> None:
    """Buckets lie in their range and statistics are finite for every string, lone surrogates included."""
    features = text_features(text)
    assert features.statistics.shape == (len(STATISTICS),)
    assert np.isfinite(features.statistics).all()
    assert ((features.words >= 0) & (features.words < BUCKETS)).all()
    assert ((features.characters >= BUCKETS) & (features.characters < 2 * BUCKETS)).all()
    assert len(features.words) == max(0, 2 * len(features.word_hash) - 1)


@given(ANY_TEXT)
@settings(max_examples=100, deadline=None)
def test_features_are_a_function_of_the_text(text: str) -> None:
    """Two calls agree in every number."""
    first, second = text_features(text), text_features(str(text))
    assert np.array_equal(first.words, second.words)
    assert np.array_equal(first.characters, second.characters)
    assert np.array_equal(first.statistics, second.statistics)


@given(st.lists(st.from_regex(r"[a-zA-Z0-9]{1,12}", fullmatch=True), min_size=1, max_size=30))
@settings(max_examples=200, deadline=None)
def test_a_word_hashes_the_same_wherever_it_stands(words: list[str]) -> None:
    """The prefix-sum hash of a word in a sentence equals the hash of the word alone."""
    together = text_features(" ".join(words)).word_hash
    alone = [int(text_features(word).word_hash[0]) for word in words]
    assert together.tolist() == alone


@given(st.text(st.characters(codec="ascii"), min_size=4, max_size=80))
@settings(max_examples=200, deadline=None)
def test_character_grams_hash_the_same_wherever_they_stand(text: str) -> None:
    """Every byte 4-gram of a text has the bucket it has alone."""
    together = text_features(text).characters.tolist()
    assert together == [int(text_features(text[i : i + 4]).characters[0]) for i in range(len(text) - 3)]


def test_different_words_rarely_share_a_bucket() -> None:
    """Ten thousand distinct words fill about as many buckets as a random function would."""
    text = " ".join(f"w{i:x}" for i in range(900))
    buckets = np.concatenate([text_features(text.replace("w", chr(97 + k))).words[:900] for k in range(11)])
    expected = BUCKETS * (1.0 - np.exp(-len(buckets) / BUCKETS))
    assert abs(len(np.unique(buckets)) - expected) < 60


def test_case_width_and_kind_of_space_do_not_change_the_hashes() -> None:
    """Full-width letters, capitals and tabs hash like their plain forms."""
    plain = text_features("hello big world")
    assert np.array_equal(text_features("HELLO\tBig\nworld").words, plain.words)
    assert np.array_equal(text_features("\uff28\uff25\uff2c\uff2c\uff2f big world").words, plain.words)
    assert np.array_equal(text_features("ÉCOLE").words, text_features("école").words)


@pytest.mark.parametrize("text", WEIRD, ids=range(len(WEIRD)))
def test_weird_texts_work_and_stay_fast(text: str) -> None:
    """Empty, NUL, emoji, right-to-left, surrogates and 100,000 characters take well under 50 ms."""
    start = time.perf_counter()
    features = text_features(text)
    assert time.perf_counter() - start < 0.05
    assert np.isfinite(features.statistics).all()


def test_a_long_text_is_read_at_both_ends_and_keeps_its_length() -> None:
    """Only head and tail are hashed; the middle changes nothing but the length does."""
    head, tail = "a " * (HEAD // 2), " z" * (TAIL // 2)
    one, two = (text_features(head + middle + tail) for middle in ("one " * 500, "two " * 500))
    assert np.array_equal(one.words, two.words)
    assert np.array_equal(one.statistics, two.statistics)
    assert one.statistics[0] == pytest.approx(np.log1p(HEAD + TAIL + 2000))
    assert len(clip_text("x" * 100_000)) == HEAD + TAIL


def test_statistics_count_what_their_names_say() -> None:
    """A small text, counted by hand."""
    found = dict(zip(STATISTICS, text_features("What is NOT 12+3?\nA, B").statistics.tolist(), strict=True))
    assert np.expm1(found["log_characters"]) == pytest.approx(22)
    assert np.expm1(found["log_words"]) == pytest.approx(7)
    assert np.expm1(found["log_digits"]) == pytest.approx(3)
    assert np.expm1(found["log_newlines"]) == pytest.approx(1)
    assert np.expm1(found["log_questions"]) == pytest.approx(1)
    assert np.expm1(found["log_first_line"]) == pytest.approx(17)
    assert np.expm1(found["log_last_line"]) == pytest.approx(4)
    assert found["starts_with_question_word"] == 1.0
    assert found["negation"] == 1.0
    assert found["upper_share"] == pytest.approx(6 / 22)


def test_normalisation_forms_agree() -> None:
    """Composed and decomposed accents are the same text."""
    composed = "café naïve"
    decomposed = unicodedata.normalize("NFD", composed)
    assert composed != decomposed
    assert np.array_equal(text_features(composed).words, text_features(decomposed).words)


def test_list_items_are_measured() -> None:
    """Options of a question: how many, how long, how many are short numbers; texts without have zeros."""
    found = dict(zip(STATISTICS, text_features("Pick.\nA. 12\nB. 3,456\nC. none of these").statistics, strict=True))
    assert np.expm1(found["log_items"]) == pytest.approx(3)
    assert np.expm1(found["log_longest_item"]) == pytest.approx(13)
    assert np.expm1(found["log_shortest_item"]) == pytest.approx(2)
    assert found["numeric_items"] == pytest.approx(2 / 3)
    assert text_features("Pick one").statistics[-5:].tolist() == [0.0] * 5
