"""Where finished routes go: into a ledger, and some of them to an audit. Nothing of it can fail an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from router_core.errors import InputError
from router_core.route import Answer, Attempt, Route

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from router_core.audits import AuditDecision, Auditor, AuditPlan
    from router_core.ledger import Ledger
    from router_core.router import Router, Start

__all__ = ["RouteLog", "left_route"]


class RouteLog:
    """A ledger, and what is audited of it.

    Parameters
    ----------
    ledger
        A `Ledger`, or the URL of one, which is then opened without texts.
    auditor
        Chooses and runs audits; None for none.
    """

    def __init__(self, ledger: Ledger, auditor: Auditor | None = None) -> None:
        self.ledger, self.auditor = ledger, auditor

    @property
    def own(self) -> bool:
        """Whether audits ask the tiers of whoever holds this log, and not ones that the application gave."""
        return self.auditor is not None and self.auditor.own

    @classmethod
    def of(
        cls,
        ledger: Ledger | str | None,
        audits: Auditor | AuditPlan | None,
        tiers: Mapping[str, Callable[[Any], Any]],
        price: Callable[[str, str, Answer], float],
    ) -> RouteLog | None:
        """Open what was asked for; None when nothing was. Without either, nothing of the ledger is imported.

        Parameters
        ----------
        ledger
            A `Ledger`, a URL, or None: the auditor's.
        audits
            A plan, from which an `Auditor` over these tiers is made, or an `Auditor`.
        tiers, price
            As for `Auditor`.

        Raises
        ------
        InputError
            When the ledger cannot be opened, a plan has no ledger to write to, or either is something else.
        MissingExtraError
            When SQLAlchemy is not installed.
        """
        if ledger is None and audits is None:
            return None
        from router_core.audits import Auditor, AuditPlan
        from router_core.ledger import Ledger

        kept: Any = Ledger(ledger) if isinstance(ledger, str) else ledger
        if kept is None and isinstance(audits, Auditor):
            kept = audits.ledger
        if not isinstance(kept, Ledger):
            given = "audits need a ledger" if kept is None else f"ledger is a {type(kept).__name__}"
            msg = f"{given}; give a Ledger or the URL of one, such as sqlite:///routenlp.db"
            raise InputError(msg)
        if isinstance(audits, Auditor) and audits.ledger is not kept:
            if not audits.own:
                raise InputError("the auditor writes to another ledger; make it with the ledger given here")
            audits = audits.plan
        if isinstance(audits, AuditPlan):
            auditor = Auditor(kept, tiers, price=price, plan=audits)
            auditor.own = True
            return cls(kept, auditor)
        given_audits: Any = audits
        if given_audits is not None and not isinstance(given_audits, Auditor):
            msg = f"audits is a {type(given_audits).__name__}; give an AuditPlan or an Auditor"
            raise InputError(msg)
        return cls(kept, given_audits)

    def begin(self) -> AuditDecision | None:
        """Decide about an audit, before anything is known of the answer."""
        with suppress(Exception):
            return None if self.auditor is None else self.auditor.decide()
        return None

    def keep(
        self,
        route: Route,
        decision: AuditDecision | None,
        start: Start,
        router: Router,
        *,
        answers: Mapping[str, Answer],
        models: Mapping[str, str],
        payload: Any = None,
        conversation: str | None = None,
        partial: str | None = None,
    ) -> Route:
        """Queue a finished route, and its audit if it was chosen; the route with its id.

        Parameters
        ----------
        route
            The route.
        decision
            From `begin`.
        start, router
            Where the query started, and whose query it is.
        answers, models
            By tier, what it returned and which model that came from.
        payload
            What the tiers were called with.
        conversation
            Id of the conversation.
        partial
            The tier whose answer is known in part only; an audit asks it again, or goes without.
        """
        try:
            name = self.ledger.append(
                route,
                text=start.text,
                answers=answers,
                models=models,
                reference=router.portfolio.reference.name,
                conversation=conversation,
                hidden=_hidden(start) if self.ledger.store_text else None,
                audit=decision,
            )
            if decision is not None and self.auditor is not None:
                whole = {tier: answer for tier, answer in answers.items() if tier != partial}
                self.auditor.submit(decision, route, start.text, payload, whole)
        except Exception:
            return route
        return replace(route, id=name)


def left_route(router: Router, start: Start, answers: Mapping[str, Answer], tier: str, why: str) -> Route:
    """The route of a query whose answer was not shown to its end: what it cost as far as known, and no certificate.

    Parameters
    ----------
    router, start
        Whose query it is, and where it started.
    answers
        By tier in the order they were asked, the last one as far as it was shown.
    tier
        Whose answer was being shown.
    why
        What ended it.
    """
    attempts = tuple(
        Attempt(name, None, router.price(name, start.text, answer), name == tier, why if name == tier else "escalated")
        for name, answer in answers.items()
    )
    cost = sum(attempt.cost_usd for attempt in attempts)
    return Route(
        tier, answers[tier], attempts, cost, start.task, start.scope, start.policy_name, router.bundle_id, None, why
    )


def _hidden(start: Start) -> NDArray[np.floating[Any]] | None:
    return None if start.before is None else start.before.prediction.hidden
