"""Encoder students: pairs in, a checked, calibrated checkpoint out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.fence import NO_KEYS, Keys, refuse_calib
from exporters.students.bodies import (
    Read,
    TextBody,
    TokenBody,
    export_student_body,
    features_of,
    frozen_graphs,
)
from exporters.students.calibrating import calibration_error, fit_platt, fit_temperature
from exporters.students.data import Pair, lineage_of, mix, set_tune_aside
from exporters.students.finetune import finetune_student
from exporters.students.heads import Fitted, Head, Targets, Tick, export_head, fit_head
from exporters.students.options import ENCODER_KINDS, EncoderOptions
from exporters.students.task import Task
from exporters.transformer.graph import merge
from exporters.transformer.int8 import quantise_plainly
from exporters.transformer.labels import group_folds
from exporters.transformer.source import Source, keep_layers, load_source
from router_core.checkpoint import Checkpoint, StudentSpec
from router_core.errors import BundleError, InputError
from router_core.own_confidence import Calibration
from router_core.student import make_student
from router_core.text_tokens import TextTokens

__all__ = ["train_encoder"]

Floats = NDArray[np.float32]
Rows = NDArray[np.intp]

_CHECKED = 300
"""TUNE texts at most on which int8 is compared with float32."""

_SERVED = 100
"""TUNE prompts at most that the finished checkpoint answers before it is handed out."""


def train_encoder(
    kind: str,
    pairs: Sequence[Pair],
    options: EncoderOptions | None = None,
    *,
    tier: str,
    replay: Sequence[Pair] = (),
    labels: Sequence[str] = (),
    calib: Keys = NO_KEYS,
    lineage: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Tick | None = None,
) -> Checkpoint:
    """Train an encoder student.

    Parameters
    ----------
    kind
        ``"classifier"``, ``"multilabel"`` or ``"tagger"``.
    pairs
        What is to be learned.
    options
        How.
    tier
        Tier it is made for.
    replay
        Pairs learned earlier, mixed in against forgetting.
    labels
        Labels that keep their places, as of the parent; new ones follow.
    calib
        Hashed keys of calibration items (``bundle.keys.calib``); a pair that has one is refused.
    lineage
        For `Checkpoint.lineage`; the seed, the mix and what the teacher cost are added.
    seed
        Fixes everything random: the same input gives the same bytes on the same machine.
    progress
        Called with what is done, steps done and steps at most.

    Raises
    ------
    InputError
        For pairs that no student of the kind can learn from, or a quantised student too far from the float32 one.
    """
    options = options or EncoderOptions()
    if kind not in ENCODER_KINDS:
        raise InputError(f"an encoder student is {', '.join(ENCODER_KINDS)}, not {kind!r}")
    start = time.perf_counter()
    by_answer = kind != "tagger"
    mixed = mix(pairs, replay, options.replay_ratio, seed, by_answer=by_answer)
    refuse_calib("training pairs", (key for pair in mixed for key in pair.keys), calib)
    folded = bool(options.folds) and not options.finetune and not any(pair.split for pair in mixed)
    if not folded:
        mixed = set_tune_aside(mixed, by_answer=by_answer)
    task = Task.of(kind, mixed, labels, options)
    source = _source(task.texts, options, seed, progress)
    tokens = TextTokens(source.tokenizer, options.max_tokens)
    read = (Read.words if kind == "tagger" else Read.texts)(task.texts, tokens)
    made = _Making(task, read, options, seed, progress).made(source, folded=folded)
    calibration, said, right = _calibration(task, read, made)
    spec = StudentSpec(
        kind, task.labels, options.max_tokens, tokens.digest(), options.prompt_template, calibration,
        {"threshold": options.threshold} if kind == "multilabel" else {},
    )  # fmt: skip
    checkpoint = Checkpoint(tier, spec, {"model.onnx": made.graph, "tokenizer.json": source.tokenizer})
    _check(checkpoint, task, made)
    told = {
        "agreement": made.agreement, "epochs": made.fitted.best, "pairs": len(mixed), "labels": len(task.labels),
        "bytes": len(made.graph), "seconds": round(time.perf_counter() - start, 1),
        **_told(task, made, calibration, said, right),
    }  # fmt: skip
    made_of = {"seed": seed, "encoder": options.source, "finetune": options.finetune}
    return replace(checkpoint, lineage=lineage_of(mixed, lineage, made_of), metrics=told)


@dataclass(frozen=True, eq=False)
class _Made:
    """A student before its calibration; `held` texts were not learned from by the head that gave `logits`."""

    graph: bytes
    fitted: Fitted
    agreement: float
    held: Rows
    logits: NDArray[np.float64]
    folded: bool


@dataclass(frozen=True, eq=False)
class _Making:
    task: Task
    read: Read
    options: EncoderOptions
    seed: int
    progress: Tick | None

    def made(self, source: Source, *, folded: bool) -> _Made:
        read, options, targets = self.read, self.options, self.task.targets(self.read)
        held = np.array([i for i, pair in enumerate(self.task.pairs) if folded or pair.split == "tune"], dtype=np.intp)
        fitted: Fitted | None = None
        if options.finetune:
            source, body, fitted = finetune_student(
                source, read, targets, held, options, seed=self.seed, progress=self.progress
            )
            exact = export_student_body(source, body)
            served = quantise_plainly(exact) if options.quantised else exact
        else:
            body = TokenBody(source, options.tagged_layers, learned=False) if read.shapes else TextBody(source)
            exact, served = frozen_graphs(source, body, quantised=options.quantised)
        features = features_of(served, read, held.tolist() if fitted else None, self.progress)
        if fitted is None:
            fitted, logits = (self._folds if folded else self._tuned)(features, targets, held, body.plain)
        else:
            logits = _logits(fitted.head, features)
        some = np.random.default_rng(self.seed).permutation(held)[:_CHECKED].tolist()
        alike = 1.0
        if options.quantised:
            alike = self._agreement(
                *(_logits(fitted.head, features_of(graph, read, some)) for graph in (served, exact))
            )
        graph = merge(served, export_head(fitted.head, 3 if read.shapes else 2))
        return _Made(graph, fitted, alike, held, logits, folded)

    def _tuned(self, features: Floats, targets: Targets, held: Rows, plain: int) -> tuple[Fitted, NDArray[np.float64]]:
        mask = self._mask(held, len(features))
        fitted = fit_head(
            features[~mask], targets.at(~mask), (features[mask], targets.at(mask)), self.options, seed=self.seed,
            plain=plain, progress=self.progress,
        )  # fmt: skip
        return fitted, _logits(fitted.head, features[mask])

    def _folds(self, features: Floats, targets: Targets, held: Rows, plain: int) -> tuple[Fitted, NDArray[np.float64]]:
        """A head that learns from all rows, for as many passes as heads of folds needed; their out-of-fold logits."""
        fold = group_folds(self.task.texts, self.options.folds, self.seed)
        logits = np.zeros((len(features), targets.hard.shape[1]))
        best, losses = [], []
        for number in range(self.options.folds):
            mask = self._mask(np.flatnonzero(fold == number), len(features))
            if not mask.any() or mask.all():
                continue
            one = fit_head(
                features[~mask], targets.at(~mask), (features[mask], targets.at(mask)), self.options, seed=self.seed,
                plain=plain, progress=self.progress,
            )  # fmt: skip
            logits[mask] = _logits(one.head, features[mask])
            best.append(one.best)
            losses.append(min(one.tune_loss))
        if not best:
            raise InputError(f"{len(held)} pairs are too few to learn from and check on; give more, of other texts")
        passes = max(1, round(float(np.mean(best))))
        fitted = fit_head(features, targets, passes, self.options, seed=self.seed, plain=plain, progress=self.progress)
        return Fitted(fitted.head, passes, (round(float(np.mean(losses)), 6),)), logits

    def _mask(self, texts: Rows, rows: int) -> NDArray[np.bool_]:
        mask = np.zeros(rows, dtype=bool)
        for i in texts.tolist():
            mask[self.read.rows[i]] = True
        return mask

    def _agreement(self, served: NDArray[np.float64], exact: NDArray[np.float64]) -> float:
        if self.task.kind == "multilabel":
            bar = np.log(self.options.threshold) - np.log1p(-self.options.threshold)
            alike = float(((served >= bar) == (exact >= bar)).all(-1).mean())
        else:
            alike = float((served.argmax(-1) == exact.argmax(-1)).mean())
        if alike < self.options.min_agreement:
            raise InputError(
                f"The quantised student gives the float32 one's answers on {alike:.3f} of {len(served)} rows (at least "
                f"{self.options.min_agreement} is asked); serve float32 (quantised=False)."
            )
        return round(alike, 4)


def _logits(head: Head, features: Floats) -> NDArray[np.float64]:
    import torch

    with torch.no_grad():
        return np.asarray(head(torch.from_numpy(features)).numpy(), dtype=np.float64)


def _calibration(task: Task, read: Read, made: _Made) -> tuple[Calibration, NDArray[np.float64], NDArray[np.bool_]]:
    """A temperature where one label is chosen, then Platt's sigmoid; with what was said and whether it was right."""
    heat = fit_temperature(made.logits, task.wanted(made.held)) if task.kind == "classifier" else 1.0
    said, right = task.judge(made.logits / heat, read, made.held)
    return fit_platt(said, right, heat), said, right


