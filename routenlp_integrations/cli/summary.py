"""A bundle as plain values: what it is, what was shown of it, what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from router_core.promises import overall_certificate

if TYPE_CHECKING:
    from router_core.bundle import Bundle

__all__ = ["POLICIES", "VOID", "add_allowed", "cost_sentence", "summarise"]

POLICIES = ("cascade", "route_only")

VOID = (
    "any change of router, tier, prompt, decoding, metric, tolerance or path",
    "traffic that differs from the calibration data",
    "tools, structured output, a budget, stickiness, a failing or a forced tier, unless the risk is joint (also in "
    "expectation) and the query then goes straight to the reference tier",
    "a choice of alpha, delta, tolerance or tiers made after looking at the result on the same calibration items",
)
"""What ends a certificate, for readers."""

_COSTS = {
    "recorded": "as recorded",
    "estimated": "as in the records, which call them estimated",
    "computed": "recorded tokens at the portfolio's prices",
    "assumed": "ASSUMED: some token counts are assumptions, not measurements; see assumed_completion_tokens below",
}


def summarise(bundle: Bundle, path: str) -> dict[str, Any]:
    """Everything `inspect` and `fit` tell of a bundle.

    Parameters
    ----------
    bundle
        A loaded bundle.
    path
        Where it lies.

    Returns
    -------
    dict
        JSON-ready; `certificates` holds those of both policies and of the stored rivals, each with its
        sentence, `missing` the scopes too small to certify with the n they need.
    """
    settings, report = bundle.settings, bundle.report
    tiers = []
    for tier in bundle.portfolio.tiers:
        fields = {
            "name": tier.name,
            "input_usd_per_m": tier.input_usd_per_m,
            "output_usd_per_m": tier.output_usd_per_m,
            "usd_per_call": tier.usd_per_call,
            "assumed_completion_tokens": tier.assumed_completion_tokens,
            "latency_ms": tier.latency_ms,
            "fingerprint": tier.model or tier.name,
            "price_basis": report.get("price_basis", {}).get(tier.name),
        }
        tiers.append(fields)
    certificates = [_certificate(bundle, *key) for key in sorted(bundle.certificates, key=_order)]
    short = {c["scope"]: c for c in certificates if c["n"] < c["minimum_n"]}
    return {
        "bundle": bundle.id,
        "path": path,
        "candidate": report.get("candidate"),
        "encoder": report.get("encoder"),
        "encoders": _encoders(bundle),
        "tiers": tiers,
        "reference": bundle.portfolio.reference.name,
        "tasks": {task: list(subtasks) for task, subtasks in bundle.scopes.subtasks.items()},
        "settings": {
            **{key: settings[key] for key in ("risk", "alpha", "delta", "tolerance", "seed")},
            "delta_each": settings.get("delta_each", settings["delta"]),
            "certify_by": settings.get("certify_by", "task"),
            "simultaneous": settings.get("simultaneous", False),
        },
        "promises": bundle.scopes.promises,
        "overall": overall_certificate(bundle),
        "calibrated": report.get("calibrated"),
        "records": report.get("source"),
        "drops": report.get("drops"),
        "splits": report.get("splits"),
        "cost_basis": report.get("cost_basis"),
        "keys": {name: len(getattr(bundle.keys, name)) for name in ("train", "tune", "calib")},
        "certificates": certificates,
        "missing": [{"scope": c["scope"], "n": c["n"], "minimum_n": c["minimum_n"]} for c in short.values()],
        "void": list(VOID),
        "validity": {name: bundle.settings.get(name) for name in ("max_age_days", "max_decisions")},
        "choices": report.get("choices", {}),
    }


def add_allowed(summary: dict[str, Any]) -> dict[str, Any]:
    """Add to each certificate how many bad answers its n permits, for the risks where that is one number."""
    from router_core.certificate import allowed_bad, crc_allowed

    for shown in summary["certificates"]:
        if shown["risk"] == "joint":
            shown["allowed"] = allowed_bad(shown["n"], shown["alpha"], shown["delta"])
        elif shown["risk"] == "expectation":
            shown["allowed"] = crc_allowed(shown["n"], shown["alpha"])
    return summary


def cost_sentence(basis: str | None) -> str:
    """Where the costs come from, in words."""
    return _COSTS.get(basis or "", f"{basis} (the records' own word)")


def _encoders(bundle: Bundle) -> dict[str, Any] | None:
    """The comparison behind ``--encoder auto``, with the latency measured then; None where nothing was compared."""
    told = bundle.report.get("encoders")
    if not told:
        return None
    latency = bundle.measured.get("latency_ms", {})
    compared = [
        {**one, "latency_ms": latency.get(one["encoder"]), "chosen": one["encoder"] == told["chosen"]}
        for one in told["compared"]
    ]
    return {**told, "compared": compared}


def _order(key: tuple[str, str]) -> tuple[bool, str, int, str]:
    scope, name = key
    rank = POLICIES.index(name) if name in POLICIES else len(POLICIES)
    return scope == "*", scope, rank, name


def _certificate(bundle: Bundle, scope: str, name: str) -> dict[str, Any]:
    shown = bundle.certificates[scope, name]
    choice = bundle.report.get("choices", {}).get(scope, {}).get(name, {})
    steps = bundle.settings.get("step_cost", {}).get(f"{scope}|{name}", [])
    # Step 0 sends everything to the reference tier, so its cost is what the ratio is to.
    known = shown.step < len(steps) and steps[0] > 0
    return {
        **shown.to_json(),
        "steps": max(len(steps) - 1, 0),
        "path": choice.get("scale"),
        "path_tiers": choice.get("tiers", []),
        "cost_ratio": steps[shown.step] / steps[0] if known else None,
        "expected_cost_ratio": choice.get("expected_cost_ratio"),
        "sentence": shown.describe(),
    }
