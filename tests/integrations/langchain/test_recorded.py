"""Recorded chat models: the same answers, the same routes and the same costs as the core replays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundles import PORTFOLIO, fit_small, small_records
from scripted import ask, route_of

from routenlp_integrations.langchain import RecordedChatModel, RoutingChatModel
from routenlp_integrations.langchain.recorded import recorded_tiers
from router_core.cascade import Answer, Cascade
from router_core.errors import InputError, TierError
from router_core.fitting.fit_bundle import fit
from router_core.records import Records, read_records
from router_core.router import Router
from router_core.splits import prepare


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream", "astream"])
async def test_a_recorded_answer_is_replayed(how: str) -> None:
    """The text, the tokens and the name are those recorded."""
    model = RecordedChatModel(answers={"2 + 2?": ("The answer\nis 4.", 5, 6)}, name="small")
    message = await ask(model, how, [("system", "Be brief."), ("human", "2 + 2?")])
    assert message.text == "The answer\nis 4."
    assert message.usage_metadata == {"input_tokens": 5, "output_tokens": 6, "total_tokens": 11}
    assert message.response_metadata["model_name"] == "small"


def test_an_unknown_prompt_is_refused() -> None:
    """A prompt never recorded is an error that shows it; unknown tokens give no usage."""
    model = RecordedChatModel(answers={"a": ("b", None, 2)}, name="small")
    with pytest.raises(InputError, match="small has no answer recorded for the prompt 'c'"):
        model.invoke("c")
    assert model.invoke("a").usage_metadata is None
    assert "answers" not in repr(model)


def test_an_unknown_prompt_behind_the_router_is_a_failing_tier(small_bundle: Path) -> None:
    """The router raises when no tier has an answer recorded."""
    model = RoutingChatModel.from_bundle(small_bundle, recorded_tiers(small_records()))
    with pytest.raises(TierError, match="InputError"):
        model.invoke("never recorded")


def _replayed(records: Records, folder: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Tier, cost of all attempts and quality per query, by `RoutingChatModel` over recorded models."""
    model = RoutingChatModel.from_bundle(folder, recorded_tiers(records))
    tiers, cost, quality = [], [], []
    for i, prompt in enumerate(records.prompt):
        route = route_of(model.invoke(prompt, {"configurable": {"task": _label(records, i)}}))
        tiers.append(route["tier"])
        cost.append(route["cost_usd"])
        quality.append(records.quality[i, records.models.index(route["tier"])])
        paid = [records.cost[i, records.models.index(a["tier"])] for a in route["attempts"]]
        assert route["cost_usd"] == pytest.approx(sum(paid), rel=1e-9)
    return tiers, np.asarray(cost), np.asarray(quality)


def _label(records: Records, i: int) -> str:
    return "/".join(part for part in (records.task[i], records.subtask[i]) if part)


def _cascade(records: Records, folder: Path) -> list[str]:
    """Tier per query by the core alone, over the recorded answers."""
    served = []
    for i, prompt in enumerate(records.prompt):
        row = {
            name: lambda _, i=i, m=m: Answer(records.response[i][m] or "", cost_usd=float(records.cost[i, m]))
            for m, name in enumerate(records.models)
        }
        served.append(Cascade(Router.load(folder), row).run(prompt, _label(records, i)).tier)
    return served


def test_small_population_is_replayed_exactly(small_bundle: Path) -> None:
    """Routes equal the core's, costs the records', and money is saved at little loss."""
    records = small_records()
    test = records.take([i for i, split in enumerate(records.split) if split == "test"])
    tiers, cost, quality = _replayed(test, small_bundle)
    assert tiers == _cascade(test, small_bundle)
    assert cost.sum() < 0.5 * test.cost[:, -1].sum()
    assert ((test.quality[:, -1] - quality) > 0).mean() <= 0.1


def test_fitting_again_gives_the_same_bundle(small_bundle: Path, tmp_path: Path) -> None:
    """The fixture is deterministic: another fit has the same id."""
    assert fit_small(tmp_path / "again").id == Router.load(small_bundle).bundle_id
    assert PORTFOLIO.names == Router.load(small_bundle).portfolio.names


def test_real_records_are_replayed_exactly(shared: Path, tmp_path: Path) -> None:
    """On finance_sentiment's test split `RoutingChatModel` gives the core's routes and the records' costs."""
    source = shared / "routing" / "finance_sentiment.parquet"
    if not source.is_file():
        pytest.skip("finance_sentiment is not here")
    records = read_records(source)
    names = ("llama-2-13b-chat", "gpt-3.5-turbo", "gpt-4")
    folder = tmp_path / "bundle"
    fit(records, out=folder, tiers=names)
    prepared, _ = prepare(records).complete(names)
    test = prepared.records.take(prepared.test).for_models(names)
    tiers, cost, _ = _replayed(test, folder)
    assert tiers == _cascade(test, folder)
    assert len(set(tiers)) > 1
    assert cost.sum() < test.cost[:, -1].sum()
