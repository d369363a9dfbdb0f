"""Which encoder: a candidate is fitted with each, and the faster is taken unless a slower one saves enough.

Costs are those expected of the cascades once certified, as the choice of a path sees them: from tune or out-of-fold
train and the number of calib items, nothing else of calib. Latency is measured on this machine, so it stands apart from
what the bundle's id is made of; only the order that it gives bears on the choice.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from router_core.encoder import Encoder, EncoderTrainer, load_encoder
from router_core.errors import InputError
from router_core.fitting.fitter import Fitter
from router_core.fitting.frozen import Candidate
from router_core.fitting.stack import StackTrainer
from router_core.fitting.tables import Progress
from router_core.splits import Prepared

if TYPE_CHECKING:
    from router_core.fitting.fit_bundle import FitSettings

__all__ = ["Chosen", "choose_encoder", "measure_latency", "prefer"]

_TEXTS, _ROUNDS = 25, 5


@dataclass(frozen=True, eq=False)
class Chosen:
    """The candidate that goes on to calib.

    Attributes
    ----------
    fitter, candidate
        The work and its result.
    report
        What was compared, for the bundle's report; empty where there was one trainer.
    measured
        Milliseconds of one prediction (`measure_latency`), by trainer; empty where there was one.
    """

    fitter: Fitter
    candidate: Candidate
    report: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)


def choose_encoder(
    prepared: Prepared, settings: FitSettings, trainers: Sequence[EncoderTrainer], progress: Progress | None = None
) -> Chosen:
    """Fit a candidate with each trainer and take one.

    Parameters
    ----------
    prepared
        Records with their splits.
    settings
        What to show; `encoder_saving` is the share of cost that a slower encoder must save.
    trainers
        At least one. With several, one that cannot learn from these records is left out and its reason told; a stack
        settles on its last base by the costs of the trainers before it.
    progress
        Called as the work goes on, with the trainer's name where there are several.

    Raises
    ------
    InputError
        When no trainer can learn from these records: the first one's reason.
    """
    if len(trainers) == 1:
        work = Fitter(prepared, settings, trainers[0], progress)
        return Chosen(work, work.candidate())
    known: dict[str, Any] = {}
    fitted: list[tuple[str, Fitter, Candidate, Encoder]] = []
    refused: dict[str, InputError] = {}
    for given in trainers:
        costs = {name: work.expected_cost_ratio for name, work, *_ in fitted}
        trainer = given.settled(costs, settings.encoder_saving) if isinstance(given, StackTrainer) else given
        work = Fitter(prepared, settings, trainer, _named(trainer.name, progress), known)
        try:
            candidate = work.candidate()
            served = load_encoder(candidate.scorer.encoder.parts())
        except InputError as error:
            refused[trainer.name] = error
            continue
        fitted.append((trainer.name, work, candidate, served))
    if not fitted:
        raise next(iter(refused.values()))
    texts = [prepared.records.prompt[i] for i in prepared.train.tolist()]
    latency = measure_latency([served for *_, served in fitted], texts)
    ratios = [work.expected_cost_ratio for _, work, *_ in fitted]
    order, path = prefer(ratios, latency, settings.encoder_saving)
    names = [name for name, *_ in fitted]
    report = {
        "compared": [{"encoder": names[i], "expected_cost_ratio": round(ratios[i], 6)} for i in order],
        "left_out": {name: str(error) for name, error in refused.items()},
        "saving": settings.encoder_saving,
        "chosen": names[path[-1]],
        "why": _why(names, ratios, path, settings.encoder_saving),
    }
    _, work, candidate, _ = fitted[path[-1]]
    return Chosen(work, candidate, report, {names[i]: round(latency[i], 3) for i in order})


def prefer(costs: Sequence[float], latency: Sequence[float], saving: float) -> tuple[list[int], list[int]]:
    """Go from the fastest to the slowest, moving on only for a cost lower by more than a share `saving`.

    Returns
    -------
    tuple
        All by latency (equal ones as given), and those that were held on the way, of which the last is taken.
    """
    order = sorted(range(len(costs)), key=lambda i: latency[i])
    path = [order[0]]
    for i in order[1:]:
        if costs[i] < (1.0 - saving) * costs[path[-1]]:
            path.append(i)
    return order, path


def measure_latency(encoders: Sequence[Encoder], texts: Sequence[str]) -> list[float]:
    """Milliseconds of one prediction by each encoder: median over texts of the fastest of a few rounds.

    The fastest, because on a busy machine the others measure its other work, and would shuffle encoders of like speed;
    taken in turns, so that a busy moment meets them all.

    Parameters
    ----------
    encoders
        As they will be served.
    texts
        A sample of fixed size is drawn by their hashes; each is made new, since an encoder may remember texts.
    """
    sample = sorted(set(texts), key=lambda text: hashlib.sha256(text.encode("utf-8", "replace")).digest())[:_TEXTS]
    spent = np.zeros((len(encoders), _ROUNDS, len(sample)))
    for again in range(_ROUNDS):
        for at, text in enumerate(sample):
            for number, encoder in enumerate(encoders):
                began = time.perf_counter()
                encoder.predict(f"{text} {again}", None, None)
                spent[number, again, at] = 1e3 * (time.perf_counter() - began)
    return [float(value) for value in np.median(spent.min(axis=1), axis=1)]


def _why(names: Sequence[str], costs: Sequence[float], path: Sequence[int], saving: float) -> str:
    """The choice in one sentence."""
    if len(names) == 1:
        return f"{names[0]} is the only one that could learn from these records"
    if len(path) == 1:
        return (
            f"{names[path[0]]} is the fastest, and none that is slower saves more than {100 * saving:g} % of the cost"
        )
    before, last = path[-2], path[-1]
    share = 100 * (1 - costs[last] / costs[before])
    return (
        f"{names[last]} is slower than {names[before]} but saves {share:.1f} % of the expected cost; more than "
        f"{100 * saving:g} % was asked of it"
    )


def _named(name: str, progress: Progress | None) -> Progress | None:
    if progress is None:
        return None
    return lambda what, done, total: progress(f"{name}: {what}", done, total)