def _check(checkpoint: Checkpoint, task: Task, made: _Made) -> None:
    """The checkpoint must be served, and where its own head gave the logits, give the very answers."""
    try:
        student = make_student(checkpoint)
        found = student.answer_many([task.pairs[i].prompt for i in made.held.tolist()[:_SERVED]])
    except BundleError as error:
        raise InputError(f"The student that was made cannot be served ({error})") from error
    if task.kind == "classifier" and not made.folded:
        wanted = [task.labels[j] for j in made.logits.argmax(-1).tolist()]
        if [one.text for one in found] != wanted[: len(found)]:
            raise InputError("The exported graph does not give the answers it was fitted with; please report this.")


def _told(
    task: Task, made: _Made, calibration: Calibration, said: NDArray[np.float64], right: NDArray[np.bool_]
) -> dict[str, Any]:
    """What it does on TUNE, or out of fold; TUNE stopped the training, so this flatters a little."""
    confidence = np.array([calibration.confidence(p) for p in said.tolist()])
    source = np.array([task.pairs[i].source for i in made.held.tolist()])
    return {
        "held_out": "folds" if made.folded else "tune", "tune": len(right), "tune_loss": min(made.fitted.tune_loss),
        "tune_right": round(float(right.mean()), 4),
        "tune_right_by_source": {
            str(one): round(float(right[source == one].mean()), 4) for one in np.unique(source)
        },
        "tune_mean_confidence": round(float(confidence.mean()), 4),
        "tune_calibration_error": round(calibration_error(confidence, right), 4),
    }  # fmt: skip


def _source(texts: Sequence[str], options: EncoderOptions, seed: int, progress: Tick | None) -> Source:
    source = load_source(options.source, options.max_tokens)
    if options.finetune > source.layers:
        raise InputError(f"{source.name} has {source.layers} layers, so it cannot train {options.finetune} of them")
    if options.layers is None:
        return source
    small = keep_layers(source, options.layers)
    if options.distil:
        from exporters.transformer.student import distil

        def tick(done: int, total: int) -> None:
            if progress is not None:
                progress("learning the whole encoder's features", done, total)

        small = distil(source, small, texts, options.max_tokens, options.distil, seed, tick)
    return small
