"""`RoutingLLM`: a certified router that is a LlamaIndex LLM."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
)
from llama_index.core.instrumentation.span import active_span_id
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback

from routenlp_integrations.llama_index import calls
from routenlp_integrations.llama_index.calls import Asked
from routenlp_integrations.llama_index.toolcalling import ToolCallingLLM

__all__ = ["RoutingLLM"]


class RoutingLLM(ToolCallingLLM):
    """Sends every query to the cheapest LLM that was shown, at a named risk, to answer as well as the last one.

    Make it with `from_bundle`. `chat` and `complete` follow the bundle's ``cascade`` policy: a cheap tier answers, its
    answer is judged, and it is served or the next tier is asked. A stream follows the ``route_only`` policy, whose tier
    is chosen before anything is generated, unless `stream_policy` says otherwise. A chat reaches every tier as its
    messages, a completion as its prompt.

    What `predict`, structured output and query engines make of a template is made for every tier by its own
    `system_prompt`, `query_wrapper_prompt`, `messages_to_prompt` and `completion_to_prompt`, as if it stood alone; one
    that is given here takes the place of the tiers'. An `output_parser` or `pydantic_program_mode` that all tiers have
    is taken over; where they differ, one must be given here. The router sees the query without any of it.

    The answer is the answering tier's own response, `raw` and usage included, and
    ``response.additional_kwargs["routenlp"]`` holds the route: ``tier``, ``attempts`` (each with ``tier``,
    ``confidence``, ``cost_usd``, ``accepted``, ``reason``), ``cost_usd`` of all attempts in US dollars, ``task``,
    ``bundle``, ``certificate`` (None when nothing was shown) and ``reason``. In a stream it is on the last chunk. Where
    responses do not get out, as in query engines, the same is in a `RoutingDecisionEvent`.

    A query is one LLM event for callback handlers, so that tokens are counted once. Instrumentation sees its attempts
    as spans of the tiers below its own, tagged ``routenlp.attempt``.

    A tier that cannot serve a call (tools, context length: from its metadata or from `capabilities`) is no candidate.
    Calls of a kind that calib did not have (tools, structured output, images) go straight to the reference tier, where
    a joint risk stays certified, or are routed `uncalibrated`. A cheap tier that fails, returns nothing, or answers
    with tool calls unasked is treated alike.

    ``chat(..., task="t", tier="large", conversation="c")`` names the task of one call, forces a tier and names the
    conversation; ``with RoutingLLM.asking(task="t"):`` does it for every call in a block, such as those of a query
    engine. A forced tier before the reference has no certificate. Other arguments go to the tiers as they are; with one
    that is not known to be harmless (``user``, ``metadata``, ``extra_headers`` and the like are), a cheap answer has no
    certificate either. What of a conversation is routed says `router_core.route_text.route_text`; certificates are
    about traffic like the records.

    Parameters
    ----------
    bundle
        Folder of a bundle or a release ROOT, read when no `router` is given.
    router
        A loaded router.
    releases
        A `RouterSource` (`Router.watch`) in its place: every query takes the current release's router once, and
        `StudentLLM` tiers answer it with the students of that release. Made by itself for a ROOT.
    watch
        Follow the releases of a ROOT; False stays with the one that is current now.
    tiers
        For every tier of the portfolio an LLM.
    task
        Task of every call that does not name one, ``"task"`` or ``"task/subtask"``. None is the only task, or any.
    stream_policy
        ``"route"``: choose the tier first, then stream its chunks as they come. ``"buffer"``: judge cheap answers
        before showing them. ``"auto"``: ``"route"``, but ``"buffer"`` where only the cascade was certified.
    capabilities
        ``{tier: {capability: value}}`` over what the tier's own metadata states: ``is_function_calling_model``,
        ``context_window``, ``image_inputs``, ``audio_inputs``, ``video_inputs``, ``document_inputs``.
    is_function_calling_model
        What `metadata` says; None is whether every tier is one. True lets agents call tools where only some tiers can.
    uncalibrated
        Where calls of a kind that calib did not have go: to the ``"reference"`` tier, or through the ``"cascade"``,
        uncertified, where an answer that does not fit its schema is escalated. Tools and structured output are
        covered like any query where the records of the scope had the signal ``schema_valid``.
    on_failure
        Where a query goes when a cheap tier fails or cannot serve it: ``"reference"``, or ``"next"``, which is
        uncertified.
    on_reference_failure
        ``"raise"``, or serve the ``"best"`` cheap answer so far, uncertified. A tier that fails after something of
        its stream was shown always raises `TierError`.
    timeout
        Seconds that one attempt may take, one number or ``{tier: seconds}``; in a stream, until something is shown.
        An attempt that takes longer is a failure of its tier; a synchronous call goes on in a thread, its answer
        dropped.
    max_retries
        How often a tier is called again after a time-out, a broken connection, 429 or 5xx; ``Retry-After`` is
        honoured. None by default, since providers' clients retry themselves.
    breaker
        A `Breaker` that keeps queries from a tier that is down.
    budget
        A `Budget` per call, per run or per time window. A run is the ``conversation``, else the outermost `asking`
        block.
    sticky
        ``"conversation"`` or a `Sticky`: stay with the tier that answered a conversation last, because switching
        throws away the provider's prompt cache. A conversation is named by the call, else it is how it began.
    ledger
        A `Ledger`, or the URL of one, which is then kept without texts. Every finished query is appended, a stream
        that was left or broke after something was shown as far as it came; ``additional_kwargs["routenlp"]["id"]``
        names it for `Ledger.feedback`, as does the id of its `RoutingDecisionEvent`. Queries that raise before anything
        is shown are not kept. Appending never fails or delays an answer. A copy shares the ledger; a pickle opens it
        again by its URL, password included; `to_dict` leaves it out.
    audits
        An `AuditPlan`, carried out in the background with this LLM's own tiers, or an `Auditor` whose callables take
        the messages of a chat or the prompt of a completion. A copy spends from the same budget; a pickle keeps the
        plan.
    """

    @staticmethod
    def asking(
        *, task: str | None = None, tier: str | None = None, conversation: str | None = None
    ) -> AbstractContextManager[None]:
        """Name the task, force a tier or name the conversation of every call in a block; see `calls.asking`.

        Examples
        --------
        >>> with RoutingLLM.asking(task="mood"):  # doctest: +SKIP
        ...     engine.query("Was the film liked?")
        """
        return calls.asking(task=task, tier=tier, conversation=conversation)

    # LlamaIndex's entrances

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation; see `LLM.chat`."""
        asked, kwargs = Asked.taken(kwargs)
        return self._answer(self._call(messages, "", False, kwargs), asked)  # type: ignore[return-value]

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Complete a prompt; see `LLM.complete`."""
        asked, kwargs = Asked.taken(kwargs)
        return self._answer(self._call(None, prompt, formatted, kwargs), asked)  # type: ignore[return-value]

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation; see `LLM.achat`."""
        asked, kwargs = Asked.taken(kwargs)
        return await self._aanswer(self._call(messages, "", False, kwargs), asked)  # type: ignore[return-value]

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Complete a prompt; see `LLM.acomplete`."""
        asked, kwargs = Asked.taken(kwargs)
        return await self._aanswer(self._call(None, prompt, formatted, kwargs), asked)  # type: ignore[return-value]

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer a conversation chunk by chunk; see `LLM.stream_chat`."""
        asked, kwargs = Asked.taken(kwargs)
        query = self._begin(self._call(messages, "", False, kwargs), asked, None, active_span_id.get())
        return self._chunks(query)  # type: ignore[return-value]

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Complete a prompt chunk by chunk; see `LLM.stream_complete`."""
        asked, kwargs = Asked.taken(kwargs)
        query = self._begin(self._call(None, prompt, formatted, kwargs), asked, None, active_span_id.get())
        return self._chunks(query)  # type: ignore[return-value]

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Answer a conversation chunk by chunk; see `LLM.astream_chat`."""
        asked, kwargs = Asked.taken(kwargs)
        call = self._call(messages, "", False, kwargs)
        query = await self._aside(None, self._begin, call, asked, None, active_span_id.get())
        return self._achunks(query)  # type: ignore[return-value]

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """Complete a prompt chunk by chunk; see `LLM.astream_complete`."""
        asked, kwargs = Asked.taken(kwargs)
        call = self._call(None, prompt, formatted, kwargs)
        query = await self._aside(None, self._begin, call, asked, None, active_span_id.get())
        return self._achunks(query)  # type: ignore[return-value]
