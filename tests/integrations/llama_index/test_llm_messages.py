"""What is read of responses, in the shapes that providers give them; what is missing without the extra."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, LogProb, MessageRole

from routenlp_integrations.llama_index.calls import Call
from routenlp_integrations.llama_index.messages import answer_of, content_departure, model_name_of

CALL = Call([ChatMessage(role=MessageRole.USER, content="x" * 40)], "", False, {})


def chatted(text: str = "good", raw: Any = None, told: dict[str, Any] | None = None, **message: Any) -> ChatResponse:
    """A response."""
    said = ChatMessage(role=MessageRole.ASSISTANT, content=text, additional_kwargs=message)
    return ChatResponse(message=said, raw=raw, additional_kwargs=told or {})


@pytest.mark.parametrize(
    "response",
    [
        chatted(raw={"usage": {"prompt_tokens": 7, "completion_tokens": 2}}),
        chatted(raw=SimpleNamespace(usage=SimpleNamespace(prompt_tokens=7, completion_tokens=2))),
        chatted(raw={"usage": {"input_tokens": 7, "output_tokens": 2}}),
        chatted(raw={"usage_metadata": {"prompt_token_count": 7, "candidates_token_count": 2}}),
        chatted(raw={"prompt_eval_count": 7, "eval_count": 2}),
        chatted(told={"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}),
        CompletionResponse(text="good", additional_kwargs={"prompt_tokens": 7, "completion_tokens": 2}),
    ],
)
def test_usage(response: Any) -> None:
    """OpenAI's, Anthropic's, Google's and Ollama's counts, in mappings and objects."""
    answer = answer_of(response, CALL)
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == ("good", 7, 2)


def test_no_usage() -> None:
    """The prompt is estimated over the whole conversation, the answer by the router."""
    for raw in (None, {}, {"usage": None}, "text", 3, SimpleNamespace(usage=None)):
        answer = answer_of(chatted(raw=raw), CALL)
        assert (answer.prompt_tokens, answer.completion_tokens) == (10, None)


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (chatted(raw={"choices": [{"finish_reason": "content_filter"}]}), "filtered"),
        (chatted(raw=SimpleNamespace(choices=[SimpleNamespace(finish_reason="content_filter")])), "filtered"),
        (chatted(raw={"stop_reason": "refusal"}), "filtered"),
        (chatted(told={"finish_reason": SimpleNamespace(name="SAFETY")}), "filtered"),
        (chatted(raw={"choices": [{"message": {"refusal": "I must not."}}]}), "refused"),
        (chatted(refusal="I must not."), "refused"),
        (chatted(tool_calls=[{"id": "1"}]), "tool calls"),
        (chatted(raw={"choices": [{"finish_reason": "stop"}]}), ""),
        (chatted(tool_calls=[]), ""),
    ],
)
def test_what_is_not_covered(response: Any, why: str) -> None:
    """Filtered and refused answers, and tool calls unasked, are answers of a kind that calib did not have."""
    covered = answer_of(response, CALL).covered
    assert why in covered
    assert bool(covered) == bool(why)


def test_signals_and_log_probabilities() -> None:
    """The first of every token's log-probabilities, and the numbers a tier gives; what is no finite number is none."""
    told = {"signals": {"own_confidence": 0.5, "nan": float("nan"), "text": "x"}}
    tokens = [[LogProb(logprob=-1.0), LogProb(logprob=-9.0)], [], [LogProb(logprob=-3.0)]]
    response = chatted(told=told).model_copy(update={"logprobs": tokens})
    assert answer_of(response, CALL).signals == {"mean_logprob": -2.0, "own_confidence": 0.5}


def test_the_models_name() -> None:
    """As the provider gives it, in a mapping or an object."""
    assert model_name_of(chatted(raw=SimpleNamespace(model="m-1"))) == "m-1"
    assert model_name_of(chatted(raw={"model": "m-1"}, told={"model_name": "m-2"})) == "m-2"
    assert model_name_of(chatted(raw={"model": 3})) is None
    assert model_name_of(CompletionResponse(text="")) is None


def test_plain_conversations_are_no_departure() -> None:
    """Text, of any role but a tool's."""
    roles = (MessageRole.SYSTEM, MessageRole.DEVELOPER, MessageRole.USER, MessageRole.ASSISTANT, MessageRole.CHATBOT)
    said = [ChatMessage(role=role, content="x") for role in roles]
    assert content_departure(said) == content_departure(None) == ""
    assert content_departure([ChatMessage(role=MessageRole.FUNCTION, content="x")]) != ""
    call = Call(said, "", False, {})
    assert [role for role, _ in call.said] == ["system", "system", "human", "ai", "ai"]


def test_the_extra_is_named() -> None:
    """Without LlamaIndex the error is one line that names the install."""
    code = (
        "import sys; sys.modules['llama_index'] = None\n"
        "import routenlp_integrations.llama_index as face\n"
        "for name in face.__all__:\n"
        "    try: getattr(face, name)\n"
        "    except ImportError as error: print(type(error).__name__, name in str(error), str(error))\n"
        "try: face.nothing\n"
        "except AttributeError: print('none')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)  # noqa: S603
    *told, last = done.stdout.splitlines()
    assert len(told) >= 3
    assert all(line.startswith("MissingExtraError True routenlp[llama-index] is needed") for line in told)
    assert last == "none"
