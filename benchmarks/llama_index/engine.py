"""What `RouterQueryEngine` costs over LlamaIndex's own with the same selector; one run, medians, in turn.

    python benchmarks/llama_index/engine.py [--out engine.json]

Two comparisons. *Drop-in*: no `cascades`, engines that answer at once, so that what is left is the router itself.
*Group*: the tests' index (forty documents, a retriever, LlamaIndex's synthesizer over an LLM that answers at once);
LlamaIndex's router is given the engine that ours ends up serving, so that what is left is the decision, the judgement
and the route. Questions are those that ours serves after one attempt. The encoder is the static one; `ROUTENLP_MINILM`
(the folder that ``make test-train`` writes) puts MiniLM behind the retriever instead of rare words.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from engines import ScriptedEngine, ScriptedSelector, local_embedding, record_company, tool
from llama_index.core.query_engine import RouterQueryEngine as Theirs

from routenlp_integrations.llama_index import RouterQueryEngine as Ours
from routenlp_integrations.notebook.company import QUESTIONS
from routenlp_integrations.notebook.engines import ReadingLLM, company_engines, company_index
from router_core.bench import machine

ROUNDS = 20
CONCURRENT = 64


def milliseconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3


def in_turn(pairs: list[tuple[Callable[[], object], Callable[[], object]]]) -> dict[str, Any]:
    """Medians of theirs and ours over all pairs and rounds, and the median of the differences of neighbours."""
    times: list[tuple[float, float]] = []
    for number in range(ROUNDS + 2):
        for theirs, ours in pairs:
            first, second = (theirs, ours) if number % 2 else (ours, theirs)
            one, two = milliseconds(first), milliseconds(second)
            if number >= 2:
                times.append((one, two) if number % 2 else (two, one))
    found = np.array(times)
    theirs_ms, ours_ms = np.median(found, axis=0)
    over = float(np.median(found[:, 1] - found[:, 0]))
    return {"theirs_ms": float(theirs_ms), "ours_ms": float(ours_ms), "over_ms": over, "over": over / float(theirs_ms)}


def drop_in() -> dict[str, Any]:
    """Both classes without groups."""
    tools = [tool("a", ScriptedEngine()), tool("b", ScriptedEngine())]
    theirs, ours = (kind(ScriptedSelector(0), tools, llm=ReadingLLM()) for kind in (Theirs, Ours))
    return in_turn([(lambda: theirs.query("q"), lambda: ours.query("q"))] * 20)


def group(folder: Path) -> dict[str, Any]:
    """LlamaIndex's router over the engine that ours serves, and ours over the group."""
    record_company(folder)
    found = company_engines(company_index(local_embedding()))
    tools = {name: tool(name, one) for name, one in found.items()}
    llm = ReadingLLM()
    theirs = {name: Theirs(ScriptedSelector(0), [one], llm=llm) for name, one in tools.items()}
    cascades = {"docs": list(tools)}
    ours = Ours(ScriptedSelector(0), list(tools.values()), llm=llm, cascades=cascades, bundle=folder / "bundle")
    pairs: dict[str, list[Any]] = {name: [] for name in tools}
    for one in QUESTIONS:
        route = ours.query(one.text).metadata["routenlp"]
        if len(route["attempts"]) == 1 and len(pairs[route["tier"]]) < 20:
            same = theirs[route["tier"]]
            pairs[route["tier"]].append((lambda q=one.text, e=same: e.query(q), lambda q=one.text: ours.query(q)))
    told: dict[str, Any] = {f"{name} serves": in_turn(some) for name, some in pairs.items()}
    texts = [one.text for one in QUESTIONS[:CONCURRENT]]

    def all_at_once(engine: Any) -> Callable[[], object]:
        async def ask() -> object:
            return await asyncio.gather(*(engine.aquery(text) for text in texts))

        return lambda: asyncio.run(ask())

    dear = theirs["docs_dear"]
    times = [(milliseconds(all_at_once(dear)), milliseconds(all_at_once(ours))) for _ in range(5)]
    told[f"{CONCURRENT} at once, ms"] = dict(
        zip(("theirs, dear engine", "ours"), np.median(times, axis=0), strict=True)
    )
    return told


def main() -> None:
    """Measure, print, and write where asked."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--out", type=Path)
    asked = words.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "machine": machine(),
            "retriever": type(local_embedding()).__name__,
            "drop-in": drop_in(),
            "group": group(Path(folder)),
        }
    text = json.dumps(results, indent=1)
    print(text)
    if asked.out is not None:
        asked.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
