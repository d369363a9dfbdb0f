"""What each alpha, and each number of calibration items, would buy: seen on tune, before calib is read at all.

Alpha may be chosen freely as long as calib has not been looked at. So the router is fitted as `fit()` would fit it,
its paths are laid from the scores on tune (or out-of-fold train), and each path goes through the same test as calib
will, on redraws of these rows. Of calib only the number of items is used. Source: METHOD.md 2.2, point 10.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from router_core.claim import check_levels
from router_core.figures import INK, PALETTE, Picture, new_figure, picture_of, styled, tidy
from router_core.fitting.candidates import Goal, choose_path
from router_core.fitting.choice import choose_encoder
from router_core.fitting.fit_bundle import FitSettings
from router_core.fitting.lay import calib_sizes, delta_of_each
from router_core.fitting.static import StaticTrainer
from router_core.fitting.tables import Progress
from router_core.policy import CASCADE
from router_core.records import Records, choose_tiers, read_records
from router_core.show import Table
from router_core.splits import prepare

__all__ = ["Prospects", "prospects"]


@dataclass(frozen=True)
class Prospects:
    """Expected cost of the certified cascade, as a share of always the reference tier's.

    Attributes
    ----------
    n
        Calibration items that each task has.
    by_alpha
        Task -> alpha -> expected cost ratio with these items.
    by_n
        Task -> number of items -> expected cost ratio at `alpha`.
    alpha, delta
        The alpha of `by_n`, and the delta of all.
    """

    n: Mapping[str, int]
    by_alpha: Mapping[str, Mapping[float, float]]
    by_n: Mapping[str, Mapping[int, float]]
    alpha: float
    delta: float

    def table(self) -> Table:
        """One row a task: what it has, and the expected cost at every alpha."""
        return Table(
            {"task": task, "calib items": self.n[task]}
            | {f"alpha {alpha:g}": f"{100 * ratio:.0f} %" for alpha, ratio in ratios.items()}
            for task, ratios in self.by_alpha.items()
        )

    def picture(self) -> Picture:
        """Expected cost against alpha, and against the number of calibration items.

        Raises
        ------
        MissingExtraError
            Without matplotlib.
        """
        with styled():
            figure = new_figure(8.5, 3.2)
            left, right = figure.subplots(1, 2, sharey=True)
            for number, task in enumerate(self.by_alpha):
                colour = PALETTE[number % len(PALETTE)]
                for axes, points in ((left, self.by_alpha[task]), (right, self.by_n[task])):
                    axes.plot(list(points), [100 * y for y in points.values()], "o-", color=colour, ms=4, label=task)
                right.plot([self.n[task]], [100 * self.by_n[task][self.n[task]]], "o", ms=9, mfc="none", mec=colour)
            left.axvline(self.alpha, color=INK, lw=0.9, ls=":")
            left.set_xlabel("alpha, with the calibration items there are")
            left.set_ylabel("expected cost, % of the reference's")
            left.legend()
            right.set_xscale("log")
            right.set_xlabel(f"calibration items at alpha = {self.alpha:g} (ringed: what there is)")
            ticks: list[int] = []
            for n in sorted({n for points in self.by_n.values() for n in points}):
                # Far enough apart on the log scale that their names never touch.
                if not ticks or n >= 1.3 * ticks[-1]:
                    ticks.append(n)
            right.set_xticks(ticks, [f"{n:,}" for n in ticks])
            right.minorticks_off()
            left.set_ylim(0, 104)
            for axes in (left, right):
                tidy(axes, grid="y")
            figure.suptitle("Seen on tune; calib has not been read", x=0.01, ha="left", fontsize=9.5)
            told = "; ".join(
                f"{task}: " + ", ".join(f"{100 * y:.0f} % at {a:g}" for a, y in points.items())
                for task, points in self.by_alpha.items()
            )
            return picture_of(figure, f"Expected cost by alpha. {told}.")


def prospects(
    records: Records | str | Path | Sequence[str | Path],
    *,
    tiers: Sequence[str] | None = None,
    settings: FitSettings | None = None,
    alphas: Sequence[float] = (0.02, 0.05, 0.1),
    times: Sequence[float] = (0.5, 4.0),
    progress: Progress | None = None,
) -> Prospects:
    """Fit a router with the static encoder, and say what each alpha would be expected to buy.

    Parameters
    ----------
    records
        Records, or files to read them from. Outcomes of rows in calib and test are never looked at.
    tiers
        Model names in cascade order, the reference last; chosen from train when None.
    settings
        What will be shown; its alpha is that of the comparison of numbers of items.
    alphas
        Risks to look at, besides that of the settings.
    times
        Multiples of the present number of calibration items to look at, besides 1.
    progress
        Called as the work goes on.

    Raises
    ------
    InputError
        When records or settings are wrong.
    """
    settings = settings or FitSettings()
    for alpha in alphas:
        check_levels(alpha, settings.delta)
    if not isinstance(records, Records):
        records = read_records(records)
    prepared = prepare(records)
    chosen = choose_tiers(prepared.records, np.union1d(prepared.train, prepared.tune), tiers)
    prepared, _ = prepared.complete(chosen)
    work = choose_encoder(prepared, settings, [StaticTrainer()], progress).fitter
    sizes = calib_sizes(prepared.records, work.scopes, prepared.calib)
    delta = delta_of_each(settings.delta, work.scopes, simultaneous=settings.simultaneous)
    goal = Goal(settings.risk, settings.alpha, delta, settings.seed)
    n, by_alpha, by_n = {}, {}, {}
    for view in work.scopes.views:
        if view.scope.endswith("*"):
            continue
        table = work.tuned.tables[view.models].take(work.tuned.rows_of(work.scopes, view.scope))
        reference = max(float(table.cost[:, -1].mean()), 1e-300)
        have = sizes[view.scope]

        def ratio(alpha: float, items: int) -> float:
            choice = choose_path(table, CASCADE, view.scope, items, replace(goal, alpha=alpha))  # noqa: B023 - called here
            return choice.expected_cost / reference  # noqa: B023

        n[view.scope] = have
        by_alpha[view.scope] = {alpha: ratio(alpha, have) for alpha in sorted({*alphas, settings.alpha})}
        more = sorted({have, *(max(round(have * factor), 1) for factor in times)})
        by_n[view.scope] = {
            items: by_alpha[view.scope][settings.alpha] if items == have else ratio(settings.alpha, items)
            for items in more
        }
    return Prospects(n, by_alpha, by_n, settings.alpha, delta)
