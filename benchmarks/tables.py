"""Tables in Markdown files, which benchmarks rewrite between two markers."""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_between"]


def write_between(path: Path, text: str, mark: str = "table") -> None:
    """Replace what stands between ``<!-- table: name -->`` and ``<!-- end of table -->``; `mark` is ``table: name``."""
    start, end = f"<!-- {mark} -->\n", f"<!-- end of {mark.partition(':')[0]} -->"
    before, found, rest = path.read_text(encoding="utf-8").partition(start)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        msg = f"{path} has no {start.strip()} that ends in {end}"
        raise ValueError(msg)
    path.write_text(f"{before}{start}{text}\n{end}{after}", encoding="utf-8")
