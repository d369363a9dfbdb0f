"""Run every notebook from a clean kernel of this interpreter, and keep what came out.

    python notebooks/execute.py [NAME.ipynb ...]

Each runs in an empty folder, so that nothing is left behind; the outputs are written into the notebook without times,
counts of the machine, or anything else that differs from run to run.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 180
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
        client = NotebookClient(
            fresh, timeout=TIMEOUT_S, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
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


def numbers(text: str) -> tuple[str, list[float]]:
    """A text with its numbers taken out, and the numbers."""
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


def main(wanted: list[str]) -> None:
    """Execute and write the notebooks that are named, or all."""
    for name in wanted or names():
        began = time.perf_counter()
        done = run(read(name))
        nbformat.write(done, HERE / name)
        print(f"{name}: {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
