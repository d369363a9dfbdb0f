"""What a run will cost, before it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from routenlp_integrations.langchain.collect.asking import key_of, worst_price
from routenlp_integrations.langchain.collect.journal import Entry, Journal
from routenlp_integrations.langchain.collect.rows import judged
from routenlp_integrations.langchain.collect.tiers_file import Asked, TiersFile
from router_core.conversations import Turns
from router_core.prompts import Prompt
from router_core.redaction import Redaction
from router_core.router import estimate_tokens

__all__ = ["Expected", "expect"]


@dataclass
class Expected:
    """Calls of one model still to be made.

    Attributes
    ----------
    name
        The tier, or ``"judge"``.
    model
        Its model string.
    kept
        Answers already in the journal.
    calls
        Calls to make.
    prompt_tokens, completion_tokens
        What they are expected to need: four bytes a token, and the assumed length of an answer.
    usd, worst_usd
        The price expected, and the most it can be without retries, in US dollars.
    """

    name: str
    model: str
    kept: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    worst_usd: float = 0.0

    def add(self, asked: Asked, turns: Turns, journal: Journal, seen: set[str]) -> Entry | None:
        """Count one call unless its answer is there; the answer, if so."""
        key = key_of(asked, turns)
        entry = journal.get(key)
        if entry is not None or key in seen:
            self.kept += entry is not None
            return entry
        seen.add(key)
        tokens = sum(estimate_tokens(text) for _, text in turns)
        self.calls += 1
        self.prompt_tokens += tokens
        self.completion_tokens += asked.assumed_completion_tokens
        self.usd += asked.tier.price(tokens, asked.assumed_completion_tokens)
        self.worst_usd += worst_price(asked, turns)
        return None


def expect(prompts: Sequence[Prompt], file: TiersFile, journal: Journal, redact: Redaction) -> list[Expected]:
    """What is left to ask of every tier, and of the judge."""
    told = [Expected(asked.name, asked.model) for asked in file.tiers]
    judge = None if file.judge is None else Expected(file.judge.name, file.judge.model)
    seen: set[str] = set()
    for prompt in prompts:
        for number, (asked, line) in enumerate(zip(file.tiers, told, strict=True)):
            entry = line.add(asked, prompt.turns, journal, seen)
            if file.judge is not None and judge is not None:
                # An answer that is not there yet is taken at its assumed length, apart for each tier.
                length = asked.assumed_completion_tokens
                stand_in = entry or Entry(f"{number}".ljust(4 * length, "x"), 0, length, measured=False)
                judge.add(file.judge, judged(prompt, stand_in, redact), journal, seen)
    return told if judge is None else [*told, judge]
