"""The choice among encoders: the faster unless the slower saves enough, and calib is read by the winner alone."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import PORTFOLIO, TIERS, small_records
from stacks import Renamed, RuleEncoder, RuleTrainer

from router_core.bundle import Bundle
from router_core.encoder import Examples
from router_core.errors import InputError
from router_core.fitting.choice import measure_latency, prefer
from router_core.fitting.fit_bundle import FitSettings, fit
from router_core.fitting.stack import StackTrainer
from router_core.fitting.static import StaticTrainer
from router_core.records import Records

CHOICE = sys.modules["router_core.fitting.choice"]
Rule = Callable[[Sequence[float], Sequence[float], float], int]


def silent_records() -> Records:
    """`bundles.small_records` without answers: nothing is judged, so fits are quick."""
    records = small_records()
    return dataclasses.replace(records, response=[[None] * len(TIERS) for _ in range(len(records))])


def blunt(_: Examples) -> Callable[[str], float]:
    """Knows nothing of the text."""
    return lambda _: 0.6


def sharp(_: Examples) -> Callable[[str], float]:
    """Knows the words of the easy queries of `bundles`."""
    return lambda text: 0.95 if "I love" in text or "I hate" in text or text.startswith("Quickly") else 0.1


def broken(_: Examples) -> Callable[[str], float]:
    """Cannot learn."""
    raise InputError("this encoder wants other records")


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the clock say what the test says, and serve rule encoders, which have no parts, as they are."""
    served: list[object] = []

    def set_to(*latency: float) -> None:
        monkeypatch.setattr(CHOICE, "measure_latency", lambda encoders, _: list(latency[: len(encoders)]))
        monkeypatch.setattr(CHOICE, "load_encoder", served.append)

    return set_to


def fit_with(trainers: Sequence[Any], records: Records | None = None, **settings: Any) -> Bundle:
    """Fit without writing."""
    asked = FitSettings(alpha=0.1, **settings)
    return fit(records or silent_records(), portfolio=PORTFOLIO, tiers=TIERS, settings=asked, trainers=trainers)


def check_rule(rule: Rule) -> bool:
    """Whether a rule takes the faster unless the slower saves more than the share asked, whatever the order given."""
    cases = [
        ([0.50, 0.60], [9.0, 1.0], 0.01, 0),
        ([0.60, 0.597], [1.0, 9.0], 0.01, 0),
        ([0.60, 0.597], [1.0, 9.0], 0.001, 1),
        ([0.60, 0.594], [1.0, 9.0], 0.01, 0),
        ([0.597, 0.60], [9.0, 1.0], 0.01, 1),
        ([0.60, 0.597, 0.592], [1.0, 2.0, 3.0], 0.01, 2),
        ([0.60, 0.590, 0.586], [1.0, 2.0, 3.0], 0.01, 1),
        ([0.60, 0.60], [1.0, 1.0], 0.0, 0),
        ([0.0, 0.0], [1.0, 2.0], 0.01, 0),
    ]
    return all(rule(costs, latency, saving) == wanted for costs, latency, saving, wanted in cases)


def test_the_faster_is_taken_unless_the_slower_saves_enough() -> None:
    """Exactly the share asked is not more than it; each is compared with the one held so far."""
    assert check_rule(lambda costs, latency, saving: prefer(costs, latency, saving)[1][-1])
    assert prefer([0.5, 0.6, 0.4], [2.0, 1.0, 3.0], 0.01) == ([1, 0, 2], [1, 0, 2])


def test_rules_that_forget_latency_or_saving_fail_the_check() -> None:
    """Mutants: the cheapest; the cheapest of those given in order; the fastest."""
    assert not check_rule(lambda costs, _, __: int(np.argmin(costs)))
    assert not check_rule(lambda costs, _, saving: prefer(costs, range(len(costs)), saving)[1][-1])
    assert not check_rule(lambda _, latency, __: int(np.argmin(latency)))


def test_fit_takes_the_slower_encoder_only_for_its_saving(timed: Callable[..., None]) -> None:
    """A sharper encoder wins although slower, loses when more is asked of it, and the report says why."""
    trainers = [RuleTrainer("blunt", blunt), RuleTrainer("sharp", sharp)]
    timed(1.0, 5.0)
    told = fit_with(trainers).report["encoders"]
    assert told["chosen"] == "sharp"
    blunt_cost, sharp_cost = (one["expected_cost_ratio"] for one in told["compared"])
    assert sharp_cost < 0.99 * blunt_cost
    assert f"sharp is slower than blunt but saves {100 * (1 - sharp_cost / blunt_cost):.1f} %" in told["why"]
    asked = fit_with(trainers, encoder_saving=0.9)
    assert asked.report["encoders"]["chosen"] == "blunt"
    assert "none that is slower saves more than 90 %" in asked.report["encoders"]["why"]
    assert asked.measured == {"latency_ms": {"blunt": 1.0, "sharp": 5.0}}
    timed(5.0, 1.0)
    faster = fit_with(trainers, encoder_saving=0.9).report["encoders"]
    assert [one["encoder"] for one in faster["compared"]] == ["sharp", "blunt"]
    assert faster["chosen"] == "sharp"


def shuffled_calib(records: Records) -> Records:
    """The same records with the qualities of calib dealt out anew, and all of them bad for the cheap tiers."""
    quality = records.quality.copy()
    quality[[split == "calib" for split in records.split]] = [0.0, 0.0, 1.0]
    return dataclasses.replace(records, quality=quality)


