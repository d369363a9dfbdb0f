"""RouteNLP: every query to the cheapest model that can be shown, at a risk you name, to answer it well enough.

This package only names what lives elsewhere: `router_core` (runtime and statistics), `routenlp_integrations`
(LangChain, command line) and `exporters`.
"""

from importlib import metadata

from router_core import (
    Answer,
    Attempt,
    Breaker,
    Budget,
    BudgetError,
    BundleError,
    Cascade,
    Decision,
    InputError,
    Limits,
    MissingExtraError,
    Portfolio,
    RetryPolicy,
    Route,
    RouteNLPError,
    Router,
    Sticky,
    Tier,
    TierError,
)

__all__ = [
    "Answer",
    "Attempt",
    "Breaker",
    "Budget",
    "BudgetError",
    "BundleError",
    "Cascade",
    "Decision",
    "InputError",
    "Limits",
    "MissingExtraError",
    "Portfolio",
    "RetryPolicy",
    "Route",
    "RouteNLPError",
    "Router",
    "Sticky",
    "Tier",
    "TierError",
    "__version__",
]

__version__ = metadata.version("routenlp")
