"""`routenlp bench`: what it measures, and what it refuses. Nothing here depends on how fast this machine is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import PORTFOLIO, TIERS, small_records
from tiny_encoder import fixture_parts

from router_core.bench import BATCH, LENGTHS, bench, interleaved, spread, texts
from router_core.bundle import Bundle
from router_core.encoder import Encoder, Examples, load_encoder
from router_core.errors import InputError
from router_core.fitting.fit_bundle import FitSettings, fit
from router_core.router import Router


class _Committed:
    """A trainer that gives the committed transformer whatever it is shown."""

    name = "committed"

    def train(self, examples: Examples, *, seed: int) -> Encoder:
        """Read the committed parts."""
        del examples, seed
        return load_encoder(fixture_parts())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time for a blink only."""
    monkeypatch.setattr("router_core.bench._SECONDS", 0.05)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose encoder is the committed tiny transformer."""
    out = tmp_path_factory.mktemp("bundles") / "tiny"
    settings = FitSettings(alpha=0.1)
    fit(small_records(), out=out, portfolio=PORTFOLIO, tiers=TIERS, settings=settings, trainers=[_Committed()])
    return out


@pytest.mark.parametrize(("which", "kind"), [("small_bundle", "static"), ("tiny_bundle", "onnx")])
def test_bench_measures_every_length_and_thread_count(
    which: str, kind: str, run: Callable[..., Any], tmp_path: Path, request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """All lengths, threads only where the encoder has a use for them, and numbers in a sensible order."""
    monkeypatch.setattr("router_core.bench.os.cpu_count", lambda: 2)
    bundle = request.getfixturevalue(which)
    said = run("bench", bundle, "--json", tmp_path / "b.json")
    assert said.code == 0
    assert said.err == ""
    told = json.loads((tmp_path / "b.json").read_text())
    assert (told["bundle"], told["encoder"]) == (Bundle.load(bundle).id, kind)
    assert [*told["latency_ms"]] == (["1"] if kind == "static" else ["1", "2"])
    assert told["machine"]["cpu"]
    assert len(told["machine"]["load_before"]) == len(told["machine"]["load_after"]) == 3
    measured = [one for lengths in told["latency_ms"].values() for one in lengths.values()]
    assert all([*lengths] == [*LENGTHS] for lengths in told["latency_ms"].values())
    measured += told["throughput"]["decisions_per_s"].values()
    measured += told["fresh_process"].values()
    for one in measured:
        assert 0 < one["min"] <= one["q25"] <= one["p50"] <= one["q75"] <= one["p99"]
        assert one["n"] >= 3
    assert told["throughput"]["queries"] == BATCH[0]
    assert 20 < told["fresh_process"]["memory_mb"]["p50"] < 500
    assert told["bundle_mb"] > 0
    for part in (told["machine"]["cpu"].split()[0], "10,000 characters", "quartiles", "fresh process", kind):
        assert part in said.out
    assert max(len(line) for line in said.out.splitlines()) <= 80


def test_bench_prints_json_alone(small_bundle: Path, run: Callable[..., Any]) -> None:
    """`--json -` is JSON and nothing else."""
    said = run("bench", small_bundle, "--json", "-")
    assert json.loads(said.out)["encoder"] == "static"
    assert said.err == ""


def test_bench_refuses_what_it_cannot_measure(small_bundle: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    """No bundle, a damaged one, a file that cannot be written: exit 2 and one line each."""
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for item in small_bundle.iterdir():
        (damaged / item.name).write_bytes(item.read_bytes())
    (damaged / "encoder.json").write_bytes(b"{}")
    for words, part in (
        ([tmp_path / "nothing"], "is not a bundle"),
        ([damaged], "encoder.json was changed"),
        ([small_bundle, "--json", tmp_path / "no" / "b.json"], "does not exist"),
    ):
        said = run("bench", *words)
        assert said.code == 2
        assert said.err.count("\n") == 1
        assert part in said.err
        assert said.out == ""
    for seconds in (0.0, float("nan"), 1e9):
        with pytest.raises(InputError, match=r"seconds = .* must be above 0 and at most 600"):
            bench(small_bundle, seconds)


def test_texts_are_new_each_time_and_as_long_as_asked() -> None:
    """No text comes twice, words are tokens, characters are exact."""
    made = texts(8)
    found = [next(made) for _ in range(500)]
    assert len(set(found)) == 500
    assert {len(text.split()) for text in found} == {6}
    long = texts(0, 10_000)
    assert [len(next(long)) for _ in range(3)] == [10_000] * 3


def test_interleaved_asks_everyone_the_same_number_of_times() -> None:
    """Quick calls are timed several times a round, all in every round, and the progress ends at the end."""
    asked = {"one": 0, "two": 0}
    seen: list[int] = []

    def call(name: str) -> Callable[[], None]:
        def count() -> None:
            asked[name] += 1

        return count

    walls = interleaved(
        {name: call(name) for name in asked}, 0.01, lambda _, done, total: seen.append(done * 1000 // total)
    )
    assert set(walls) == {"one", "two"}
    assert len(walls["one"]) == len(walls["two"]) >= 3
    assert asked["one"] > len(walls["one"])
    assert seen[-1] == 1000
    assert spread([3.0, 1.0, 2.0])["p50"] == 2.0


def test_threads_are_a_setting_of_the_process(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads give the same bundle id and the same bits; a number that is none is refused by name."""
    one, two = Router.load(tiny_bundle), Router.load(tiny_bundle, threads=2)
    assert (one.bundle_id, one.scorer.parts()) == (two.bundle_id, two.scorer.parts())
    assert one.decide("prove the sum item 3", "sum") == two.decide("prove the sum item 3", "sum")
    for router, threads in ((one, 1), (two, 2)):
        encoder: Any = router.scorer.encoder
        assert encoder.threads == threads
    monkeypatch.setenv("ROUTENLP_THREADS", "2")
    served: Any = Router.load(tiny_bundle).scorer.encoder
    assert served.threads == 2
    for asked in ("0", "two", "-1", ""):
        monkeypatch.setenv("ROUTENLP_THREADS", asked)
        with pytest.raises(InputError, match=rf"ROUTENLP_THREADS = '{asked}' must be a whole number from 1"):
            Router.load(tiny_bundle)
    with pytest.raises(InputError, match="threads = '0' must be a whole number"):
        Router.load(tiny_bundle, threads=0)
