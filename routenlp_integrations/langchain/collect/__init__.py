"""Graded records for those who have none: ask every tier, grade, and write the record schema.

The way of a run: `read_tiers` says who is asked and what it costs, a `Journal` keeps every answer as it comes, a
`Purse` never lets a call start that the budget could not pay, `Collection` asks, and `record_rows` grades what came.
"""

from routenlp_integrations.langchain.collect.asking import Asker
from routenlp_integrations.langchain.collect.journal import Entry, Journal
from routenlp_integrations.langchain.collect.purse import Purse
from routenlp_integrations.langchain.collect.rows import Graded, record_rows
from routenlp_integrations.langchain.collect.run import Collection, Outcome, asking_order
from routenlp_integrations.langchain.collect.tiers_file import Asked, read_tiers

__all__ = [
    "Asked",
    "Asker",
    "Collection",
    "Entry",
    "Graded",
    "Journal",
    "Outcome",
    "Purse",
    "asking_order",
    "read_tiers",
    "record_rows",
]
