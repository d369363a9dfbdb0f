"""What every real tier of the structured tasks is; chosen by cross-validation on *seed* and *tiers* of TRAIN only."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from exporters.students.options import EncoderOptions, HeadOptions

__all__ = ["KIND", "MAX_TOKENS", "MEMBERS", "SECOND", "T1", "TUNED"]

KIND: Final = {"finance_ner": "tagger", "cs_intent": "classifier", "legal_clause": "classifier", "legal_risk": "classifier"}
"""Kind of student; a clause's list of categories is taken whole as one label (benchmarks/students)."""

MAX_TOKENS: Final = {"finance_ner": 128, "cs_intent": 64, "legal_clause": 192, "legal_risk": 128, "cs_response": 160}

T1: Final = {task: EncoderOptions(max_tokens=MAX_TOKENS[task]) for task in KIND}
"""Frozen packaged MiniLM and a linear head, int8."""

_TUNED = EncoderOptions(finetune=2, finetune_epochs=4, head=HeadOptions(label_smoothing=0.05))

TUNED: Final = {
    "finance_ner": EncoderOptions(
        max_tokens=128, finetune=4, finetune_rate=2e-4, finetune_batch=16, tagged_layers=(-1,)
    ),
    "cs_intent": replace(_TUNED, max_tokens=64),
    "legal_clause": replace(_TUNED, max_tokens=128),
    "legal_risk": replace(_TUNED, max_tokens=96, finetune_epochs=2),
}
"""The fine-tuned student in T3; the recipes measured in STUDENTS.md, shortened where texts are long or many."""

MEMBERS: Final = {
    "cs_intent": ("head", "svm", "near"),
    "legal_clause": ("svm",),
    "legal_risk": ("svm",),
}
"""Members of the blend (`blend.Blend`). Accuracy in 3 folds of *seed* + *tiers*, groups together, head alone / SVM alone /
all three: cs_intent .890 / .893 / .909; legal_clause .695 / .766 / .737; legal_risk .920 / .947 / .946."""

SECOND: Final = replace(TUNED["finance_ner"], finetune=6)
"""finance_ner: T2 is the fine-tuned tagger, T3 reads every word with this one too."""
