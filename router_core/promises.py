"""What a bundle promises as a whole, beside the certificate of each scope, and a promise in few words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router_core.bundle import Bundle
from router_core.claim import Certificate
from router_core.policy import CASCADE
from router_core.scopes import ALL

__all__ = ["claim_json", "claimed", "overall_certificate", "seen"]


def overall_certificate(bundle: Bundle) -> dict[str, Any] | None:
    """What was shown of all tasks together, None unless one certificate, or all of them at once, covers them.

    With ``certify_by="all"`` it is the certificate of that scope. With ``simultaneous`` every task's certificate holds
    at once with probability 1 - delta, so each risk, being a mean over queries, is also bounded on any mix of tasks;
    a task without a certificate is served by the reference tier, which breaks no bound.
    """
    settings, scopes = bundle.settings, bundle.scopes
    if scopes.by == "all":
        return claim_json(bundle.certificates[ALL, CASCADE])
    if not settings.get("simultaneous"):
        return None
    parts = [bundle.certificates[view.scope, CASCADE] for view in scopes.views if not view.scope.endswith("*")]
    certified = [part for part in parts if part.certified]
    bad = None if settings["risk"] == "retention" else sum(part.bad or 0 for part in parts)
    return {
        "risk": settings["risk"],
        "alpha": settings["alpha"],
        "delta": settings["delta"],
        "n": sum(part.n for part in parts),
        "bad": bad,
        "certified": bool(certified),
        "lower_bound": certified[0].lower_bound if certified else None,
    }


def claim_json(shown: Certificate) -> dict[str, Any]:
    """What was shown, under the keys of ``evaluate --json``."""
    keys = ("risk", "alpha", "delta", "n", "bad", "certified", "lower_bound")
    return {key: getattr(shown, key) for key in keys}


def claimed(shown: Mapping[str, Any]) -> str:
    """Risk and levels of a certificate, or of settings, in few words."""
    alpha, sure = f"{shown['alpha']:g}", "" if shown["delta"] is None else f", confidence {1 - shown['delta']:.6g}"
    if shown["risk"] == "retention":
        return f"mean quality at least {1 - shown['alpha']:.6g} of the reference's{sure}"
    if shown["risk"] == "expectation":
        return f"joint risk at most {alpha} in expectation over calibration sets"
    return f"{shown['risk']} risk at most {alpha}{sure}"


def seen(shown: Mapping[str, Any]) -> str:
    """What calib showed: bad answers of its items, or its items alone where none are counted."""
    return f"n {shown['n']}" if shown["bad"] is None else f"{shown['bad']}/{shown['n']} bad"
