"""What is known of one tier's answer: the one pure function that fit, certify and serving share.

The features are numbers computed from text alone (never from provider token counts), so an answer that is
replayed from a record and the same answer that arrives live have bit-identical evidence.
"""

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ANSWER_FEATURES", "PAIR_FEATURES", "Evidence", "evidence", "final_answer"]

_CAP = 6_000
"""Characters of prompt and answer that are read (head and tail), so that `accept` stays below a millisecond."""

_FEWEST_OPTIONS, _MOST_OPTIONS = 2, 12

# Every repetition is bounded: models loop, and an answer of six thousand line feeds must not take half a second.
_FENCE = re.compile(r"^```[a-zA-Z]{0,12}|```$")
_JSON_FIELD = re.compile(
    r'"(?:final_answer|answer|label|class|result|output|prediction)"\s{0,9}:\s{0,9}'
    r'("(?:[^"\\]|\\.){0,400}"|[^,}\n]{1,400})',
    re.I,
)
_BOXED = re.compile(r"\\boxed\s{0,3}\{([^{}]{1,80})\}")
_SAID = re.compile(
    r"\b(?:final answer|answer|label|class|category|sentiment)\b\s{0,9}(?:is|:|=)[\s*]{0,9}([^\n]{1,60})", re.I
)
_QUOTED = re.compile(r"['‘\"“]([A-Za-z][\w -]{1,28})['’\"”]")
_PAIR = re.compile(r"(\S{1,60}) {0,3}[:=\t] {0,3}(\S{1,40})")
_LONGEST_PAIR = 110
_WORD = re.compile(r"\w+")
_REFUSAL = re.compile(r"\b(?:i (?:cannot|can't|am unable|do not have)|as an ai|i'm sorry|sorry, (?:but )?i)\b", re.I)
_HEDGE = re.compile(
    r"\b(?:however|although|might|maybe|perhaps|unclear|not sure|could be|mixed|it depends|ambiguous)\b", re.I
)

ANSWER_FEATURES = (
    "prompt_length", "prompt_lines", "prompt_digits", "answer_length", "answer_words", "answer_lines", "length_ratio",
    "key_found", "key_length", "key_numeric", "key_is_option", "json_valid", "refusal", "hedges", "unfinished",
    "repetition", "overlap", "digits", "pairs", "pairs_unusual", "tried", "tried_agree", "tried_agree_share",
)  # fmt: skip
"""Names of the features of one answer, in order."""

PAIR_FEATURES = ("same_key", "word_f1", "pair_f1", "pair_difference", "length_change")
"""Names of the features of one answer against the answer of one tier tried before it, in order."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one answer.

    Attributes
    ----------
    answer
        One number per name in `ANSWER_FEATURES`.
    pairs
        For each tier tried before: one number per name in `PAIR_FEATURES`.
    key
        The normalised final answer (a label, a number, a short phrase), ``""`` when none was found.
    signals
        The numbers that came with the answer, by name.
    """

    answer: tuple[float, ...]
    pairs: dict[str, tuple[float, ...]]
    key: str
    signals: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Read:
    """One answer, read once."""

    text: str
    key: str
    words: Counter[str]
    pairs: frozenset[tuple[str, str]]
    unusual: int


