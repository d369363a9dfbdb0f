"""What a query engine's answer says of itself: its text, its tokens, and signals of the nodes it was made from.

One pure function, `answer_of`, reads an answer for the records, for the certificate and for serving alike.
"""

import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from llama_index.core.base.response.schema import RESPONSE_TYPE, PydanticResponse, Response
from llama_index.core.schema import MetadataMode, NodeWithScore

from router_core.route import Answer
from router_core.router import estimate_tokens

__all__ = [
    "EMPTY_RESPONSE",
    "ROUTE_KEY",
    "Price",
    "answer_of",
    "inner_route",
    "model_name_of",
    "signals_of",
    "text_of",
]

EMPTY_RESPONSE = "Empty Response"
"""What LlamaIndex's synthesizers say when there was nothing to answer from; read as no answer."""

ROUTE_KEY = "routenlp"
"""Where in the metadata of a response its route stands."""

Price = Callable[[str, Response], float | None]
"""(tool name, response) -> US dollars of the attempt, None where it cannot tell; a stream comes as a whole."""

_WORD = re.compile(r"\w+")
_USAGE = (
    ("prompt_tokens", "input_tokens", "prompt_token_count"),
    ("completion_tokens", "output_tokens", "candidates_token_count"),
)


def text_of(response: RESPONSE_TYPE) -> str:
    """The text of an answer that is there as a whole, ``""`` for none and for LlamaIndex's "Empty Response"."""
    if isinstance(response, PydanticResponse):
        text = "" if response.response is None else str(response)
    else:
        text = (response.response if isinstance(response, Response) else response.response_txt) or ""
    return "" if text.strip() == EMPTY_RESPONSE else text


def signals_of(
    question: str,
    text: str,
    nodes: list[NodeWithScore],
    metadata: Mapping[str, Any] | None = None,
    contents: Sequence[str] | None = None,
) -> dict[str, float]:
    """Numbers that come with an answer made from retrieved nodes.

    Parameters
    ----------
    question
        The query.
    text
        The answer.
    nodes
        What it was made from.
    metadata
        The response's; finite numbers under ``"signals"`` are taken as they are.
    contents
        What an LLM reads of every node, where that is known already.

    Returns
    -------
    dict
        ``retrieval_score``: score of the best node; ``retrieval_margin``: how far it is ahead of the second (0 with
        one); ``groundedness``: share of the answer's words, those of the question left out, that stand in the nodes.
        All are 0 where nothing was retrieved; the scores are left out where nodes have none.
    """
    told: dict[str, float] = {}
    scores = sorted((float(node.score) for node in nodes if node.score is not None), reverse=True)
    if scores or not nodes:
        told["retrieval_score"] = scores[0] if scores else 0.0
        told["retrieval_margin"] = scores[0] - scores[1] if len(scores) > 1 else 0.0
    told["groundedness"] = _groundedness(question, text, _contents(nodes) if contents is None else contents)
    given = _own(metadata, nodes, "signals")
    if isinstance(given, Mapping):
        told |= {str(name): float(value) for name, value in given.items() if isinstance(value, int | float)}
    return {name: value for name, value in told.items() if math.isfinite(value)}


def _own(metadata: Mapping[str, Any] | None, nodes: list[NodeWithScore], name: str) -> Any:
    """What a response says of itself; its metadata also holds that of its nodes, by their ids."""
    if not metadata or name not in metadata or any(node.node.node_id == name for node in nodes):
        return None
    return metadata[name]


def _contents(nodes: list[NodeWithScore]) -> list[str]:
    return [node.get_content(MetadataMode.LLM) for node in nodes]


def _groundedness(question: str, text: str, contents: Sequence[str]) -> float:
    said = set(_WORD.findall(text.lower()))
    new = said - set(_WORD.findall(question.lower())) or said
    if not new or not contents:
        return 0.0
    missing = new
    for content in contents:
        missing = missing - _read(content)[0]
    return (len(new) - len(missing)) / len(new)


@lru_cache(maxsize=512)
def _read(content: str) -> tuple[frozenset[str], int]:
    """Words and tokens of a node, kept: the same ones are retrieved again and again, and by every engine of a group."""
    return frozenset(_WORD.findall(content.lower())), estimate_tokens(content)


def model_name_of(response: RESPONSE_TYPE) -> str | None:
    """Name of the model as an engine gives it, under ``"model_name"`` or ``"model"`` of the metadata; None if not.

    LlamaIndex's own synthesizers drop what their LLM said beside its text, so that their responses name no model.
    """
    for name in ("model_name", "model"):
        told = _own(response.metadata, response.source_nodes or [], name)
        if isinstance(told, str) and told:
            return told
    return None


def inner_route(response: RESPONSE_TYPE) -> dict[str, Any] | None:
    """The route that a response already has: of an engine that is a `RouterQueryEngine` with groups of its own."""
    found = _own(response.metadata, response.source_nodes or [], ROUTE_KEY)
    return found if isinstance(found, dict) and "attempts" in found else None


def answer_of(name: str, question: str, response: RESPONSE_TYPE, text: str, price: Price | None = None) -> Answer:
    """Read one answer.

    Tokens come from ``metadata["usage"]`` under the names providers use. Where the engine does not tell, the prompt is
    estimated as the question and the nodes it was answered from, at four UTF-8 bytes a token. An engine that routed the
    query itself cost what its route did.

    Parameters
    ----------
    name
        Name of the engine's tool.
    question
        The query.
    response
        What the engine returned; kept as ``raw``.
    text
        From `text_of`, or what a stream said.
    price
        The caller's own price of an attempt; one that fails is warned of.
    """
    metadata = response.metadata or {}
    nodes = response.source_nodes or []
    contents = _contents(nodes)
    cost = _priced(price, name, Response(text, nodes, metadata))
    if cost is None and (inner := inner_route(response)) is not None:
        cost = inner["cost_usd"]
    sent, received = _tokens(metadata.get("usage"))
    if sent is None:
        sent = estimate_tokens(question) + sum(_read(content)[1] for content in contents)
    return Answer(
        text,
        prompt_tokens=sent,
        completion_tokens=received,
        cost_usd=cost,
        signals=signals_of(question, text, nodes, metadata, contents),
        raw=response,
    )


def _priced(price: Price | None, name: str, response: Response) -> float | None:
    """The caller's price; None, with a warning, where it fails, since the answer was given and paid for."""
    if price is None:
        return None
    try:
        told = price(name, response)
        return None if told is None else float(told)
    except Exception as error:  # whatever the caller's function raises
        what = f"the price of an attempt of {name!r} cannot be told ({type(error).__name__}: {error})"
        warnings.warn(f"{what}; it is estimated instead", stacklevel=2)
        return None


def _tokens(usage: Any) -> tuple[int | None, int | None]:
    """Prompt and completion tokens that an engine tells, None where it does not."""
    if usage is None or not isinstance(usage, Mapping):
        return None, None
    found = [next((usage[name] for name in names if isinstance(usage.get(name), int)), None) for names in _USAGE]
    return found[0], found[1]
