"""Asking one model: worst price set aside, call, answer kept; tried again where that can help."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from routenlp_integrations.langchain.collect.journal import Entry, Journal
from routenlp_integrations.langchain.collect.purse import Purse
from routenlp_integrations.langchain.collect.tiers_file import Asked
from routenlp_integrations.langchain.messages import answer_of
from router_core.conversations import Turns
from router_core.errors import InputError
from router_core.redaction import Redaction
from router_core.router import estimate_tokens

__all__ = ["Asker", "BudgetSpent", "CallFailed", "key_of", "worst_price"]

_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_MAYBE_BILLED = frozenset({408, 504})
_BACK_OFF = wait_exponential_jitter(initial=1.0, max=60.0)
_LONGEST_RETRY_AFTER_S = 600.0
_TEMPLATE_TOKENS = 32
"""What a chat template may add for each message and for the answer's head."""


class BudgetSpent(Exception):  # noqa: N818 - an end, not a fault
    """The worst price of the next call does not fit what is left."""


class CallFailed(Exception):  # noqa: N818 - named for what happened
    """A model did not answer after all retries; the text says why, without keys."""


def key_of(asked: Asked, turns: Turns) -> str:
    """What an answer is kept under: what was asked, and of whom with which parameters."""
    told = hashlib.sha256(json.dumps(turns, ensure_ascii=True).encode()).hexdigest()[:24]
    return f"{told}-{asked.fingerprint}"


def worst_price(asked: Asked, turns: Turns) -> float:
    """The most a call can cost in US dollars: no tokenizer makes more tokens than there are bytes."""
    size = sum(len(text.encode("utf-8", "surrogatepass")) for _, text in turns)
    return asked.tier.price(size + _TEMPLATE_TOKENS * (len(turns) + 1), asked.max_tokens)


@dataclass(frozen=True)
class Asker:
    """One model of a run.

    Attributes
    ----------
    asked
        Prices, time-out and retries.
    model
        The chat model.
    journal, purse
        Where answers are kept and what they are paid from.
    redact
        What is taken out of answers and messages.
    """

    asked: Asked
    model: Any
    journal: Journal
    purse: Purse
    redact: Redaction

    async def ask(self, turns: Turns) -> Entry:
        """The answer that is kept, or a new one.

        Raises
        ------
        BudgetSpent
            When the budget cannot pay for the call.
        CallFailed
            When the model does not answer.
        InputError
            When a pattern takes too long on the answer.
        """
        key = key_of(self.asked, turns)
        kept = self.journal.get(key)
        if kept is not None:
            return kept
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.asked.max_retries + 1),
            retry=retry_if_exception(_may_help),
            wait=_wait,
            sleep=_sleep,
            reraise=True,
        )
        try:
            return await retrying(self._call, key, turns)
        except (BudgetSpent, InputError):
            raise
        except Exception as error:
            raise CallFailed(self._told(error)) from None

    async def _call(self, key: str, turns: Turns) -> Entry:
        worst = worst_price(self.asked, turns)
        if not await self.purse.hold(worst):
            raise BudgetSpent
        paid = worst
        try:
            self.journal.asking(key, worst)
            messages = [_message(role, text) for role, text in turns]
            try:
                async with asyncio.timeout(self.asked.timeout):
                    message = await self.model.ainvoke(messages)
            except Exception as error:
                if _status(error) not in {None, *_MAYBE_BILLED} or _never_left(error):
                    # A refused call, or one that found nobody to take it, is not billed; one that broke off may be.
                    self.journal.free(key)
                    paid = 0.0
                raise
            entry = self._entry(message, messages)
            paid = self.price(entry) if entry.measured else worst
            self.journal.answered(key, paid, entry)
        finally:
            await asyncio.shield(self.purse.settle(worst, paid))
        return entry

    def price(self, entry: Entry) -> float:
        """US dollars of an answer at the tier's prices."""
        return self.asked.tier.price(entry.prompt_tokens, entry.completion_tokens)

    def _entry(self, message: AIMessage, messages: list[BaseMessage]) -> Entry:
        answer = answer_of(ChatResult(generations=[ChatGeneration(message=message)]), messages)
        measured = answer.completion_tokens is not None and answer.prompt_tokens is not None
        text = answer.text.encode("utf-8", "replace").decode()
        return Entry(
            self.redact(text),
            answer.prompt_tokens or 0,
            answer.completion_tokens if answer.completion_tokens is not None else estimate_tokens(text),
            measured,
            {name: value for name, value in answer.signals.items() if math.isfinite(value)},
            answer.covered,
        )

    def _told(self, error: Exception) -> str:
        said = " ".join(str(error).split())
        if isinstance(error, TimeoutError) and not said:
            said = f"no answer within {self.asked.timeout:g} s"
        return self.redact.keys(f"{type(error).__name__}: {said}" if said else type(error).__name__)[:300]


def _message(role: str, text: str) -> BaseMessage:
    if role == "ai":
        return AIMessage(content=text)
    return SystemMessage(content=text) if role == "system" else HumanMessage(content=text)


def _status(error: BaseException) -> int | None:
    """HTTP status of a provider's error, under the names their clients use."""
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "status", "code"):
            value = getattr(holder, name, None)
            if isinstance(value, int) and 400 <= value < 600:
                return value
    return None


def _never_left(error: BaseException) -> bool:
    """Whether no connection was made: the provider never saw the call."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError | socket.gaierror) or type(cause).__name__ == "ConnectError":
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _may_help(error: BaseException) -> bool:
    status = _status(error)
    if status is not None:
        return status in _AGAIN
    if isinstance(error, (TimeoutError, ConnectionError)):
        return True
    names = " ".join(kind.__name__ for kind in type(error).__mro__)
    return any(word in names for word in ("Timeout", "Connection", "TransportError"))


async def _sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


def _wait(state: RetryCallState) -> float:
    """Seconds before the next attempt: what the provider asks for, else doubling from one second, with jitter."""
    error = state.outcome.exception() if state.outcome is not None else None
    headers = getattr(getattr(error, "response", None), "headers", None)
    asked = _retry_after(headers) if isinstance(headers, Mapping) else None
    return _BACK_OFF(state) if asked is None else min(asked, _LONGEST_RETRY_AFTER_S)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    told = headers.get("retry-after")
    if told is None:
        return None
    try:
        seconds = float(told)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None
