"""The runtime and the statistics of RouteNLP: decide, cascade, calibrate, certify, record."""

from router_core.cascade import Answer, Attempt, Cascade, Route
from router_core.errors import BundleError, InputError, MissingExtraError, RouteNLPError, TierError
from router_core.portfolio import Portfolio, Tier
from router_core.router import Decision, Router

__all__ = [
    "Answer",
    "Attempt",
    "BundleError",
    "Cascade",
    "Decision",
    "InputError",
    "MissingExtraError",
    "Portfolio",
    "Route",
    "RouteNLPError",
    "Router",
    "Tier",
    "TierError",
]
