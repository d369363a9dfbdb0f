"""What every real tier of the structured tasks is; chosen by cross-validation on *seed* and *tiers* of TRAIN only."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from exporters.students.options import EncoderOptions, HeadOptions

__all__ = ["KIND", "MAX_TOKENS", "MEMBERS", "SECOND", "T1", "TUNED"]

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

_TUNED = EncoderOptions(finetune=2, finetune_epochs=4, head=HeadOptions(label_smoothing=0.05))

TUNED: Final = {
    "finance_ner": EncoderOptions(
        max_tokens=128, finetune=4, finetune_rate=2e-4, finetune_batch=16, tagged_layers=(-1,)
    ),
    "cs_intent": replace(_TUNED, max_tokens=64),
    "legal_clause": replace(_TUNED, max_tokens=128),
}
"""The fine-tuned student in T3; the recipes measured in benchmarks/students, shortened where texts are long. legal_risk
has none (6,717 texts, CPU time): its T3 is the blend of all three members."""

MEMBERS: Final = {
    ("cs_intent", "t2"): ("head", "svm", "near"),
    ("cs_intent", "t3"): ("head", "svm", "near"),
    ("legal_clause", "t2"): ("svm",),
    ("legal_clause", "t3"): ("svm",),
    ("legal_risk", "t2"): ("svm",),
    ("legal_risk", "t3"): ("head", "svm", "near"),
}
"""Members of the blend (`blend.Blend`); T3 adds the fine-tuned student. Accuracy in 3 folds of *seed* + *tiers*, groups
together, head alone / SVM alone / all three: cs_intent .890 / .893 / .909; legal_clause .695 / .766 / .737; legal_risk
.920 / .947 / .946."""

SECOND: Final = replace(TUNED["finance_ner"], finetune=6)
"""finance_ner: T2 is the fine-tuned tagger, T3 reads every word with this one too."""
