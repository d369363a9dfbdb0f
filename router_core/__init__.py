"""The runtime and the statistics of RouteNLP: decide, cascade, calibrate, certify, record."""

from router_core.breaker import Breaker
from router_core.budget import Budget
from router_core.cascade import Answer, Attempt, Cascade, Route
from router_core.errors import BudgetError, BundleError, InputError, MissingExtraError, RouteNLPError, TierError
from router_core.limits import Limits
from router_core.portfolio import Portfolio, Tier
from router_core.retries import RetryPolicy
from router_core.router import Decision, Router
from router_core.sticky import Sticky

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
]
