"""The picture of an evaluation: quality against cost, and the joint risk beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from router_core.errors import MissingExtraError
from router_core.figures import ALARM, INK, PALETTE, Picture, new_figure, picture_of, styled, tidy, write_figure
from router_core.promises import claimed, seen

__all__ = ["picture_evaluation", "plot_evaluation"]

_MOST_PANELS = 6
_WIDTH, _LARGE, _SMALL = 11.0, 5.6, 3.9
"""Inches of the picture's width, and of the height of its first and of every further row."""
_LONGEST = 34
_ALWAYS = "always:"


class _Look(NamedTuple):
    label: str
    colour: str
    marker: str
    size: float
    filled: bool


# Markers differ as well as colours.
_LOOKS = {
    "routenlp": _Look("routenlp, certified", PALETTE[0], "o", 10, True),
    "route_only": _Look("route_only, certified", PALETTE[6], "o", 7, True),
    "random_same_cost": _Look("random mix, same cost", INK, "X", 7, False),
    "oracle": _Look("oracle", INK, "*", 12, False),
}
_RIVAL = "_certified"
_RIVAL_LOOKS = (
    (PALETTE[3], "D", 5.5),
    (PALETTE[2], "v", 6.5),
    (PALETTE[1], "^", 6.5),
    (PALETTE[4], "p", 7),
    (PALETTE[5], "h", 7),
)
"""Colour, marker and size of the rivals, in the order of the report."""


def plot_evaluation(report: Mapping[str, Any], path: str | Path) -> None:
    """Draw an evaluation report, and write the file whole or not at all.

    One panel per scope, all queries first, at most six: quality against cost, both as shares of the reference
    tier's; marks are policies, lines are the whole uncertified paths, the cross is the 95 % interval of the certified
    policy. Beside the first panel stands the joint risk of every policy with its interval, against alpha.

    Parameters
    ----------
    report
        What `router_core.evaluation.evaluate` returns.
    path
        File to write; its ending names the format (``.png``, ``.svg`` or ``.pdf``).

    Raises
    ------
    MissingExtraError
        Without matplotlib.
    OSError
        When the file cannot be written.
    """
    write_figure(_checked(report), Path(path))


def picture_evaluation(report: Mapping[str, Any]) -> Picture:
    """Draw the same picture for a notebook.

    Raises
    ------
    MissingExtraError
        Without matplotlib.
    """
    ours = report["overall"]["policies"]["routenlp"]
    return picture_of(
        _checked(report), f"{_heading(report)}. {_result(ours)}. One panel a scope; right: joint risks.", 80
    )


def _checked(report: Mapping[str, Any]) -> Any:
    try:
        return _draw(report)
    except ImportError:
        raise MissingExtraError("fit", "draw an evaluation") from None


def _draw(report: Mapping[str, Any]) -> Any:
    scopes = _scopes(report)
    rest = len(scopes) - 1
    columns = 2 if rest in (1, 2, 4) else 3
    rows = -(-rest // columns)
    heights = [_LARGE, _SMALL * rows][: 1 + (rows > 0)]
    with styled():
        figure = new_figure(_WIDTH, sum(heights))
        parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)
        wide, narrow = parts[0, 0].subplots(1, 2, width_ratios=[1.75, 1])
        _quality_against_cost(wide, *scopes[0], large=True)
        _risks(narrow, scopes[0][1], _claim(report))
        if rows:
            grid = parts[1, 0].subplots(rows, columns, squeeze=False).ravel()
            for axes, (title, told) in zip(grid, scopes[1:], strict=False):
                _quality_against_cost(axes, title, told, large=False)
            for axes in grid[rest:]:
                axes.set_visible(False)
        figure.suptitle(_heading(report), fontsize=11, fontweight="bold", x=0.01, ha="left")
        # Fonts are looked up while drawing, so the layout is settled while they are set.
        figure.canvas.draw()
    return figure


