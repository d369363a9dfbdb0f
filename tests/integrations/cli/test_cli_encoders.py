"""`--encoder`: which trainers a name stands for, and what `fit` and `inspect` tell of their comparison."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import TIERS
from stacks import Renamed

from routenlp_integrations.cli import encoders
from router_core.bundle import Bundle
from router_core.errors import InputError, MissingExtraError
from router_core.fitting.stack import StackTrainer
from router_core.fitting.static import StaticTrainer

FIT = ("--tiers", ",".join(TIERS), "--alpha", "0.1")


def without_train(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where routenlp[train] is not installed."""
    monkeypatch.setattr(encoders, "_PACKAGES", ("no_such_package",))


def test_auto_compares_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Static alone without routenlp[train], and without the packaged weights; else all four."""
    monkeypatch.setattr(encoders, "_PACKAGES", ("json",))
    monkeypatch.setattr(encoders, "_WEIGHTS", "json")
    assert encoders.encoder_names("auto") == ("static", "minilm", "minilm6", "stack")
    monkeypatch.setattr(encoders, "_WEIGHTS", "no_such_package")
    assert encoders.encoder_names("auto") == ("static",)
    assert encoders.encoder_names("some/folder") == ("some/folder",)
    without_train(monkeypatch)
    assert encoders.encoder_names("auto") == encoders.encoder_names("static") == ("static",)
    for name in ("minilm", "minilm6", "stack", "some/folder"):
        with pytest.raises(MissingExtraError, match=rf"routenlp\[train\].*--encoder {name}"):
            encoders.encoder_names(name)


def test_options_of_the_transformer_are_refused_elsewhere() -> None:
    """Neither is silently ignored."""
    for name in ("auto", "static", "stack"):
        with pytest.raises(InputError, match="--finetune"):
            encoders.encoder_names(name, finetune=True)
    for name in ("auto", "static"):
        with pytest.raises(InputError, match="--preferences"):
            encoders.encoder_names(name, preferences=True)


def test_trainers_of_one_call_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stack is made of the very trainers that stand alone, so that texts are read once."""
    monkeypatch.setattr(encoders, "_transformer", lambda name, *_: Renamed(name, StaticTrainer()))
    static, minilm, minilm6, stack = encoders.trainers_of(encoders.AUTO)
    assert isinstance(stack, StackTrainer)
    assert stack.trainers == (static, minilm)
    assert stack.trainers[1] is minilm
    assert stack.one_of[1] is minilm6
    assert [one.name for one in (static, minilm, minilm6, stack)] == list(encoders.AUTO)


def test_fit_and_inspect_tell_of_the_comparison(
    tmp_path: Path, records_file: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]
) -> None:
    """Every encoder with cost and latency, the one taken, and why; the JSON of both and the bundle agree."""
    fit = importlib.import_module("routenlp_integrations.cli.fit")
    choice = importlib.import_module("router_core.fitting.choice")
    monkeypatch.setattr(fit, "encoder_names", lambda *_, **__: ("static", "rough"))
    monkeypatch.setattr(
        fit, "trainers_of", lambda *_, **__: [StaticTrainer(), Renamed("rough", StaticTrainer(bandwidth=0.8))]
    )
    monkeypatch.setattr(choice, "measure_latency", lambda *_: [1.25, 7.5])
    said = run("fit", records_file, "--out", tmp_path / "b", *FIT, "--json", tmp_path / "fit.json")
    assert said.code == 0
    told = json.loads((tmp_path / "fit.json").read_text())["encoders"]
    kept = Bundle.load(tmp_path / "b").report["encoders"]
    assert [one["encoder"] for one in told["compared"]] == ["static", "rough"]
    assert [one["latency_ms"] for one in told["compared"]] == [1.25, 7.5]
    assert [one["encoder"] for one in told["compared"] if one["chosen"]] == [kept["chosen"]]
    assert told["why"] == kept["why"]
    shown = run("inspect", tmp_path / "b", "--json")
    assert json.loads(shown.out)["encoders"] == told
    assert "latency_ms" not in (tmp_path / "b" / "report.json").read_text()
    for text in (said.out, run("inspect", tmp_path / "b").out):
        flat = " ".join(text.split())
        assert "Encoders compared, fastest first" in flat
        assert f"static {100 * told['compared'][0]['expected_cost_ratio']:.1f} % 1.25" in flat
        assert told["why"] in flat
        assert "taken" in flat


def test_auto_without_train_says_what_it_did_not_try(
    tmp_path: Path, records_file: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]
) -> None:
    """One line names the extra; there is no comparison to show, in `fit`, `inspect` or JSON."""
    without_train(monkeypatch)
    said = run("fit", records_file, "--out", tmp_path / "b", *FIT)
    assert said.code == 0
    line = [one for one in said.out.splitlines() if "routenlp[train]" in one]
    assert len(line) == 1
    assert "Only the static encoder was tried" in line[0]
    shown = run("inspect", tmp_path / "b", "--json")
    assert json.loads(shown.out)["encoders"] is None
    assert "Encoders compared" not in said.out + run("inspect", tmp_path / "b").out
