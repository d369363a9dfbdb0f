"""Run every notebook from a clean kernel of this interpreter, and keep what came out.

    python notebooks/execute.py [--to FOLDER] [NAME.ipynb ...]

Each runs in an empty folder, so that nothing is left behind. It is written back, or into FOLDER, without times and
whatever else belongs to one run.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 600
_VOLATILE = (
    (re.compile(r"\b[0-9a-f]{12,64}\b"), "<id>"),
    (re.compile(r"\b0x[0-9a-f]+\b"), "<address>"),
    (re.compile(r"\b[\d.,]+ m?s\b"), "<time>"),
    (re.compile(r"width:[\d.]+em"), "<bar>"),
)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def names() -> list[str]:
    """The notebooks in reading order."""
    return sorted(path.name for path in HERE.glob("*.ipynb"))


def read(name: str) -> Any:
    """A notebook as committed."""
    return nbformat.read(HERE / name, as_version=4)


def run(notebook: Any) -> Any:
    """The notebook executed in a fresh kernel and an empty folder; raises nbclient's CellExecutionError on an error."""
    fresh = nbformat.from_dict(notebook)
    with tempfile.TemporaryDirectory() as folder:
        # A user's own IPython profile must not speak here.
        env = {**os.environ, "IPYTHONDIR": folder, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        place = Path(folder) / "place"
        place.mkdir()
        paths = {"metadata": {"path": str(place)}}
        client = NotebookClient(fresh, timeout=TIMEOUT_S, kernel_name="python3", resources=paths)
        # Pipes of the file system: nothing listens on a port.
        client.km = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{folder}/kernel")
        with client.setup_kernel(env=env):
            for index, cell in enumerate(fresh.cells):
                client.execute_cell(cell, index)
    return clean(fresh)


def clean(notebook: Any) -> Any:
    """Without execution times and whatever else belongs to one run or one machine."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    number = 0
    for index, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{index:02d}", nbformat.from_dict({})
        if cell.cell_type == "code":
            number += 1
            cell.execution_count = number
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = number
    return notebook


def told(notebook: Any) -> list[str]:
    """Every text the notebook put out, in order, with what may differ from run to run replaced."""
    return [_steady(text) for cell in notebook.cells for text in _texts(cell)]


def differences(committed: Any, fresh: Any) -> list[str]:
    """Where two runs of a notebook say different things: other words, or numbers more than 2 % apart.

    Another processor may round differently, which a fitted router can feel in its last digits.
    """
    before, after = told(committed), told(fresh)
    found = [] if len(before) == len(after) else [f"{len(before)} texts before, {len(after)} now"]
    for old, new in zip(before, after, strict=False):
        (words, values), (new_words, new_values) = _numbers(old), _numbers(new)
        close = (math.isclose(a, b, rel_tol=0.02, abs_tol=0.02) for a, b in zip(values, new_values, strict=False))
        if words != new_words or not all(close):
            found.append(f"before: {old}\nnow: {new}")
    return found


def _numbers(text: str) -> tuple[str, list[float]]:
    return _NUMBER.sub("#", text), [float(found.replace(",", "")) for found in _NUMBER.findall(text)]


def _texts(cell: Any) -> Iterator[str]:
    for output in cell.get("outputs", ()):
        if output.output_type == "stream":
            yield output.text
        else:
            yield from (text for kind, text in sorted(output.get("data", {}).items()) if kind.startswith("text/"))


def _steady(text: str) -> str:
    for pattern, instead in _VOLATILE:
        text = pattern.sub(instead, text)
    return text


def main() -> None:
    """Execute and write the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description="Run notebooks and keep what came out.")
    parser.add_argument("names", nargs="*", default=names())
    parser.add_argument("--to", type=Path, default=HERE)
    asked = parser.parse_args()
    for name in asked.names:
        began = time.perf_counter()
        done = run(read(name))
        nbformat.write(done, asked.to / name)
        print(f"{name}: {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