def _cap(text: str) -> str:
    return text if len(text) <= _CAP else text[: _CAP * 2 // 3] + "\n" + text[-_CAP // 3 :]


def _normalise(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).lower().strip().strip("\"'`*.!,;: \\()[]$")
    return " ".join(text.split())[:60]


def _options(prompt: str) -> tuple[str, ...]:
    """Answers the prompt offers in quotes, such as 'POSITIVE'; a prompt that quotes much else offers none."""
    found = tuple(dict.fromkeys(_normalise(match) for match in _QUOTED.findall(prompt)))
    return found if _FEWEST_OPTIONS <= len(found) <= _MOST_OPTIONS else ()


def final_answer(answer: str, options: tuple[str, ...] = ()) -> str:
    r"""Find the part of an answer that a grader would compare.

    In this order: a JSON field named like an answer, ``\boxed{}``, "label: x" or "the answer is x", a first or only
    line of at most eight words, an offered option that occurs in the text.

    Parameters
    ----------
    answer
        The model's text.
    options
        Normalised answers the prompt offers.

    Returns
    -------
    str
        Normalised text of at most 60 characters, ``""`` when there is none (free text).
    """
    found = ""
    for pattern in (_JSON_FIELD, _BOXED, _SAID):
        matches = pattern.findall(answer)
        if matches:
            found = _normalise(matches[-1 if pattern is not _SAID else 0])
            break
    first = answer.strip().split("\n", 1)[0]
    if not found and 0 < len(first.split()) <= 8 and not first.rstrip().endswith((":", "?")):
        found = _normalise(first)
    if found in options or len(found.split()) == 1:
        return found
    return _mentioned(found or answer.lower(), options) or found


def _mentioned(text: str, options: tuple[str, ...]) -> str:
    """The offered option that the text names first as a whole word."""
    hits = [(at.start(), option) for option in options if (at := re.search(rf"(?<!\w){re.escape(option)}(?!\w)", text))]
    return min(hits)[1] if hits else ""


def _read(answer: str, options: tuple[str, ...]) -> _Read:
    text = _cap(answer)
    lines = (line.strip() for line in text.splitlines())
    pairs = frozenset(
        (match[1], match[2]) for line in lines if len(line) <= _LONGEST_PAIR and (match := _PAIR.fullmatch(line))
    )
    unusual = len(pairs) - max(Counter(value for _, value in pairs).values()) if pairs else 0
    return _Read(text, final_answer(text, options), Counter(_WORD.findall(text.lower())), pairs, unusual)


def _f1(shared: int, left: int, right: int) -> float:
    return 2.0 * shared / (left + right) if left + right else 1.0


def _compare(new: _Read, old: _Read) -> tuple[float, ...]:
    same_key = float(new.key == old.key) if new.key and old.key else 0.5
    shared = sum((new.words & old.words).values())
    return (
        same_key,
        _f1(shared, new.words.total(), old.words.total()),
        _f1(len(new.pairs & old.pairs), len(new.pairs), len(old.pairs)),
        math.log1p(len(new.pairs ^ old.pairs)),
        math.log1p(len(new.text)) - math.log1p(len(old.text)),
    )


def _digits(text: str) -> int:
    """How many characters are digits, of any script."""
    if text.isascii():
        return sum(map(text.count, "0123456789"))
    return sum(map(str.isdigit, text))


def _json_valid(text: str) -> float:
    if "{" not in text and "[" not in text:
        return 0.0
    body = _FENCE.sub("", text.strip()).strip()
    if not body.startswith(("{", "[")):
        return 0.0
    try:
        json.loads(body, strict=False)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0


def evidence(
    prompt_text: str,
    answer_text: str,
    tried_answers: Mapping[str, str],
    signals: Mapping[str, float] | None = None,
) -> Evidence:
    """Compute what is known of one tier's answer.

    Pure: the same arguments give the same floats, whether the answer is replayed from a record or arrives live.

    Parameters
    ----------
    prompt_text
        The routed text of the query.
    answer_text
        The tier's answer.
    tried_answers
        Answers of the tiers tried before on this query, by tier name.
    signals
        Numbers that came with the answer (``mean_logprob``, ``own_confidence``, ...).

    Returns
    -------
    Evidence
    """
    prompt = _cap(prompt_text)
    options = _options(prompt)
    new = _read(answer_text, options)
    pairs = {tier: _compare(new, _read(text, options)) for tier, text in tried_answers.items()}
    agreeing = sum(1 for values in pairs.values() if values[0] == 1.0)
    text, words = new.text, new.words
    total = words.total()
    prompt_words = set(_WORD.findall(prompt.lower()))
    answer = (
        math.log1p(len(prompt_text)),
        math.log1p(prompt.count("\n")),
        math.log1p(_digits(prompt)),
        math.log1p(len(answer_text)),
        math.log1p(total),
        math.log1p(text.count("\n")),
        math.log1p(len(answer_text)) - math.log1p(len(prompt_text)),
        float(bool(new.key)),
        math.log1p(len(new.key)),
        float(new.key.replace(".", "", 1).replace(",", "").lstrip("-").isdigit()),
        float(new.key in options),
        _json_valid(text),
        float(bool(_REFUSAL.search(text))),
        math.log1p(len(_HEDGE.findall(text))),
        float(not text.rstrip().endswith((".", "!", "?", "}", "]", ")", '"', "'", "`", "”"))),
        len(words) / total if total else 0.0,
        sum(count for word, count in words.items() if word in prompt_words) / total if total else 0.0,
        math.log1p(_digits(text)),
        math.log1p(len(new.pairs)),
        math.log1p(new.unusual),
        float(len(pairs)),
        float(agreeing),
        agreeing / len(pairs) if pairs else 0.5,
    )
    return Evidence(answer, pairs, new.key, dict(signals or {}))
