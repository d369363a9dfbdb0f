"""The documentation says what is true: every Python snippet of a page runs, in order, as one program."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
_FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the pages are in the checkout, not in the wheel")


def snippets(page: Path) -> str:
    """The Python of a page as one program whose line numbers are the page's."""
    text = page.read_text(encoding="utf-8")
    program = ["" for _ in text.splitlines()]
    for found in _FENCE.finditer(text):
        first = text[: found.start(1)].count("\n")
        for offset, line in enumerate(found.group(1).splitlines()):
            program[first + offset] = line
    return "\n".join(program)


def test_the_langchain_page_runs(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each snippet runs with scripted models for `small`, `medium` and `large`, and routes as the page says."""
    pytest.importorskip("langchain")
    pytest.importorskip("sqlalchemy")
    from bundles import SURE, TIERS
    from scripted import ScriptedModel

    shutil.copytree(small_bundle, tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    names = {name: ScriptedModel(model_name=f"{name}-1", reply=SURE.format("good")) for name in TIERS}
    told: dict[str, object] = dict(names)
    page = ROOT / "docs" / "langchain.md"
    exec(compile(snippets(page), str(page), "exec"), told)  # noqa: S102 - our own page
    assert told["route"]["tier"] in TIERS  # type: ignore[index]
    assert capsys.readouterr().out.strip(), "the stream printed nothing"
    assert told["ledger"].close()  # type: ignore[attr-defined]
    assert told["followed"].releases.get().bundle_id == told["route"]["bundle"]  # type: ignore[attr-defined, index]
    asked = told["with_tools"].invoke("What is the weather in Rome?", config={"configurable": {"task": "mood"}})  # type: ignore[attr-defined]
    assert asked.response_metadata["routenlp"]["tier"] == "large"


def test_the_llama_index_llm_page_runs(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each snippet runs with scripted LLMs for `small`, `medium` and `large`, and routes as the page says."""
    pytest.importorskip("llama_index.core")
    pytest.importorskip("sqlalchemy")
    from bundles import SURE, TIERS
    from llama_index.core import Settings
    from llama_index.core.instrumentation import get_dispatcher
    from scripted_llm import ScriptedLLM, route_of

    shutil.copytree(small_bundle, tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Settings, "_llm", None)
    root = get_dispatcher()
    monkeypatch.setattr(root, "event_handlers", list(root.event_handlers))
    told: dict[str, Any] = {name: ScriptedLLM(model=f"{name}-1", reply=SURE.format("good")) for name in TIERS}
    page = ROOT / "docs" / "llama_index_llm.md"
    exec(compile(snippets(page), str(page), "exec"), told)  # noqa: S102 - our own page
    assert told["route"]["tier"] in TIERS
    assert Settings.llm is told["llm"]
    assert "The answer is good." in capsys.readouterr().out
    assert route_of(told["called"])["tier"] == "large"
    assert told["spent"][0][0] in TIERS
    assert str(told["answer"]) == "The answer is good."
    assert told["ledger"].close()
    assert told["followed"].releases.get().bundle_id == told["route"]["bundle"]


def test_the_llama_index_engine_page_runs(company: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each snippet runs over the tests' index, and the group routes as the page says."""
    pytest.importorskip("sqlalchemy")
    from engines import ScriptedEngine, ScriptedSelector, local_embedding

    from routenlp_integrations.notebook.company import QUESTIONS, contains
    from routenlp_integrations.notebook.engines import PRICES, ReadingLLM, company_engines, company_index

    shutil.copytree(company / "bundle", tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    found = company_engines(company_index(local_embedding()))
    told: dict[str, Any] = {
        "cheap": found["docs_cheap"],
        "dear": found["docs_dear"],
        "news": ScriptedEngine("no news"),
        "selector": ScriptedSelector(1),
        "llm": ReadingLLM(),
        "questions": {one.text: one.gold for one in QUESTIONS[::3]},
        "grade": contains,
        "prices": PRICES,
    }
    page = ROOT / "docs" / "llama_index_engine.md"
    exec(compile(snippets(page), str(page), "exec"), told)  # noqa: S102 - our own page
    assert told["route"]["tier"] in PRICES.names
    assert told["ledger"].close()
    assert (tmp_path / "mine" / "manifest.json").is_file()


def test_the_selector_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each snippet runs with three small tools and a fallback that takes the first it is offered."""
    pytest.importorskip("llama_index.core")
    from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
    from llama_index.core.tools.types import ToolMetadata

    class First(BaseSelector):
        def _get_prompts(self) -> dict[str, object]:
            return {}

        def _update_prompts(self, prompts: object) -> None:
            pass

        def _select(self, choices: object, query: object) -> SelectorResult:
            return SelectorResult(selections=[SingleSelection(index=0, reason="the first")])

        async def _aselect(self, choices: object, query: object) -> SelectorResult:
            return self._select(choices, query)

    words = {
        "fruit": ("apple", "orchard", "juice"),
        "ships": ("ship", "harbour", "sailor"),
        "stars": ("star", "comet", "moon"),
    }
    told: dict[str, object] = {
        "choices": [ToolMetadata(name=name, description=f"About {', '.join(one)}.") for name, one in words.items()],
        "labelled": [
            (f"{frame} the {word} {number}", name)
            for name, some in words.items() for word in some for number in range(4)
            for frame in ("who has seen", "what of", "where is")
        ],
        "llm_selector": First(),
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "llama_index_selector.md"
    exec(compile(snippets(page), str(page), "exec"), told)  # noqa: S102 - our own page
    assert told["result"].ind == 1  # type: ignore[attr-defined]
    assert "Void" in capsys.readouterr().out


def test_the_watch_page_runs(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each snippet runs with scripted models, and the watch reads the audit of a query answered before."""
    pytest.importorskip("langchain")
    pytest.importorskip("sqlalchemy")
    from bundles import SURE, TIERS
    from ledgers import accepted
    from scripted import ScriptedModel

    from router_core.audits import AuditDecision
    from router_core.bundle import Bundle
    from router_core.ledger import Ledger

    shutil.copytree(small_bundle, tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    served = replace(accepted(), bundle=Bundle.load("bundle").id)
    with Ledger("sqlite:///routes.db") as earlier:
        earlier.append(served, text="hello", reference="large", audit=AuditDecision("a1", True, 0.05))
        earlier.audited("a1", (), position=1, quality={}, value=1.0, text=None)
    told: dict[str, Any] = {name: ScriptedModel(model_name=f"{name}-1", reply=SURE.format("good")) for name in TIERS}
    page = ROOT / "docs" / "watch.md"
    exec(compile(snippets(page), str(page), "exec"), told)  # noqa: S102 - our own page
    assert told["answer"].response_metadata["routenlp"]["tier"] in TIERS
    read = {(v.stream.shown.scope, v.stream.shown.policy): v for v in told["verdicts"]}["mood", "cascade"]
    assert (read.verdict, len(read.stream.bad)) == ("fine", 1)
    assert 0 <= told["tighter"].step < told["policy"].step
    assert told["router"].policies[told["key"]].step == told["tighter"].step
    hard, easy = told["found"].steps
    assert 0 < hard <= easy < 40
    assert "unweighted items" in capsys.readouterr().out
    assert told["ledger"].close()
