"""The options that say what is to be certified, shared by `fit` and `calibrate`."""

from __future__ import annotations

import sys

from routenlp_integrations.cli.output import warn
from router_core.claim import check_risk
from router_core.errors import InputError
from router_core.scopes import CERTIFY_BY

__all__ = [
    "AGE_HELP",
    "ALPHA_HELP",
    "BY_HELP",
    "DECISIONS_HELP",
    "DELTA_HELP",
    "RISK_HELP",
    "SIMULTANEOUS_HELP",
    "check_claim",
]

RISK_HELP = (
    "Kind of risk to certify: joint (bad cheap answers among all queries), selective (among the queries served by a "
    "cheap tier), retention (mean quality kept), expectation (joint, on average over calibration sets)."
)
ALPHA_HELP = (
    "Risk to certify, 0 to 1: the share that may get a bad cheap answer; for retention, the share of the reference's "
    "mean quality that may be lost."
)
DELTA_HELP = (
    "Probability, 0 to 1, over the draw of the calibration items, that the claim is false; not used by expectation."
)
BY_HELP = "What one certificate is about: task, leaf (each subtask on its own), or all (all tasks together)."
SIMULTANEOUS_HELP = "Divide delta by the number of certificates, so that all of them hold at once."
AGE_HELP = "Days after which the certificates lapse and running routers send every query to the reference tier."
DECISIONS_HELP = "Decisions under a certificate after which it lapses, counted by each running process for itself."


def check_claim(risk: str | None, delta: float | None, certify_by: str | None) -> None:
    """Refuse a claim that does not exist, and say when delta will not be used; None is whatever the default is."""
    if risk is not None:
        try:
            check_risk(risk)
        except InputError as error:
            raise InputError(f"--risk {risk!r}: {error}") from None
    if certify_by is not None and certify_by not in CERTIFY_BY:
        raise InputError(f"--certify-by {certify_by!r} is unknown; use task, leaf or all")
    if risk == "expectation" and delta is not None:
        warn("--delta is not used: --risk expectation holds on average over calibration sets", UserWarning, "", 0)
        sys.stderr.flush()
