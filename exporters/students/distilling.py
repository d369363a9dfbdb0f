"""One call for every kind of student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exporters.fence import NO_KEYS, Keys
from exporters.students.data import Pair
from exporters.students.encoder import train_encoder
from exporters.students.heads import Tick
from exporters.students.options import ENCODER_KINDS, EncoderOptions, GenerativeOptions
from router_core.checkpoint import Checkpoint
from router_core.errors import InputError

__all__ = ["KINDS", "distil"]

KINDS = (*ENCODER_KINDS, "generative")
"""Kinds of students."""


def distil(
    kind: str,
    pairs: Sequence[Pair],
    options: EncoderOptions | GenerativeOptions | None = None,
    *,
    tier: str,
    replay: Sequence[Pair] = (),
    parent: Checkpoint | None = None,
    calib: Keys = NO_KEYS,
    lineage: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Tick | None = None,
) -> Checkpoint:
    """Distil a student of any kind.

    Parameters
    ----------
    kind
        One of `KINDS`.
    pairs, options, tier, replay, calib, lineage, seed, progress
        As for `exporters.students.encoder.train_encoder` and `exporters.students.generative.train_generative`.
    parent
        The student it follows: its labels keep their places, and lineage names it.

    Returns
    -------
    Checkpoint
        Checked and calibrated, in memory; `Checkpoint.save` writes it.

    Raises
    ------
    InputError
        For pairs that no student of the kind can learn from, calibration items among them, or options of another kind.
    """
    told = {**({"parent": parent.fingerprint} if parent is not None else {}), **(lineage or {})}
    if parent is not None and parent.spec.kind != kind:
        raise InputError(f"the parent is a {parent.spec.kind} student, not a {kind} one; distil without a parent")
    if kind == "generative":
        from exporters.students.generative import train_generative

        if isinstance(options, EncoderOptions):
            raise InputError("a generative student takes GenerativeOptions")
        return train_generative(
            pairs, options, tier=tier, replay=replay, calib=calib, lineage=told, seed=seed, progress=progress
        )
    if isinstance(options, GenerativeOptions):
        raise InputError(f"a {kind} student takes EncoderOptions")
    labels = parent.spec.labels if parent is not None else ()
    return train_encoder(
        kind, pairs, options, tier=tier, replay=replay, labels=labels, calib=calib, lineage=told, seed=seed,
        progress=progress,
    )  # fmt: skip