def comparison(records: Records) -> list[Any]:
    """What was compared and taken."""
    told = fit_with([RuleTrainer("blunt", blunt), RuleTrainer("sharp", sharp)], records).report["encoders"]
    return [told["compared"], told["chosen"], told["why"]]


def test_the_comparison_does_not_see_calib(timed: Callable[..., None]) -> None:
    """Other outcomes on calib change no figure of the comparison."""
    timed(1.0, 5.0)
    assert comparison(silent_records()) == comparison(shuffled_calib(silent_records()))


def test_a_comparison_that_reads_calib_is_found_out(
    timed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant of the check above: an expected cost taken from calib moves with its outcomes."""
    timed(1.0, 5.0)
    honest = CHOICE.Fitter.candidate

    def peeking(self: Any) -> Any:
        made = honest(self)
        self.expected_cost_ratio *= 0.5 + self.bad[self.calib].mean()
        return made

    monkeypatch.setattr(CHOICE.Fitter, "candidate", peeking)
    assert comparison(silent_records()) != comparison(shuffled_calib(silent_records()))


def test_calib_is_certified_on_once_and_by_the_chosen_candidate(
    timed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losers' encoders never meet a calib query, and there is one certification."""
    bundle_module = sys.modules["router_core.fitting.fit_bundle"]
    honest, certified = bundle_module.certify, []
    monkeypatch.setattr(
        bundle_module, "certify", lambda candidate, *rest: certified.append(candidate) or honest(candidate, *rest)
    )
    records = silent_records()
    calib = {text for text, split in zip(records.prompt, records.split, strict=True) if split == "calib"}
    made: dict[str, list[RuleEncoder]] = {"blunt": [], "sharp": []}

    class Kept(RuleTrainer):
        def train(self, examples: Examples, *, seed: int) -> RuleEncoder:
            made[self.name].append(super().train(examples, seed=seed))
            return made[self.name][-1]

    timed(1.0, 5.0)
    bundle = fit_with([Kept("blunt", blunt), Kept("sharp", sharp)], records)
    assert len(certified) == 1
    assert certified[0].scorer is bundle.scorer
    assert not any(calib & set(encoder.seen) for encoder in made["blunt"])
    assert any(calib & set(encoder.seen) for encoder in made["sharp"])
    assert all(certificate.use_count == 1 for certificate in bundle.certificates.values())


def test_a_trainer_that_cannot_learn_is_left_out_with_its_reason(timed: Callable[..., None]) -> None:
    """One refusal is told; when all refuse, the first reason is the error, as with one trainer alone."""
    timed(1.0)
    told = fit_with([RuleTrainer("broken", broken), RuleTrainer("blunt", blunt)]).report["encoders"]
    assert told["left_out"] == {"broken": "this encoder wants other records"}
    assert told["chosen"] == "blunt"
    assert "only one" in told["why"]
    for trainers in ([RuleTrainer("broken", broken)], [RuleTrainer("broken", broken)] * 2):
        with pytest.raises(InputError, match="other records"):
            fit_with(trainers)


def test_a_stack_is_made_of_the_better_base(timed: Callable[..., None]) -> None:
    """The comparison tells the stack what its possible bases cost alone."""
    timed(1.0, 2.0, 3.0, 4.0)
    one, two, three = (RuleTrainer(name, rule) for name, rule in (("a", blunt), ("b", blunt), ("c", sharp)))
    told = fit_with([one, two, three, StackTrainer([one], one_of=[two, three])]).report["encoders"]
    assert told["compared"][3]["encoder"] == "stack of a and c"


def test_latency_stands_outside_the_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another clock gives the same bundle id and candidate; what it said survives the folder and `calibrate`'s copy."""
    trainers = [StaticTrainer(), Renamed("rough", StaticTrainer(bandwidth=0.8))]
    bundles = []
    for scale in (1.0, 3.0):
        monkeypatch.setattr(CHOICE, "measure_latency", lambda *_, scale=scale: [scale, 2 * scale])
        out = tmp_path / f"b{scale:.0f}"
        asked = FitSettings(alpha=0.1)
        bundles.append(
            fit(silent_records(), out=out, portfolio=PORTFOLIO, tiers=TIERS, settings=asked, trainers=trainers)
        )
    assert bundles[0].id == bundles[1].id
    assert bundles[0].candidate_id == bundles[1].candidate_id
    assert [one.measured["latency_ms"]["static"] for one in bundles] == [1.0, 3.0]
    assert Bundle.load(tmp_path / "b3").measured == bundles[1].measured


def test_one_trainer_is_not_compared() -> None:
    """Nothing is timed, nothing is told."""
    bundle = fit_with([RuleTrainer("blunt", blunt)])
    assert bundle.report["encoders"] == {}
    assert bundle.measured == {}


def test_latency_is_of_texts_that_no_encoder_has_met() -> None:
    """Every text is asked once of each encoder and is not one of the sample; the sample does not depend on order."""
    texts = [f"query {i}" for i in range(60)]
    first, second = (RuleEncoder(TIERS, lambda _: 0.5) for _ in range(2))
    found = measure_latency([first, second], texts)
    assert len(found) == 2
    assert all(value > 0.0 for value in found)
    assert first.seen == second.seen
    assert len(set(first.seen)) == len(first.seen)
    assert not set(first.seen) & set(texts)
    again = RuleEncoder(TIERS, lambda _: 0.5)
    measure_latency([again], texts[::-1])
    assert again.seen == first.seen


def test_the_saving_asked_is_checked() -> None:
    """A share outside [0, 1) is an input error."""
    for saving in (-0.1, 1.0):
        with pytest.raises(InputError, match="encoder_saving"):
            FitSettings(encoder_saving=saving)
