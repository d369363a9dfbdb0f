"""What every real tier of the structured tasks is; chosen by cross-validation on TRAIN only (protocol.md)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from wide import Wide

from exporters.students.options import EncoderOptions

__all__ = ["KIND", "MAX_TOKENS", "T1", "T2", "T2_ROUNDS", "WIDE"]

KIND: Final = {
    "finance_ner": "tagger",
    "cs_intent": "classifier",
    "legal_clause": "classifier",
    "legal_risk": "classifier",
}
"""Kind of student; a clause's list of categories is taken whole as one label (benchmarks/students)."""

MAX_TOKENS: Final = {"finance_ner": 128, "cs_intent": 64, "legal_clause": 192, "legal_risk": 128, "cs_response": 160}

T1: Final = {task: EncoderOptions(max_tokens=MAX_TOKENS[task]) for task in KIND}
"""Frozen packaged MiniLM and a linear head, int8."""

WIDE: Final = {
    "cs_intent": Wide(cost=1.0, vector=1.0, near=1.0),
    "legal_clause": Wide(cost=0.5, vector=1.0, near=0.0),
    "legal_risk": Wide(cost=0.5, vector=1.0, near=0.5),
}
"""T2 of the classification tasks. On *router* and *stream*, learned from *seed* and *tiers*, accuracy and the share
that would be escalated by own confidence at the certificate's allowance (in brackets protocol 1's T2, three models):
cs_intent .917, .086 (.920, .088); legal_clause .772, .430 (.785, .424); legal_risk .929, .082 (.932, .090)."""

T2: Final = {
    "finance_ner": EncoderOptions(
        max_tokens=128, finetune=4, finetune_rate=2e-4, finetune_batch=16, tagged_layers=(-1,)
    ),
    **{task: EncoderOptions(max_tokens=MAX_TOKENS[task]) for task in WIDE},
}
"""T2 at the start; finance_ner's is fine-tuned."""

T2_ROUNDS: Final = {**T2, "finance_ner": replace(T2["finance_ner"], finetune_epochs=3)}
"""T2 in the rounds: the start's tagger was best after its third pass, a fourth is CPU time."""
