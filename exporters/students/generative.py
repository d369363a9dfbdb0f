"""Generative students: pairs of prompt and answer in, a GGUF checkpoint with a calibrated confidence out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.fence import NO_KEYS, Keys, refuse_calib
from exporters.students.calibrating import calibration_error, fit_platt
from exporters.students.causal import CausalBase, load_causal
from exporters.students.data import Pair, lineage_of, mix, set_tune_aside, texts_of
from exporters.students.gguf_files import adapter_bytes, merged_bytes
from exporters.students.heads import Tick
from exporters.students.lora import Sequences, Tuned, train_lora
from exporters.students.options import GenerativeOptions
from router_core.checkpoint import Checkpoint, StudentSpec
from router_core.errors import InputError, MissingExtraError
from router_core.generative_student import ADAPTER, BYTES_PER_TOKEN, MODEL, cut_text, without_control
from router_core.metrics import metric
from router_core.student import make_student

__all__ = ["train_generative"]


def train_generative(
    pairs: Sequence[Pair],
    options: GenerativeOptions | None = None,
    *,
    tier: str,
    replay: Sequence[Pair] = (),
    calib: Keys = NO_KEYS,
    lineage: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Tick | None = None,
) -> Checkpoint:
    """Train a generative student by sequence-level distillation (Kim & Rush 2016): on the teacher's answers.

    Parameters
    ----------
    pairs, tier, replay, calib, lineage, seed, progress
        As for `exporters.students.encoder.train_encoder`.
    options
        How.

    Raises
    ------
    InputError
        For pairs or a base that no student can be made of.
    MissingExtraError
        Where ``routenlp[train]`` or, for the confidence, ``routenlp[local]`` is not installed.
    """
    options = options or GenerativeOptions()
    start = time.perf_counter()
    graded = metric(options.metric)
    graded("asked", "before", "the training")
    if find_spec("xllamacpp") is None:
        raise MissingExtraError("local", "calibrate a generative student")
    mixed = mix(pairs, replay, options.replay_ratio, seed, by_answer=False)
    refuse_calib("training pairs", (key for pair in mixed for key in pair.keys), calib)
    mixed = set_tune_aside(mixed, by_answer=False)
    if empty := next((pair for pair in mixed if not pair.answer.strip()), None):
        raise InputError(f"pair {empty.query_id!r} has an empty answer; drop it or have the teacher answer again")
    texts = texts_of(mixed, options.prompt_template)
    if progress is not None:
        progress("loading the base model", 0, 1)
    base = load_causal(options.source, options.system)
    _check_length(base, options)
    shown = [without_control(cut_text(text, options.max_tokens), base.control) for text in texts]
    split = {name: [i for i, pair in enumerate(mixed) if pair.split == name] for name in ("train", "tune")}
    data = {
        name: Sequences.of(
            base, [shown[i] for i in rows], [mixed[i].answer.strip() for i in rows], [mixed[i].weight for i in rows],
            options,
        )
        for name, rows in split.items()
    }  # fmt: skip
    tuned = train_lora(base, data["train"], data["tune"], options, seed, progress)
    spec = StudentSpec(
        "generative", (), options.max_tokens, base.where["sha256"], options.prompt_template,
        settings={
            **({"base": dict(base.where)} if options.export == "adapter" else {}),
            "prefix": base.prefix, "suffix": base.suffix, "stop": [base.end[0]],
            "control": list(base.control), "max_new_tokens": options.max_new_tokens,
        },
    )  # fmt: skip
    checkpoint = Checkpoint(tier, spec, _weights(base, tuned, options))
    asked = [mixed[i] for i in np.random.default_rng(seed).permutation(split["tune"])[: options.calibrated].tolist()]
    said, score, lengths = _answers(checkpoint, asked, graded, progress)
    right = score >= options.right_from
    calibration = fit_platt(said, right)
    confidence = np.array([calibration.confidence(p) for p in said.tolist()])
    told = {
        "tune_loss": min(tuned.tune_loss), "tune_loss_before": tuned.tune_loss[0], "epochs": tuned.best,
        "pairs": len(mixed), "tune": len(asked), f"tune_{options.metric}": round(float(score.mean()), 4),
        "tune_right": round(float(right.mean()), 4), "tune_mean_confidence": round(float(confidence.mean()), 4),
        "tune_calibration_error": round(calibration_error(confidence, right), 4),
        "mean_new_tokens": round(float(lengths.mean()), 1), "export": options.export,
        "bytes": sum(map(len, checkpoint.weights.values())), "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip
    return replace(
        checkpoint, spec=replace(spec, calibration=calibration), metrics=told,
        lineage=lineage_of(mixed, lineage, {"seed": seed, "base": dict(base.where), "rank": options.rank}),
    )  # fmt: skip


def _weights(base: CausalBase, tuned: Tuned, options: GenerativeOptions) -> dict[str, bytes]:
    config = base.model.config
    heads = {"attn_q": int(config.num_attention_heads), "attn_k": int(config.num_key_value_heads)}
    if options.export == "adapter":
        return {ADAPTER: adapter_bytes(tuned.pairs, options.alpha, heads)}
    return {MODEL: merged_bytes(base.path, tuned.pairs, options.alpha / options.rank, heads)}


def _answers(
    checkpoint: Checkpoint, pairs: Sequence[Pair], graded: Any, progress: Tick | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What the served student says of TUNE prompts: exp of the mean log-probability, score, and tokens."""
    student = make_student(checkpoint)
    said, score, lengths = [], [], []
    for done, pair in enumerate(pairs, start=1):
        found = student.answer(pair.prompt)
        said.append(float(np.exp(min(found.signals["mean_logprob"], 0.0))))
        score.append(float(graded(found.text, pair.answer, pair.answer)))
        lengths.append(float(found.completion_tokens))
        if progress is not None:
            progress("answering TUNE prompts", done, len(pairs))
    return np.array(said), np.array(score), np.array(lengths)


def _check_length(base: CausalBase, options: GenerativeOptions) -> None:
    longest = int(base.model.config.max_position_embeddings)
    if options.max_tokens * BYTES_PER_TOKEN + options.max_new_tokens + 256 > longest:
        raise InputError(
            f"{base.path.name} reads {longest} tokens; max_tokens = {options.max_tokens} may need "
            f"{options.max_tokens * BYTES_PER_TOKEN} for a text of rare characters, so lower it"
        )
