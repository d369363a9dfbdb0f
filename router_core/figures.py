"""How every picture of ours looks, how it is written, and how a notebook shows it.

A picture lies on nothing: its background is transparent and its inks are mid-tones, so that it can be read on a white
page and on a dark one. `INK` has a contrast above 4 to 1 against both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from router_core.durable import write_file
from router_core.errors import MissingExtraError

__all__ = ["ALARM", "GRID", "INK", "PALETTE", "Picture", "new_figure", "picture_of", "styled", "tidy", "write_figure"]

INK = "#7a7a7a"
"""Text, axes and everything that is not told apart by colour."""
GRID = "#80808040"
"""Lines that only guide the eye."""
ALARM = "#d6455a"
"""A limit, and what lies beyond it."""
PALETTE = ("#1f83c4", "#d9662b", "#12956b", "#bf6ba0", "#c98a12", "#8f6fc0", "#4aa3b8", "#a3703c")
"""Colours after Okabe and Ito, which readers with colour blindness can tell apart, moved to the middle of the scale."""

_NOTEBOOK_DPI = 100


@contextmanager
def styled() -> Iterator[None]:
    """Draw within this style.

    Raises
    ------
    MissingExtraError
        Without matplotlib.
    """
    try:
        from matplotlib import rc_context
    except ImportError:
        raise MissingExtraError("fit", "draw a picture") from None
    style: Any = {
        "svg.hashsalt": "routenlp",
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "legend.frameon": False,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
    }
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color", "ytick.color")
    style |= dict.fromkeys(inked, INK)
    with rc_context(style):
        yield


def new_figure(width: float, height: float, dpi: int = 150) -> Any:
    """An empty figure, in inches, that no window and no global state knows of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Any, *, grid: str | None = None, sides: tuple[str, ...] = ("top", "right")) -> None:
    """Take away the frame's sides that say nothing, and draw a faint grid along ``"x"``, ``"y"`` or ``"both"``."""
    for side in sides:
        axes.spines[side].set_visible(False)
    if grid is not None:
        axes.grid(visible=True, axis=grid)


def write_figure(figure: Any, target: Path) -> None:
    """Write a matplotlib figure, whole or not at all; the ending of the file names the format."""
    kind = target.suffix.lower().removeprefix(".") or "png"
    content = BytesIO()
    # A date in the file would make two pictures of one report differ.
    figure.savefig(content, format=kind, metadata={"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind))
    write_file(target, content.getvalue())


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn picture that a notebook shows by itself.

    Attributes
    ----------
    png
        The file's bytes.
    told
        What is to be seen on it, for those who cannot see it; also its `repr`.
    """

    png: bytes = field(repr=False)
    told: str

    def __repr__(self) -> str:
        return self.told

    def _repr_png_(self) -> bytes:
        return self.png

    def save(self, path: str | Path) -> None:
        """Write the PNG."""
        write_file(Path(path), self.png)


def picture_of(figure: Any, told: str, dpi: int = _NOTEBOOK_DPI) -> Picture:
    """Draw a figure as a picture for a notebook."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    return Picture(content.getvalue(), told)
