"""Clusters, verdicts and rounds show themselves as escaped tables, and clusters survive JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from exporters.clusters import Clusters, Failure, find_clusters
from exporters.loop import CHECKS, RoundReport, Verdict


def _clusters() -> Clusters:
    draw = np.random.default_rng(0)
    failures = [
        Failure(f"q{i}", "mood", f"<b>kettle</b> {i}", draw.normal(9 * (i % 2), 1, 4), 0.5, 1e-3) for i in range(20)
    ]
    return find_clusters(failures)


def test_clusters_read_back_are_the_same_and_escaped() -> None:
    """JSON keeps clusters and map; the table holds no markup of a query's."""
    clusters = _clusters()
    again = Clusters.from_json(json.loads(json.dumps(clusters.to_json())))
    assert again.clusters == clusters.clusters
    assert np.array_equal(again.places["mood"][0], clusters.places["mood"][0])
    assert np.array_equal(again.places["mood"][1], clusters.places["mood"][1])
    shown = again._repr_html_()
    assert "&lt;b&gt;kettle" in shown
    assert "<b>" not in shown


def test_a_verdict_shows_every_check() -> None:
    """Checks that passed are there beside the reason of the one that refused."""
    shown = Verdict(False, {"cost": ("<i>dearer</i>",)})._repr_html_()
    assert all(name in shown for name in CHECKS)
    assert "&lt;i&gt;dearer" in shown
    assert shown.count("passed") == len(CHECKS) - 1


def test_a_round_without_a_fold_says_so() -> None:
    """A report of no round shows why, and has neither verdict nor clusters."""
    report = RoundReport(Path("root"), 0, "no fold left", "r0001", {}, {"why": "all <folds> are used"})
    assert "all &lt;folds&gt; are used" in report._repr_html_()
    assert report.verdict is None
    assert report.clusters is None
