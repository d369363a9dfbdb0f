"""What is decided of one query before anything is generated: where it starts, and what a caller is told of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from router_core.policy import Policy
from router_core.scoring import Before
from router_core.show import decision_html

__all__ = ["Decision", "Start"]


@dataclass(frozen=True, slots=True)
class Start:
    """Where one query starts, and under which policy it goes on.

    `policy` and `before` are None when no policy applies: the query goes to the reference tier, or was
    `forced` to `tier`, whose answer is then served unjudged. `departure` says why this start is not the policy's own;
    only a start at the reference tier keeps a certificate then, if its kind of risk allows it. When the certificate had
    `lapsed` nothing is claimed.
    """

    text: str
    task: str | None
    scope: str | None
    policy_name: str
    tier: int
    reason: str
    policy: Policy | None
    before: Before | None
    forced: bool = False
    departure: str = ""
    lapsed: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What the router decides before anything is generated.

    Attributes
    ----------
    tier
        Name of the tier to call.
    pass_probability
        Per tier, the probability that its answer is not bad.
    difficulty
        Expected position of the cheapest passing tier, 0 (the cheapest) to 1 (only the reference).
    scope, policy
        Whose promise applies; the scope is None for a task never calibrated.
    certificate
        What was shown of the policy, None when nothing was.
    reason
        One sentence with the numbers that decided.
    """

    tier: str
    pass_probability: dict[str, float]
    difficulty: float
    scope: str | None
    policy: str
    certificate: dict[str, Any] | None
    reason: str

    def _repr_html_(self) -> str:
        return decision_html(self)