def _scopes(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    tasks: Mapping[str, Any] = report["tasks"]
    if len(tasks) == 1:
        # All queries together would be the same picture without its certificate.
        return list(tasks.items())
    named = [(name, told) for name, told in tasks.items() if not name.endswith("*")]
    masked = [(_masked(name), told) for name, told in tasks.items() if name.endswith("/*")]
    found = ([("all tasks, each named", report["overall"])] if len(named) > 1 else []) + named + masked
    # The mix of all tasks is what a query without a name gets, so it has a place however many tasks there are.
    mix = [(_masked("*"), tasks["*"])] if "*" in tasks else []
    return found[: _MOST_PANELS - len(mix)] + mix


def _masked(name: str) -> str:
    return "* (task masked)" if name == "*" else f"{name} (subtask masked)"


def _heading(report: Mapping[str, Any]) -> str:
    told = f"Quality and cost on {report['n']} queries of split {report['split']}, bundle {report['bundle'][:12]}"
    return f"{told} (costs ASSUMED)" if report.get("cost_basis") == "assumed" else told


def _claim(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """The levels of the bundle's certificates, which are the same in all of them."""
    every = (*report["tasks"].values(), report["overall"])
    found: Mapping[str, Any] = next(told["certificate"] for told in every if told["certificate"] is not None)
    return found


def _looks(policies: Mapping[str, Any]) -> dict[str, _Look]:
    """How every policy of the report is drawn, single tiers by their number in the cascade."""
    rivals = [name for name in policies if name.endswith(_RIVAL)]
    looks = {name: _LOOKS[name] for name in ("routenlp", "route_only") if policies.get(name) is not None}
    for number, name in enumerate(rivals):
        colour, marker, size = _RIVAL_LOOKS[number % len(_RIVAL_LOOKS)]
        if policies[name] is not None:
            looks[name] = _Look(f"{name.removesuffix(_RIVAL)}, certified", colour, marker, size, True)
    for name, look in looks.items():
        # Nothing of the policy was certified, so it is the reference tier by another name.
        if list(policies[name]["share"].values())[-1] == 1.0:
            looks[name] = look._replace(label=look.label.replace("certified", "none certified"))
    looks |= {name: _LOOKS[name] for name in ("random_same_cost", "oracle") if policies.get(name) is not None}
    tiers = [name for name in policies if name.startswith(_ALWAYS)]
    for number, name in enumerate(tiers, start=1):
        looks[name] = _Look(f"always {_cut(name.removeprefix(_ALWAYS))}", INK, f"${number}$", 8, True)
    return looks


def _quality_against_cost(axes: Any, title: str, told: Mapping[str, Any], *, large: bool) -> None:
    policies = told["policies"]
    looks = _looks(policies)
    for line, path in told["frontier"].items():
        points = [(p["cost_ratio"], p["quality_ratio"]) for p in path or ()]
        known = sorted(point for point in points if None not in point)
        # Ours stands out; the rivals' paths are there to be compared, not to be read one by one.
        mine = line == "routenlp"
        look = looks.get(line if mine else f"{line}{_RIVAL}")
        if known and look is not None:
            width, alpha = (1.6, 0.75) if mine else (0.9, 0.55)
            axes.plot(*zip(*known, strict=True), color=look.colour, lw=width, alpha=alpha, zorder=1 + mine)
    ours = policies["routenlp"]
    if ours["cost_ratio_ci"] is not None and ours["quality_ratio_ci"] is not None:
        _cross(axes, ours)
    for name, look in looks.items():
        figures = policies[name]
        if figures["cost_ratio"] is None or figures["quality_ratio"] is None:
            continue
        _mark(axes, figures["cost_ratio"], figures["quality_ratio"], look, name)
    axes.axhline(1.0, color=INK, lw=0.7, ls=":", zorder=0)
    axes.set_xscale("function", functions=(_root, _square))
    low, high = _reach(told)
    axes.set_xlim(low, high)
    axes.set_xticks(_ticks(low, high, large=large))
    axes.xaxis.set_major_formatter(_percent)
    axes.yaxis.set_major_formatter(_percent)
    axes.set_xlabel("cost, share of the reference tier's (square-root scale)" if large else "cost")
    axes.set_ylabel("quality, share of the reference tier's" if large else "quality")
    tidy(axes, grid="both")
    axes.set_title(
        f"{_cut(title)}: n = {told['n']}\n{_shown(told['certificate'], large=large)}\n{_result(ours)}", loc="left"
    )
    if large:
        axes.annotate(
            "lines: whole paths, uncertified\ncross: 95 % interval of routenlp",
            (0.985, 0.02), xycoords="axes fraction", ha="right", va="bottom", fontsize=8, color=INK,
        )  # fmt: skip


def _cross(axes: Any, ours: Mapping[str, Any]) -> None:
    x, y = ours["cost_ratio"], ours["quality_ratio"]
    colour = _LOOKS["routenlp"].colour
    axes.plot(ours["cost_ratio_ci"], [y, y], color=colour, lw=1.8, zorder=4, solid_capstyle="butt")
    axes.plot([x, x], ours["quality_ratio_ci"], color=colour, lw=1.8, zorder=4, solid_capstyle="butt")


def _mark(axes: Any, x: float, y: float, look: _Look, name: str) -> None:
    order = 6 if name == "routenlp" else 5
    face = look.colour if look.filled else "none"
    edge, width = look.colour, 0.0 if look.filled else 1.3
    if look.marker.startswith("$"):
        axes.plot([x], [y], marker="s", ms=12, mfc=INK, mew=0, zorder=4.5, clip_on=False)
        face = "white"
    axes.plot([x], [y], marker=look.marker, ms=look.size, mfc=face, mec=edge, mew=width, zorder=order, clip_on=False)


def _risks(axes: Any, told: Mapping[str, Any], claim: Mapping[str, Any]) -> None:
    policies = told["policies"]
    looks = _looks(policies)
    alpha, kind = claim["alpha"], "selective_risk" if claim["risk"] == "selective" else "joint_risk"
    for row, (name, look) in enumerate(looks.items()):
        figures = policies[name]
        if figures[kind] is None:
            continue
        axes.plot(figures[f"{kind}_ci"], [row, row], color=look.colour, lw=1.4, zorder=2)
        _mark(axes, figures[kind], row, look, name)
    if claim["risk"] != "retention":
        axes.axvline(alpha, color=ALARM, lw=1.1, zorder=1)
        axes.annotate(
            f"alpha = {alpha:g}", (alpha, 0), xycoords=("data", "axes fraction"), xytext=(4, 3),
            textcoords="offset points", color=ALARM, fontsize=8, ha="left", va="bottom",
        )  # fmt: skip
    axes.set_yticks(range(len(looks)), [look.label for look in looks.values()])
    axes.set_ylim(len(looks) - 0.3, -0.7)
    # Room for the marks at zero, which would cover their labels.
    axes.set_xlim(left=-0.025 * axes.get_xlim()[1])
    axes.xaxis.set_major_formatter(_percent)
    axes.set_xlabel(f"{kind.replace('_', ' ')} on these queries (95 % interval)")
    what = "bad among cheap answers served" if kind == "selective_risk" else "cheap answer served and bad"
    axes.set_title(f"{what}\n{_certified(claim)}", loc="left")
    tidy(axes, grid="x", sides=("top", "right", "left"))
    axes.tick_params(axis="y", length=0)


def _cut(name: str) -> str:
    """A name short enough for its place; ``$`` would start mathematics."""
    name = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."
    return name.replace("$", r"\$")


def _shown(certificate: Mapping[str, Any] | None, *, large: bool) -> str:
    if certificate is None:
        return "no certificate of its own"
    if not large:
        verdict = "certified" if certificate["certified"] else "no certificate"
        return f"{verdict}, {seen(certificate)}"
    if not certificate["certified"]:
        return f"no certificate at {claimed(certificate)}: n = {certificate['n']}"
    return f"certified: {claimed(certificate)} ({seen(certificate)})"


def _certified(claim: Mapping[str, Any]) -> str:
    """Two lines on what the dashed line means."""
    if claim["risk"] == "retention":
        return f"certified is the mean quality:\nat least {1 - claim['alpha']:.6g} of the reference's"
    sure = "in expectation" if claim["delta"] is None else f"with confidence {1 - claim['delta']:.6g}"
    return f"certified: at most {claim['alpha']:g}\n{sure}"


def _result(ours: Mapping[str, Any]) -> str:
    if ours["cost_ratio"] is None or ours["quality_ratio"] is None:
        return "the reference tier is free or always wrong here"
    return f"routenlp: quality {100 * ours['quality_ratio']:.1f} %, cost {100 * ours['cost_ratio']:.1f} %"


def _percent(share: float, _position: int = 0) -> str:
    return f"{100 * share:.4g}%"


def _root(x: Any) -> Any:
    import numpy as np

    return np.sqrt(np.maximum(x, 0.0))


def _square(x: Any) -> Any:
    import numpy as np

    return np.square(x)


def _reach(told: Mapping[str, Any]) -> tuple[float, float]:
    """Limits of the cost axis: from nothing, or from just before the first mark, to just behind the last."""
    drawn = [figures["cost_ratio"] for figures in told["policies"].values() if figures is not None]
    drawn += [point["cost_ratio"] for path in told["frontier"].values() for point in path or ()]
    drawn += told["policies"]["routenlp"]["cost_ratio_ci"] or []
    known = [x for x in drawn if x is not None]
    low, high = min([*known, 1.0]), max([*known, 1.0])
    return (0.0 if low < 0.25 else low * 0.9), high * 1.06


def _ticks(low: float, high: float, *, large: bool) -> Sequence[float]:
    """Cost shares to name on the axis, sparse enough that their names never touch."""
    if low > 0.0:
        wanted: Sequence[float] = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0) if large else (0.2, 0.4, 0.6, 0.8, 1.0)
    elif large:
        wanted = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
    else:
        wanted = (0.0, 0.05, 0.2, 0.5, 1.0)
    return [x for x in (*wanted, 1.5, 2.0, 3.0) if low <= x <= high]
