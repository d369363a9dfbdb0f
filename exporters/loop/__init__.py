"""The closed loop: what the cheap tier fails at becomes what it learns, and nothing unproven is promoted."""

from exporters.loop.fresh import FreshAudits
from exporters.loop.gate import CHECKS, Measurements, Verdict, judge
from exporters.loop.options import Limits, LoopOptions, TaskPlan
from exporters.loop.reporting import RoundReport
from exporters.loop.rounds import run_round
from exporters.loop.starting import start

__all__ = [
    "CHECKS",
    "FreshAudits",
    "Limits",
    "LoopOptions",
    "Measurements",
    "RoundReport",
    "TaskPlan",
    "Verdict",
    "judge",
    "run_round",
    "start",
]
