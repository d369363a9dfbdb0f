"""Objects that show themselves: escaped, without a script, nothing from outside, no colours of their own."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from bundles import small_records
from hypothesis import given
from hypothesis import strategies as st

from router_core import Answer, Attempt, InputError, Route, Router
from router_core.bundle import Bundle
from router_core.evaluation import evaluate
from router_core.show import Report, Share, Table, section, table, usd

TAGS = {"div", "span", "table", "thead", "tbody", "tr", "th", "td"}
HOSTILE = "<script>alert(1)</script><img src=x onerror='a'>\"'&</td></table><a href=http://x>"


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text, self.open = "", []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Only tags of ours, whose one attribute is a style that fetches and paints nothing."""
        assert tag in TAGS, tag
        assert {name for name, _ in attrs} <= {"style"}, attrs
        style = " ".join(value or "" for _, value in attrs)
        assert "url" not in style
        assert not re.search(r"#[0-9a-f]{3}|(?<![-\w])(black|white|rgb\()", style), style
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Every tag is closed in its turn."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """The text a reader sees."""
        self.text += data


def read(html: str) -> str:
    """The text of a piece of HTML that keeps the rules."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader.text


def _route(text: str) -> Route:
    attempts = (Attempt("small", 0.2, 1e-6, False, text), Attempt(text, None, 0.02, True, "the reference tier"))
    return Route(text, Answer(text), attempts, 0.020001, text, text, "cascade", text, None, text)


@given(st.text() | st.sampled_from([HOSTILE, "<script>", "</div>", "' onmouseover='x", "&lt;b&gt;"]))
def test_whatever_a_text_holds_is_shown_and_never_obeyed(text: str) -> None:
    """Cells, headings, notes and routes hand any text to the reader as it is, and stay our own tags."""
    for html in (table([text], [[text]]), section(text, text, notes=[text]), Table([{text: text}])._repr_html_()):
        assert len(text) > 400 or read(html).count(text) >= 1 + (text != "")
    read(_route(text)._repr_html_())


def test_the_check_notices_a_text_that_is_not_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant that writes texts as they are fails the check above."""
    monkeypatch.setattr("router_core.show.escape", str)
    with pytest.raises(AssertionError):
        read(_route(HOSTILE)._repr_html_())


def test_a_bundle_and_its_certificates_show_themselves(small_bundle: Path) -> None:
    """Tiers, prices, scopes and the certificate's whole sentence are there."""
    bundle = Bundle.load(small_bundle)
    told = read(bundle._repr_html_())
    for word in (*bundle.portfolio.names, "mood", "sum", "cascade", "route_only", "$10.00", bundle.id[:12]):
        assert word in told
    assert len(repr(bundle)) < 200
    for certificate in bundle.certificates.values():
        assert certificate.describe() in read(certificate._repr_html_())


def test_a_decision_and_an_evaluation_show_themselves(small_bundle: Path) -> None:
    """The tier, its reason, every policy and scope; hostile names of policies and scopes are escaped."""
    decision = Router.load(small_bundle).decide("Review 1: I love this lamp.", "mood")
    assert decision.reason in read(decision._repr_html_())
    report = evaluate(small_bundle, small_records())
    told = read(report._repr_html_())
    assert all(name in told for name in (*report["tasks"], *report["overall"]["policies"]))
    hostile = Report(copy.deepcopy(dict(report)))
    hostile["tasks"][HOSTILE] = hostile["tasks"]["mood"]
    hostile["overall"]["policies"][HOSTILE] = hostile["overall"]["policies"]["oracle"]
    assert read(hostile._repr_html_()).count(HOSTILE) == 2


def test_a_route_comes_back_from_its_json() -> None:
    """`from_json` undoes `to_json` but for the answer, and takes what a framework's answer carries."""
    route = _route("mood")
    again = Route.from_json(route.to_json(), text="mood")
    assert again == route
    short = {key: value for key, value in route.to_json().items() if key not in ("scope", "policy", "budget")}
    assert Route.from_json(short).attempts == route.attempts
    assert "$0.0200" in read(again._repr_html_())
    for wrong in ({}, {**route.to_json(), "attempts": [{"tier": 1, "colour": 2}]}, {**route.to_json(), "attempts": 3}):
        with pytest.raises(InputError, match="no route"):
            Route.from_json(wrong)


def test_numbers_read_as_a_person_writes_them() -> None:
    """Dollars keep three figures whatever their size; a share has a bar no longer than the whole."""
    assert [usd(v) for v in (None, 0.0, 12.5, 0.00016, 1.6e-7)] == [None, "$0", "$12.50", "$0.000160", "$0.000000160"]
    assert "width:5.00em" in table(["a"], [[Share(1.7)]])
    assert read(table(["a"], [[Share(0.25)], [None], [0.25]])).endswith("25.0 %–0.25")
