"""What the notebooks share: the packaged demo data, pictures of routes, and a population whose risks are known."""

from routenlp_integrations.notebook.demo import (
    Question,
    demo_bundle,
    demo_logs,
    demo_portfolio,
    demo_records,
    questions,
)
from routenlp_integrations.notebook.population import REFERENCE, Population, path_bad_counts
from routenlp_integrations.notebook.routes import by_tier, picture_routes, picture_street

__all__ = [
    "REFERENCE",
    "Population",
    "Question",
    "by_tier",
    "demo_bundle",
    "demo_logs",
    "demo_portfolio",
    "demo_records",
    "path_bad_counts",
    "picture_routes",
    "picture_street",
    "questions",
]
