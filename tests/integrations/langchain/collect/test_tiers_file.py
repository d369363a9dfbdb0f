"""tiers.yaml: what is read, what is refused, and that a key is never taken in plain text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from routenlp_integrations.langchain.collect import read_tiers
from router_core.errors import InputError

TWO = """
tiers:
  - {name: mini, model: "openai:gpt-4o-mini", input_usd_per_m: .15, output_usd_per_m: .6, params: {temperature: 0}}
  - name: large
    model: anthropic:claude
    params: {max_tokens: 64}
    usd_per_call: 0.01
    timeout: 5
    max_retries: 0
    api_key_env: LARGE_KEY
    assumed_completion_tokens: 900
"""
PRICE = "input_usd_per_m: 1, output_usd_per_m: 2"


def _file(folder: Path, text: str) -> Path:
    path = folder / "tiers.yaml"
    path.write_text(text)
    return path


def test_tiers_are_read_in_cascade_order(tmp_path: Path) -> None:
    """Names, prices, parameters and limits; max_tokens always has a value."""
    file = read_tiers(_file(tmp_path, TWO))
    mini, large = file.tiers
    assert file.portfolio.names == ("mini", "large")
    assert (mini.tier.input_usd_per_m, mini.tier.output_usd_per_m) == (0.15, 0.6)
    assert mini.params == {"max_tokens": 1024, "temperature": 0}
    assert (large.timeout, large.max_retries, large.api_key_env) == (5.0, 0, "LARGE_KEY")
    assert large.tier.price(1000, 1000) == 0.01
    assert large.assumed_completion_tokens == 64
    assert file.judge is None


def test_a_provider_may_name_the_length_its_own_way(tmp_path: Path) -> None:
    """The bound is taken from whatever name it has, and no second one is passed on."""
    text = TWO.replace("{max_tokens: 64}", "{num_predict: 32}")
    large = read_tiers(_file(tmp_path, text)).tiers[1]
    assert large.max_tokens == 32
    assert large.params == {"num_predict": 32}


def test_a_bare_list_is_read(tmp_path: Path) -> None:
    """The key `tiers` may be left out."""
    text = TWO.replace("tiers:\n", "")
    assert read_tiers(_file(tmp_path, text)).portfolio.names == ("mini", "large")


def test_the_fingerprint_is_of_what_decides_answers(tmp_path: Path) -> None:
    """A parameter or a model changes it, for that tier alone; a price, a key or a time-out does not."""
    before = [asked.fingerprint for asked in read_tiers(_file(tmp_path, TWO)).tiers]
    told = TWO.replace(".15", ".2").replace("LARGE_KEY", "K2").replace("timeout: 5", "timeout: 6")
    assert [asked.fingerprint for asked in read_tiers(_file(tmp_path, told)).tiers] == before
    after = [a.fingerprint for a in read_tiers(_file(tmp_path, TWO.replace("temperature: 0", "temperature: 1"))).tiers]
    assert after[0] != before[0]
    assert after[1] == before[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tiers: [", "not valid YAML, line"),
        ("a: 1", "must be a list of tiers"),
        ("tiers: []\nmore: 1", "unknown key 'more' beside 'tiers'"),
        ("- x", "tier 1 must be a mapping"),
        (f"- {{name: a, model: m, {PRICE}}}", "at least two tiers"),
        (f"- {{name: a, model: m, {PRICE}}}\n- {{name: a, model: m, {PRICE}}}", "'a' is listed 2 times"),
        ("- {name: a, model: m}", "tier 'a': its price is missing; add input_usd_per_m and output_usd_per_m"),
        ("- {name: a, model: m, input_usd_per_m: 1}", "input_usd_per_m is given without output_usd_per_m"),
        ("- {name: a, model: m, input_usd_per_m: -1, output_usd_per_m: 1}", "must be finite and not negative"),
        (f"- {{model: m, {PRICE}}}", "tier 1: name is missing"),
        (f"- {{name: a, {PRICE}}}", "tier 'a': model is missing"),
        (f"- {{name: a, model: m, temperature: 0, {PRICE}}}", "unknown key 'temperature'.*others go under params"),
        (f"- {{name: a, model: m, params: [1], {PRICE}}}", "params must be a mapping"),
        (f"- {{name: a, model: m, params: {{max_tokens: 0}}, {PRICE}}}", "max_tokens must be a whole number above 0"),
        (f"- {{name: a, model: m, params: {{timeout: 3}}, {PRICE}}}", "timeout stands beside params"),
        (f"- {{name: a, model: m, params: {{n: 2}}, {PRICE}}}", "n must be 1"),
        (f"- {{name: a, model: m, params: {{model_kwargs: {{max_tokens: 9}}}}, {PRICE}}}", "not in its model_kwargs"),
        (f"- {{name: a, model: m, params: {{max_tokens: 9, num_predict: 8}}, {PRICE}}}", "say the same; give one"),
        (f"- {{name: a, model: m, timeout: 0, {PRICE}}}", "timeout must be seconds"),
        (f"- {{name: a, model: m, max_retries: -1, {PRICE}}}", "max_retries must be"),
        (f"- {{name: a, model: m, api_key_env: 'a b', {PRICE}}}", "must be the name of an environment variable"),
        (f"- {{name: a, name: b, model: m, {PRICE}}}", "key 'name' is given twice"),
        ("- !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_bad_files_say_what_is_wrong(text: str, said: str, tmp_path: Path) -> None:
    """One sentence with the file, the tier and the key."""
    with pytest.raises(InputError, match=said) as caught:
        read_tiers(_file(tmp_path, text))
    assert str(caught.value).startswith(str(tmp_path / "tiers.yaml"))


@pytest.mark.parametrize(
    "part",
    [
        "params: {api_key: plain}",
        "params: {openai_api_key: plain}",
        "params: {default_headers: {Authorization: plain}}",
        "params: {model_kwargs: {extra: [sk-abcdef123456]}}",
        "params: {base_url: 'http://h/v1?api_key=123456789'}",
        "api_key: plain",
        "api_key_env: sk-abcdef123456",
    ],
)
def test_a_key_in_plain_text_is_refused(part: str, tmp_path: Path) -> None:
    """Wherever it stands; the sentence does not repeat it."""
    with pytest.raises(InputError, match="environment variable") as caught:
        read_tiers(_file(tmp_path, f"- {{name: a, model: m, {PRICE}, {part}}}"))
    for secret in ("plain}", "abcdef", "123456789"):
        assert secret not in str(caught.value)


def test_the_judge_has_prices_of_its_own_or_those_of_its_tier(tmp_path: Path) -> None:
    """Neither is an error; another model than the metric names is one."""
    own = read_tiers(_file(tmp_path, TWO + "judge: {input_usd_per_m: 3, output_usd_per_m: 4}"), judge="openai:j").judge
    assert own is not None
    assert (own.name, own.model, own.tier.input_usd_per_m, own.max_tokens) == ("judge", "openai:j", 3.0, 16)
    same = read_tiers(_file(tmp_path, TWO), judge="openai:gpt-4o-mini").judge
    assert same is not None
    assert (same.tier.output_usd_per_m, same.params["temperature"]) == (0.6, 0)
    with pytest.raises(InputError, match="price of the judge openai:j is missing; add a key judge"):
        read_tiers(_file(tmp_path, TWO), judge="openai:j")
    with pytest.raises(InputError, match="judge is 'a:b', but the metric names 'openai:j'"):
        read_tiers(_file(tmp_path, TWO + "judge: {model: 'a:b', usd_per_call: 0}"), judge="openai:j")


def test_models_are_made_without_retries_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hidden retry would be paid uncounted; the key comes from the variable, and a local server never gets it."""
    text = f"""
- {{name: a, model: "openai:m", api_key_env: MY_KEY, {PRICE}}}
- {{name: b, model: "openai:m", params: {{base_url: "http://127.0.0.1:9/v1"}}, {PRICE}}}
"""
    monkeypatch.setenv("MY_KEY", "sk-from-the-environment")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-the-real-one")
    a, b = (asked.make() for asked in read_tiers(_file(tmp_path, text)).tiers)
    assert (a.max_retries, b.max_retries) == (0, 0)
    assert a.max_tokens == 1024
    assert a.openai_api_key.get_secret_value() == "sk-from-the-environment"
    assert b.openai_api_key.get_secret_value() == "none"


def test_a_model_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing variable, an unknown provider, and an error that shows a key."""
    text = f"- {{name: a, model: 'nobody:m', {PRICE}}}\n- {{name: b, model: 'openai:m', api_key_env: NO_KEY, {PRICE}}}"
    a, b = read_tiers(_file(tmp_path, text)).tiers
    with pytest.raises(InputError, match="tier 'a': nobody:m cannot be made"):
        a.make()
    with pytest.raises(InputError, match="tier 'b': the environment variable NO_KEY is not set"):
        b.make()

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("bad key sk-abcdef1234567")

    monkeypatch.setattr("langchain.chat_models.init_chat_model", fail)
    with pytest.raises(InputError) as caught:
        a.make()
    assert "abcdef" not in str(caught.value)
