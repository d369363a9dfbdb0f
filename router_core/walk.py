"""The way of one query: call a tier, judge its answer, serve it or escalate, and keep the whole trace.

It is one generator, `walk`, that yields the tier to call and is sent its answer or its failure. It never waits and
never calls: the drivers (`router_core.driving`, `Cascade`, the framework integrations) do.
"""

from collections.abc import Collection
from typing import Literal

from router_core.driving import Steps
from router_core.errors import InputError, TierError
from router_core.limits import Limits
from router_core.router import Router, Start
from router_core.trace import Trace

__all__ = ["OnFailure", "OnReferenceFailure", "walk"]

OnFailure = Literal["reference", "next"]
OnReferenceFailure = Literal["raise", "best"]


def walk(  # noqa: PLR0912, PLR0915 - one query read from top to bottom is clearer than its pieces
    router: Router,
    start: Start,
    on_failure: OnFailure = "reference",
    on_reference_failure: OnReferenceFailure = "raise",
    *,
    limits: Limits | None = None,
    able: Collection[str] | None = None,
    run: str | None = None,
    prompt_tokens: int | None = None,
) -> Steps:
    """Walk one query through the tiers.

    Yields the tier to call as a `Step` and expects its `Answer`, or the exception it raised, to be sent. Close the
    generator if the query is abandoned, so that nothing stays reserved for it.

    Each tier is asked at most once, by at most ``1 + max_retries`` calls.

    Parameters
    ----------
    router
        A loaded router.
    start
        From `Router.start`.
    on_failure
        Where a query goes when a cheap tier fails, rests (its circuit breaker is open), cannot take it, or answers in
        a way calib did not have: the reference tier, which keeps a certificate of the joint risk (also one in
        expectation) and voids any other, for all queries until that tier has answered again (`router_core.outages`), or
        the next tier up, which voids them all.
    on_reference_failure
        When the reference tier fails or rests: raise `TierError`, or serve the best answer so far uncertified.
    limits
        Retries, time-outs, circuit breaker, budget; none by default.
    able
        Names of the tiers that can take this query (tools, images, context length); None means all. If the reference
        tier cannot, the last one that can stands in for it, uncertified.
    run
        Id of the agent run or conversation that a budget per run counts for.
    prompt_tokens
        Tokens a tier will be sent, for expected prices; estimated from the routed text when None.

    Returns
    -------
    Route

    Raises
    ------
    InputError
        When `able` names no tier, or an unknown one.
    TierError
        When the reference tier fails and no answer may be served instead.
    BudgetError
        When a call would exceed the budget and nothing may be served instead.
    """
    names, last = router.portfolio.names, len(router.portfolio.tiers) - 1
    candidates = _candidates(names, able)
    final = max(candidates)
    trace = Trace(router, start, limits or Limits(), run, prompt_tokens)
    kept = router.outlives_departure(start)
    tier, reason, unjudged = start.tier, start.reason, start.forced
    trace.void = "" if tier == last and kept else start.departure
    while True:
        if tier >= final != last:
            trace.void = f"{names[last]} cannot take this query"
            tier, reason = final, f"{trace.void}; sent to {names[final]}" if tier > final else reason
        if tier in candidates:
            chosen = trace.afford(tier, candidates)
            if chosen is None:
                return trace.stop()
            if chosen != tier:
                tier, unjudged, reason = chosen, True, f"{trace.beyond}; sent to {names[chosen]}"
                trace.void = trace.void if tier == last and kept else trace.void or reason
        end = tier == final
        outcome = yield from trace.ask(tier, able=tier in candidates, final=end or unjudged, last=end)
        answer, failed = outcome.answer, outcome.failed
        if end:
            if answer is not None:
                trace.add(tier, outcome, True, reason)
                return trace.serve(answer, reason)
            trace.add(tier, outcome, False, failed)
            if on_reference_failure == "best" and trace.best is not None:
                return trace.serve_best(f"{failed}; best cheap answer served uncertified")
            what = "reference tier" if final == last else "last tier that can take this query"
            msg = f"the {what} failed and no other answer may be served: {failed}"
            raise TierError(msg) from outcome.error
        served = answer is not None and (answer.shown or unjudged)
        if answer is None or (answer.covered and not served):
            why = failed if answer is None else answer.covered
            trace.add(tier, outcome, False, why)
            if answer is not None:
                trace.keep(tier, answer, None)
            if on_failure == "next" and not trace.stopped:
                trace.void = f"{why}; went one tier up"
                tier = start.policy.following(tier) if start.policy is not None else last
            else:
                tier = last
                if not kept:
                    trace.void = f"{why}; only a joint risk outlives a departure from the policy"
            reason = f"{why}; sent to {names[tier]}"
            continue
        accepted, confidence, why = True, None, reason
        following = start.policy.following(tier) if start.policy is not None else last
        if not unjudged:
            accepted, confidence, why = router.accept(start, tier, answer.text, trace.tried, answer.signals)
            if answer.invalid:
                if accepted and not served:
                    router.outages.departed(names[tier], f"{names[tier]}: {answer.invalid}")
                    if not (following == last and kept):
                        trace.void = trace.void or f"{answer.invalid}; escalated against the policy"
                accepted, why = False, answer.invalid if served else f"{answer.invalid}; escalated"
        if served and (answer.covered or not accepted):
            trace.void = trace.void or f"{answer.covered or why}, after it was shown"
            accepted = True
        trace.add(tier, outcome, accepted, why, confidence)
        if accepted:
            return trace.serve(answer, why)
        trace.tried[names[tier]] = answer.text
        trace.keep(tier, answer, confidence)
        reason, tier = why, following


def _candidates(names: tuple[str, ...], able: Collection[str] | None) -> frozenset[int]:
    """Positions of the tiers that can take a query."""
    if able is None:
        return frozenset(range(len(names)))
    if not able or not set(able) <= set(names):
        given = ", ".join(sorted(map(str, able))) or "none"
        raise InputError(f"able must name one or more of the tiers {', '.join(names)}; given were {given}")
    return frozenset(names.index(name) for name in able)
