"""The pictures of `guarantee`: what rules deploy, joint beside selective, what n buys, what an alarm sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from routenlp_integrations.notebook.guarantee import Deployed, Drift
from routenlp_integrations.notebook.population import REFERENCE, Population
from router_core.figures import ALARM, INK, PALETTE, Picture, new_figure, picture_of, styled, tidy

__all__ = ["picture_drift", "picture_risks", "picture_rules", "picture_sizes"]


def picture_rules(deployed: Sequence[Deployed]) -> Picture:
    """One histogram a rule: the true joint risk of what it deploys, calibration set by calibration set."""
    top = max(float(one.joint.max()) for one in deployed)
    bins = np.linspace(0.0, 100 * top * 1.02, 90)
    with styled():
        figure = new_figure(8.0, 1.15 * len(deployed) + 0.7)
        rows = figure.subplots(len(deployed), 1, sharex=True, squeeze=False).ravel()
        for axes, one in zip(rows, deployed, strict=True):
            good, wrong = one.joint[one.joint <= one.alpha], one.joint[one.joint > one.alpha]
            axes.hist([100 * good, 100 * wrong], bins=bins, stacked=True, color=[PALETTE[2], ALARM])
            axes.axvline(100 * one.alpha, color=INK, lw=1.0, ls="--")
            axes.set_title(f"{one.rule}: above alpha in {100 * one.broken:.1f} % of {len(one.joint):,} deployments")
            axes.set_yticks([])
            tidy(axes, sides=("top", "right", "left"))
        rows[-1].set_xlabel(f"true joint risk of what was deployed, % (dashed: alpha = {100 * deployed[0].alpha:g} %)")
        told = "; ".join(f"{one.rule} {100 * one.broken:.1f} %" for one in deployed)
        return picture_of(figure, f"True joint risk by rule; share of deployments above alpha: {told}.")


def picture_risks(alpha: float = 0.05, population: Population = REFERENCE) -> Picture:
    """Joint and selective risk of every threshold, against the share of queries that get a cheap answer."""
    path = population.path(200)
    share, joint = population.acceptance(path), population.joint_risk(path)
    selective = joint / share
    most = [100 * float(share[risk <= alpha].max(initial=0.0)) for risk in (joint, selective)]
    with styled():
        figure = new_figure(8.0, 3.2)
        axes = figure.subplots()
        for risk, name, colour, at in zip((joint, selective), ("joint", "selective"), PALETTE, most, strict=False):
            axes.plot(100 * share, 100 * risk, color=colour, lw=2)
            beside = {"ha": "right", "x": 82} if name == "selective" else {"ha": "left", "x": 86}
            axes.text(y=100 * risk[167], s=name, color=colour, va="center", **beside)
            axes.plot([at, at], [0, 100 * alpha], color=colour, lw=1.2, ls=":")
            axes.plot([at], [100 * alpha], "o", color=colour)
        axes.axhline(100 * alpha, color=ALARM, lw=1.0)
        axes.text(0, 100 * alpha, f"alpha = {100 * alpha:g} %", color=ALARM, va="bottom")
        axes.set_xlim(0, 102)
        axes.set_ylim(0, 26)
        axes.set_xlabel("queries that get a cheap answer, %")
        axes.set_ylabel("true risk, %")
        axes.set_title(f"at a risk of {100 * alpha:g} %: joint lets {most[0]:.0f} % through, selective {most[1]:.0f} %")
        tidy(axes, grid="both")
        return picture_of(
            figure, f"Cheap answers at alpha: {most[0]:.0f} % by joint, {most[1]:.0f} % by selective risk."
        )


def picture_sizes(found: Mapping[int, tuple[Deployed, int]], population: Population = REFERENCE) -> Picture:
    """What n buys: the share of cheap answers that gets certified, its spread, and the most that alpha permits."""
    sizes, alpha = list(found), next(iter(found.values()))[0].alpha
    shares = [100 * one.share for one, _ in found.values()]
    path = population.path(200)
    most = 100 * float(population.acceptance(path)[population.joint_risk(path) <= alpha].max(initial=0.0))
    low, middle, high = (np.array([np.quantile(share, q) for share in shares]) for q in (0.1, 0.5, 0.9))
    with styled():
        figure = new_figure(8.0, 3.2)
        axes = figure.subplots()
        axes.fill_between(sizes, low, high, color=PALETTE[0], alpha=0.25, linewidth=0)
        axes.plot(sizes, middle, "o-", color=PALETTE[0], lw=2)
        for (n, (_, allowed)), at in zip(found.items(), middle, strict=True):
            axes.annotate(f"{allowed} bad allowed", (n, at), xytext=(0, -13), textcoords="offset points", fontsize=8)
        axes.axhline(most, color=INK, lw=1.0, ls="--")
        axes.text(sizes[0], most + 1, "an oracle that knows the true risks", fontsize=8, va="bottom")
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axes.minorticks_off()
        axes.set_xlim(sizes[0] * 0.9, sizes[-1] * 1.5)
        axes.set_ylim(0, most + 14)
        axes.set_xlabel("calibration items")
        axes.set_ylabel("cheap answers certified, %")
        axes.set_title("median over re-draws; band: 10 % to 90 %")
        tidy(axes, grid="y")
        told = ", ".join(f"{n}: {at:.0f} %" for n, at in zip(sizes, middle, strict=True))
        return picture_of(figure, f"Median share of cheap answers certified by n: {told}; at most {most:.0f} %.")


def picture_drift(streams: Sequence[Drift]) -> Picture:
    """Alarm and detector along the audits of each stream, against their bars, both cut off below 0.001."""
    with styled():
        figure = new_figure(3.4 * len(streams), 3.3)
        panels = figure.subplots(1, len(streams), sharey=True, squeeze=False).ravel()
        for axes, one in zip(panels, streams, strict=True):
            at = np.arange(1, len(one.alarm) + 1)
            for path, bar, name, colour in zip(
                (one.alarm, one.detector), one.bars, ("alarm", "restarted detector"), PALETTE, strict=False
            ):
                axes.plot(at, np.clip(path, -3.0, bar + 1.0), color=colour, lw=1.4, label=name)
                axes.axhline(bar, color=colour, lw=0.9, ls="--")
            axes.axvline(one.at, color=INK, lw=0.9, ls=":")
            if one.raised is not None:
                axes.axvline(one.raised, color=ALARM, lw=1.1)
            heard = "silent" if one.raised is None else f"raised {one.raised - one.at} audits after"
            axes.set_title(f"{one.name}\njoint risk {100 * one.before:.1f} % to {100 * one.after:.1f} %\n{heard}")
            axes.set_xlabel("audits")
            tidy(axes, grid="y")
        ticks = range(-3, int(max(streams[0].bars)) + 2, 2)
        panels[0].set_yticks(list(ticks), [f"{10.0**tick:g}" for tick in ticks])
        panels[0].set_ylabel("evidence (dashed: bars)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=2)
        told = "; ".join(f"{one.name}: {'silent' if one.raised is None else 'raised'}" for one in streams)
        return picture_of(figure, f"Evidence against the certificate. {told}.")
