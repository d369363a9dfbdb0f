"""Failure clusters: what is grouped, how it is ranked and shown, and that calibration items never enter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs routenlp[fit]")

from exporters import clusters as module
from exporters.cluster_map import cluster_table, plot_clusters
from exporters.clusters import ClusterOptions, Failure, find_clusters
from exporters.fence import item_keys
from router_core.errors import InputError
from router_core.groups import hash_key
from router_core.keys import hash_keys

TOPICS = {"refund": (40, 0.2), "delivery": (25, 0.9), "login": (15, 0.5)}


def failures(task: str = "intent", seed: int = 0) -> list[Failure]:
    """Three topics far apart, with their own words, sizes and gaps."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 6, (len(TOPICS), 16))
    return [
        Failure(
            f"{task}-{topic}-{i}", task, f"Please help me with the {topic} of item number {i}",
            centres[j] + rng.normal(0, 1, 16), gap, 0.01,
        )
        for j, (topic, (size, gap)) in enumerate(TOPICS.items())
        for i in range(size)
    ]  # fmt: skip


def test_topics_are_found_named_and_ranked_by_size_times_gap() -> None:
    """As many clusters as topics, named by them; the largest does not lead where its gap is small."""
    found = find_clusters(failures())
    assert [(one.size, one.gap) for one in found.clusters] == [(25, 0.9), (40, 0.2), (15, 0.5)]
    assert [one.keywords[0] for one in found.clusters] == ["delivery", "refund", "login"]
    assert [one.number for one in found.clusters] == [1, 2, 3]
    assert found.clusters[0].score == pytest.approx(25 * 0.9)
    assert found.clusters[0].cost_usd == pytest.approx(0.25)
    assert (found.silhouette["intent"] or 0) > 0.5
    assert found.pick(1) == list(found.clusters[0].query_ids)
    assert len(found.pick(2)) == 65
    mutant = sorted(found.clusters, key=lambda one: -one.size)
    assert mutant[0].keywords[0] == "refund"


def test_typical_queries_stand_nearest_to_the_centre() -> None:
    """The first typical query is the medoid by squared distance, and a text asked twice is told once."""
    items = failures()
    items.append(replace(items[0], query_id="again"))
    found = find_clusters(items, ClusterOptions(typical=50))
    for one in found.clusters:
        assert len(set(one.typical)) == len(one.typical)
        hidden = {item.query_id: np.asarray(item.hidden) for item in items}
        centre = np.mean([hidden[i] for i in one.query_ids], axis=0)
        distance = [float(np.square(hidden[i] - centre).sum()) for i in one.query_ids]
        assert distance == pytest.approx(sorted(distance))


def test_same_seed_same_clusters_and_tasks_apart() -> None:
    """Grouping is the same for any order of failures; tasks are never mixed."""
    items = [*failures("a"), *failures("b", 1)]
    one = find_clusters(items, seed=3)
    two = find_clusters([items[i] for i in np.random.default_rng(0).permutation(len(items)).tolist()], seed=3)
    assert one.to_json() == two.to_json()
    for cluster in one.clusters:
        assert all(query.startswith(cluster.task) for query in cluster.query_ids)


def test_calibration_items_never_enter() -> None:
    """A calib item is refused by its id, by its group, and by its text alone under another id."""
    items = failures()
    for calib in (["intent-login-3"], ["group-7"], [hash_key(items[5].text)]):
        asked = [replace(items[9], key="group-7"), *items[:9], *items[10:]]
        with pytest.raises(InputError, match="clusters and calib share 1 ids or groups"):
            find_clusters(asked, calib=hash_keys(calib))
    assert find_clusters(items, calib=hash_keys(["another"])).clusters


def test_mutant_fence_by_id_alone_lets_calibration_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checked by id alone, a calib query logged under a new id gets through; so the keys are the check."""
    items = failures()
    calib = hash_keys(item_keys("as-calibrated", "", items[5].text))
    with pytest.raises(InputError, match="share"):
        find_clusters(items, calib=calib)
    monkeypatch.setattr(module, "item_keys", lambda query_id, group, text: (query_id,))
    assert find_clusters(items, calib=calib).clusters


def test_a_long_log_is_read_once_and_sampled_whatever_its_order() -> None:
    """Only `limit` failures a task are held; sizes and dollars are scaled up to what was seen."""
    alive = 0

    class Counted(Failure):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    most = 0

    def stream() -> Iterator[Failure]:
        nonlocal alive, most
        rng = np.random.default_rng(0)
        for i in range(20_000):
            alive += 1
            yield Counted(f"q{i}", "t", "", rng.normal(size=4), 0.5, 0.001)
            most = max(most, alive)

    found = find_clusters(stream(), ClusterOptions(limit=200, most=3))
    assert most < 3000
    assert sum(one.size for one in found.clusters) == pytest.approx(20_000, abs=3)
    assert sum(one.cost_usd for one in found.clusters) == pytest.approx(20.0)
    assert sum(len(one.query_ids) for one in found.clusters) == 200
    assert found.clusters[0].keywords == ()
    assert found.clusters[0].typical[0].startswith("q")


@pytest.mark.parametrize("count", [1, 2, 6])
def test_few_failures_make_one_cluster(count: int) -> None:
    """One failure, or the same one again and again, is one cluster without a silhouette."""
    one = failures()[0]
    found = find_clusters([replace(one, query_id=f"q{i}") for i in range(count)])
    assert [cluster.size for cluster in found.clusters] == [count]
    assert found.silhouette == {"intent": None}


def test_bad_failures_are_one_sentence() -> None:
    """No failures, vectors of two lengths, numbers that are none."""
    items = failures()
    with pytest.raises(InputError, match="there are no failures to cluster"):
        find_clusters([])
    with pytest.raises(InputError, match="hidden vector of 3 numbers, others of 16"):
        find_clusters([*items, replace(items[0], hidden=np.zeros(3))])
    with pytest.raises(InputError, match="not finite"):
        find_clusters([replace(items[0], gap=float("nan"))])
    with pytest.raises(InputError, match="at least 50"):
        ClusterOptions(limit=3)


def test_table_json_and_map(tmp_path: Path) -> None:
    """The table names keywords and dollars, JSON is plain, and the map is one PNG, the same each time."""
    from rich.console import Console

    found = find_clusters([*failures("a"), *failures("b", 1)])
    console = Console(width=160, record=True, quiet=False, file=(tmp_path / "out.txt").open("w"))
    console.print(cluster_table(found))
    shown = console.export_text()
    assert "delivery" in shown
    assert "22.5" in shown
    assert json.loads(json.dumps(found.to_json()))["failures"] == {"a": 80, "b": 80}
    pytest.importorskip("matplotlib", reason="needs routenlp[fit]")
    for name in ("one.png", "two.png"):
        plot_clusters(found, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    console.file.close()
