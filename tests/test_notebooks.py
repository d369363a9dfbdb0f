"""The notebooks run from a clean kernel, and what is committed of them is what comes out."""

from __future__ import annotations

import base64
import copy
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
NAMES = sorted(path.name for path in FOLDER.glob("*.ipynb"))
_BANNED = ("<script", "http://", "https://", "Traceback", "Warning", "/tmp/", "/home/", "/work/")  # noqa: S108

pytestmark = pytest.mark.skipif(not NAMES, reason="the notebooks are in the checkout, not in the wheel")


@pytest.fixture(scope="module")
def execute() -> ModuleType:
    """The script that runs notebooks."""
    pytest.importorskip("nbclient")
    spec = importlib.util.spec_from_file_location("notebooks_execute", FOLDER / "execute.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _committed(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def _outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook["cells"] for output in cell.get("outputs", ())]


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_and_says_what_is_committed(name: str, tmp_path: Path, execute: ModuleType) -> None:
    """Every cell runs in a clean kernel, and each text and number is the committed one."""
    import nbformat

    command = [sys.executable, str(FOLDER / "execute.py"), "--to", str(tmp_path), name]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)  # noqa: S603
    assert done.returncode == 0, done.stderr[-4000:]
    fresh = nbformat.read(tmp_path / name, as_version=4)
    assert execute.differences(execute.read(name), fresh) == []
    for mutant in ("a word", "a number"):
        changed = copy.deepcopy(fresh)
        for output in _outputs(changed):
            told = output.get("data", {})
            if "text/html" in told:
                told["text/html"] += mutant if mutant == "a word" else ""
                told["text/html"] = re.sub(r">(\d+)<", r">9\1<", told["text/html"])
        assert execute.differences(execute.read(name), changed), f"{mutant} was changed and nobody noticed"


@pytest.mark.parametrize("name", NAMES)
def test_committed_outputs_are_whole_clean_and_end_in_a_picture(name: str) -> None:
    """Every cell was run in order; nothing of a machine, no warning, nothing from outside; last comes a picture."""
    notebook = _committed(name)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert all(cell["metadata"] == {} for cell in notebook["cells"])
    for output in _outputs(notebook):
        assert output["output_type"] in ("stream", "execute_result", "display_data")
        assert output.get("name", "stdout") == "stdout"
        shown = {
            kind: "".join(text) for kind, text in output.get("data", {"text/plain": output.get("text", "")}).items()
        }
        for kind, text in shown.items():
            assert kind == "image/png" or not [word for word in _BANNED if word in text], text[:300]
    pictures = [output["data"]["image/png"] for output in code[-1]["outputs"] if "image/png" in output.get("data", {})]
    assert pictures, "the last cell shows no picture"
    for picture in pictures:
        png = base64.b64decode("".join(picture))
        width, colours = int.from_bytes(png[16:20], "big"), png[25]
        assert width <= 1100
        assert colours == 6, "the picture has no transparent ground"


def test_the_selector_covers_what_its_notebook_promises() -> None:
    """The right source is in the sets as often as the statement above them says, up to the luck of one split."""
    from scipy.stats import binom

    shown = ["".join(told.get("data", {}).get("text/html", "")) for told in _outputs(_committed("03_llamaindex.ipynb"))]
    promised = next(
        float(found[1]) for html in shown if (found := re.search(r"right choice in the set\) &gt;= ([.\d]+)", html))
    )
    table = next(html for html in shown if "right one in the set" in html)
    rows = re.findall(r">(?:one source|several|empty)</td><td[^>]*>(\d+)</td><td[^>]*>(\d+)<", table)
    asked, covered = (sum(int(row[at]) for row in rows) for at in (0, 1))
    assert len(rows) == 3
    assert binom.cdf(covered, asked, promised) > 0.01
    assert binom.cdf(99, 128, promised) < 0.01, "what it was while the questions at the end were mixed otherwise"


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_short(name: str) -> None:
    """Code in cells is for reading; what is long belongs into the package."""
    for cell in _committed(name)["cells"]:
        if cell["cell_type"] == "code":
            assert len("".join(cell["source"]).splitlines()) <= 25
