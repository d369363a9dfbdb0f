"""`StudentChatModel`: a distilled checkpoint as a LangChain chat model."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams, ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from routenlp_integrations.langchain.messages import turns
from routenlp_integrations.langchain.task_config import TASK, TaskChatModel
from routenlp_integrations.student import FINGERPRINT, StudentModel, refuse
from router_core.errors import InputError
from router_core.route_text import last_turn

__all__ = ["StudentChatModel"]

_UNABLE = ("tools", "functions", "response_format", "json_schema")
_TEXT = frozenset({"text", "text-plain"})


class StudentChatModel(StudentModel, TaskChatModel):
    """Answers with a cheap tier that was trained by distillation; no torch, no network, no key.

    The student reads the last human turn, as prompts stand in the records. Its answer comes with
    ``response_metadata``: ``model_name`` (``routenlp-student/<tier>@<12 digits of the fingerprint>``),
    ``finish_reason`` and ``signals``: ``own_confidence``, P(the answer is right), and ``template_matched``, whether the
    prompt had the form it was trained on. Behind `RoutingChatModel` the signals are evidence. ``usage_metadata`` counts
    tokens by the student's tokenizer.

    Where the tier has one student per task, the task of a query is ``configurable["task"]``, or `task`; behind
    `RoutingChatModel` it is the task of the routed query. Without a student for it the call raises InputError, and a
    router goes on to the reference tier.

    It cannot call tools or follow a schema: `bind_tools` and `with_structured_output` raise NotImplementedError, as do
    calls that ask for either. Its profile states no ``max_input_tokens``: it takes texts of any length and reads head
    and tail of long ones. A stream is one chunk. `batch` answers as `invoke` does, on threads.

    Parameters
    ----------
    root
        Folder of a checkpoint, or a release ROOT.
    tier
        Which of a ROOT's tiers.
    task
        Task of every call that does not name one.
    watch
        Serve the release that is current when a query comes, looked up at most once a second and loaded in the
        background. A query has one release from start to end, behind `RoutingChatModel` its router's. By default a
        ROOT is watched.
    temperature, max_tokens, timeout, stop, max_retries
        Accepted as LangChain's standard parameters, and ignored: the answers are fixed texts, given in milliseconds.

    Raises
    ------
    BundleError
        When there is no such checkpoint, or it is damaged, newer than this version, or another tier's.

    Examples
    --------
    >>> model = StudentChatModel("releases-of-mine", tier="small")  # doctest: +SKIP
    >>> model.invoke("I hate this lamp.").content  # doctest: +SKIP
    'bad'
    """

    temperature: float | None = None
    max_tokens: int | None = None
    timeout: float | None = None
    stop: list[str] | None = None
    max_retries: int | None = None

    # What it is

    @property
    def _llm_type(self) -> str:
        return "routenlp-student"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        student = self._source.get()
        return {"model_name": student.name, "fingerprint": student.fingerprint}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "routenlp"
        params.setdefault("ls_model_name", self._source.get().name)
        return params

    def _resolve_model_profile(self) -> ModelProfile:
        return ModelProfile(
            text_inputs=True,
            image_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            text_outputs=True,
            reasoning_output=False,
            tool_calling=False,
            structured_output=False,
            temperature=False,
        )

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Serialised as its folder, tier and parameters; reading it back loads the checkpoint found there."""
        return True

    # What it cannot do

    def with_structured_output(self, schema: Any, **kwargs: Any) -> Any:
        """Refuse: the labels a student answers with are those it was trained on.

        Raises
        ------
        NotImplementedError
            Always.
        """
        msg = "a student answers with what it was trained to say, not by a schema; ask another tier for it"
        raise NotImplementedError(msg)

    # One query

    def _prompt(self, messages: Sequence[BaseMessage], params: Mapping[str, Any]) -> str:
        refuse(params, _UNABLE)
        last = next((message for message in reversed(messages) if message.type == "human"), None)
        for block in last.content if last is not None and isinstance(last.content, list) else ():
            if isinstance(block, dict) and block.get("type") not in _TEXT:
                msg = f"a student reads text only, and the query holds {block.get('type')!r} content"
                raise InputError(msg)
        return last_turn(turns(messages))

    def _answer(self, messages: list[BaseMessage], params: Mapping[str, Any]) -> dict[str, Any]:
        """Answer, as the fields of a message."""
        students = self._source.get(params.get(FINGERPRINT))
        found = students.answer(self._prompt(messages, params), params.get(TASK) or self.task)
        sent, received = found.prompt_tokens, found.completion_tokens
        return {
            "content": found.text,
            "usage_metadata": UsageMetadata(input_tokens=sent, output_tokens=received, total_tokens=sent + received),
            "response_metadata": {
                "model_name": students.name,
                "model_provider": "routenlp",
                "finish_reason": "stop",
                "signals": dict(found.signals),
            },
        }

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(**self._answer(messages, kwargs)))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        message = AIMessageChunk(**self._answer(messages, kwargs), chunk_position="last")
        yield ChatGenerationChunk(message=message)
