"""What the tests of collecting share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field
from scripted import ScriptedModel

from routenlp_integrations.langchain.collect import Asked, Asker, Journal, Purse
from router_core.portfolio import Tier
from router_core.redaction import Redaction

MakeAsker = Callable[..., Asker]


class Refused(Exception):  # noqa: N818 - named for what happened
    """A provider's error, as their clients raise it."""

    def __init__(self, status: int, headers: dict[str, str] | None = None, said: str = "refused") -> None:
        super().__init__(said)
        self.status_code = status
        self.response = type("Response", (), {"headers": headers or {"retry-after": "0"}})()


class Flaky(ScriptedModel):
    """Raises its `errors` one after the other before it answers."""

    errors: list[BaseException] = Field(default_factory=list)

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        if self.errors:
            self._note(messages, stop, kwargs, "agenerate")
            raise self.errors.pop(0)
        return await super()._agenerate(messages, stop, run_manager, **kwargs)


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    """A journal in an empty folder."""
    with Journal(tmp_path / "r.journal.jsonl") as opened:
        yield opened


@pytest.fixture
def make_asker(journal: Journal) -> MakeAsker:
    """Make an asker of a scripted model at 1 and 2 dollars per million tokens."""

    def build(model: Any, purse: Purse | None = None, redact: Redaction | None = None, **more: Any) -> Asker:
        asked = Asked(Tier(more.pop("name", "small"), 1.0, 2.0), "scripted:m", {"max_tokens": 10}, **more)
        return Asker(asked, model, journal, purse or Purse(1.0), redact or Redaction())

    return build
