"""The tiers of a tiers file as teachers: live models behind the distillation trainer's `Ask`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router_core.errors import InputError, MissingExtraError, TierError

if TYPE_CHECKING:
    from exporters.students.teacher import Ask, Lesson
    from routenlp_integrations.langchain.collect import Asked

__all__ = ["LiveTeacher", "live_teacher", "live_teachers"]


@dataclass(frozen=True)
class LiveTeacher:
    """A model that is asked and paid.

    Attributes
    ----------
    name
        Of the tier.
    ask
        A prompt to its answer.
    expected_usd, worst_usd
        What the answer to a prompt is expected to cost, and the most it may, US dollars.
    """

    name: str
    ask: Ask
    expected_usd: Callable[[str], float]
    worst_usd: Callable[[str], float]


def live_teacher(path: Path) -> LiveTeacher:
    """The last tier of a tiers file.

    Raises
    ------
    InputError
        When the file is wrong, or the model cannot be made.
    MissingExtraError
        Where langchain is not installed.
    """
    return _teacher(_tiers(path)[-1])


def live_teachers(path: Path) -> dict[str, LiveTeacher]:
    """Every tier of a tiers file by its name, in its order; raises like `live_teacher`."""
    return {asked.name: _teacher(asked) for asked in _tiers(path)}


def _tiers(path: Path) -> Sequence[Asked]:
    try:
        from routenlp_integrations.langchain.collect import read_tiers
    except ModuleNotFoundError as error:
        raise MissingExtraError("collect", f"ask a live teacher ({error.name} is not installed)") from error
    return read_tiers(path).tiers


def _teacher(asked: Asked) -> LiveTeacher:
    from routenlp_integrations.langchain.collect.asking import worst_price
    from router_core.redaction import Redaction
    from router_core.router import estimate_tokens

    model, redact = asked.make(), Redaction.of_environment()

    def ask(prompt: str) -> Lesson:
        from langchain_core.messages import HumanMessage

        message = HumanMessage(prompt)
        for left in range(asked.max_retries, -1, -1):
            try:
                return _lesson(asked, model.invoke([message]), message)
            except InputError:
                raise
            except Exception as error:
                if not left:
                    told = redact.keys(" ".join(str(error).split()))[:200]
                    raise TierError(f"{asked.name}: {type(error).__name__}: {told}") from None
        raise AssertionError("unreachable: the last try returns or raises")

    def worst(prompt: str) -> float:
        # Every try may be billed.
        return worst_price(asked, (("user", prompt),)) * (asked.max_retries + 1)

    def expected(prompt: str) -> float:
        return asked.tier.price(estimate_tokens(prompt), asked.assumed_completion_tokens)

    return LiveTeacher(asked.name, ask, expected, worst)


def _lesson(asked: Any, reply: Any, message: Any) -> Lesson:
    from langchain_core.outputs import ChatGeneration, ChatResult

    from exporters.students.teacher import Lesson
    from routenlp_integrations.langchain.messages import answer_of
    from router_core.router import estimate_tokens

    answer = answer_of(ChatResult(generations=[ChatGeneration(message=reply)]), [message])
    if not answer.text.strip():
        raise TierError(f"{asked.name} gave an empty answer")
    sent = answer.prompt_tokens if answer.prompt_tokens is not None else estimate_tokens(message.content)
    got = answer.completion_tokens if answer.completion_tokens is not None else asked.max_tokens
    return Lesson(answer.text, asked.tier.price(sent, got))
