"""Records of query engines: every engine asked every question, so that a group can be fitted and certified."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse

from routenlp_integrations.llama_index.group_streams import Stream
from routenlp_integrations.llama_index.node_evidence import Price, answer_of, text_of
from router_core.errors import InputError
from router_core.grades import Grading, grade, grader
from router_core.portfolio import Portfolio
from router_core.route import Answer
from router_core.router import estimate_tokens

__all__ = ["record_engines"]


def record_engines(
    engines: Mapping[str, BaseQueryEngine],
    questions: Mapping[str, str] | Sequence[Mapping[str, Any]],
    grading: Grading,
    *,
    task: str = "questions",
    portfolio: Portfolio | None = None,
    price: Price | None = None,
    workers: int = 1,
    progress: Callable[[int, int], object] | None = None,
) -> list[dict[str, Any]]:
    """Ask every engine every question, grade the answers, and give the rows of a records file.

    An answer is read as `RouterQueryEngine` reads it when it serves, so that evidence and signals are the same
    numbers. Write the rows with `router_core.records_file.write_records` and fit on that file.

    Parameters
    ----------
    engines
        ``{tool name: engine}`` in cascade order; the names become those of the portfolio.
    questions
        ``{question: gold answer}``, or rows with ``prompt`` and ``gold`` and optionally ``query_id``, ``task``,
        ``group`` and ``split``.
    grading
        ``(answer, gold) -> quality`` in [0, 1], the name of a metric, or one by task.
    task
        Task of questions that name none.
    portfolio
        Prices of the tokens.
    price
        The caller's own price of an attempt, which wins. Where neither knows, ``cost_usd`` is left out, and `fit` needs
        a portfolio.
    workers
        Questions asked at once, in threads.
    progress
        Called with the number of questions done, and of all.

    Returns
    -------
    list of dict
        One row for each question and engine: ``query_id``, ``task``, ``prompt``, ``model``, ``response``, ``quality``,
        ``prompt_tokens``, ``completion_tokens``, ``cost_usd``, ``signal_<name>``. The row of an engine that failed has
        no quality, and a warning counts them.

    Raises
    ------
    InputError
        When engines or questions are missing, two questions have the same text, or a grade is no number in [0, 1].
    """
    asked = list(_asked(questions, task))
    if len(engines) < 2 or not asked:
        msg = f"{len(engines)} engines and {len(asked)} questions were given; two engines and one question are needed"
        raise InputError(msg)
    if len({one["prompt"] for one in asked}) < len(asked):
        raise InputError("two questions have the same text; give each once")
    grade_of = grader(grading)
    failures: list[str] = []

    def rows(one: Mapping[str, Any]) -> list[dict[str, Any]]:
        found = []
        for name, engine in engines.items():
            known = {key: value for key, value in one.items() if key != "gold"} | {"model": name}
            try:
                answer = _answer(name, engine, one["prompt"], price)
            except InputError:
                raise
            except Exception as error:
                failures.append(f"{name}: {type(error).__name__}")
                found.append({**known, "quality": None})
                continue
            quality = grade(grade_of(str(one["task"]).partition("/")[0]), answer.text, one["gold"])
            found.append({**known, "quality": quality, **_told(name, answer, portfolio)})
        return found

    made: list[dict[str, Any]] = []
    with ThreadPoolExecutor(max_workers=workers) as pool:
        for number, some in enumerate(pool.map(rows, asked), start=1):
            made += some
            if progress is not None:
                progress(number, len(asked))
    if failures:
        warnings.warn(f"{len(failures)} answers are missing, the first because of {failures[0]}", stacklevel=2)
    return made


def _asked(questions: Mapping[str, str] | Sequence[Mapping[str, Any]], task: str) -> Iterable[dict[str, Any]]:
    given: Iterable[Mapping[str, Any]] = (
        ({"prompt": prompt, "gold": gold} for prompt, gold in questions.items())
        if isinstance(questions, Mapping)
        else questions
    )
    for one in given:
        if not isinstance(one.get("prompt"), str) or "gold" not in one:
            raise InputError(f"a question needs a prompt and a gold answer; given was {dict(one)!r}")
        own = sha256(one["prompt"].encode("utf-8", "surrogatepass")).hexdigest()[:12]
        kept = {name: one[name] for name in ("prompt", "gold", "group", "split") if one.get(name) is not None}
        yield {"query_id": str(one.get("query_id") or own), "task": one.get("task") or task, **kept}


def _answer(name: str, engine: BaseQueryEngine, question: str, price: Price | None) -> Answer:
    response = engine.query(question)
    if isinstance(response, AsyncStreamingResponse):
        raise InputError(f"engine {name!r} answered query() with an asynchronous stream; record it without streaming")
    if isinstance(response, StreamingResponse):
        stream = Stream(response)
        whole = stream.whole()
        return answer_of(name, question, whole, stream.text, price)
    return answer_of(name, question, response, text_of(response), price)


def _told(name: str, answer: Answer, portfolio: Portfolio | None) -> dict[str, Any]:
    received = answer.completion_tokens
    received = estimate_tokens(answer.text) if received is None else received
    cost = answer.cost_usd
    if cost is None and portfolio is not None:
        cost = portfolio.tiers[portfolio.index(name)].price(answer.prompt_tokens or 0, received)
    return {
        "response": answer.text,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": received,
        **({} if cost is None else {"cost_usd": cost}),
        **{f"signal_{signal}": value for signal, value in answer.signals.items()},
    }
