"""``routenlp distill``: a teacher's answers in, a cheap tier's checkpoint out."""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routenlp_integrations.cli.output import STDOUT, check_folder, check_target, console, write_json
from routenlp_integrations.cli.progress import progress_bar
from router_core.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from rich.console import Console

    from exporters.students import EncoderOptions, GenerativeOptions, PairFile

__all__ = ["distill", "quiet"]

_PACKAGES = ("torch", "transformers", "onnx")
_TIERS = (".yaml", ".yml")


def distill(
    pairs: Annotated[
        list[Path],
        typer.Argument(
            help="What to learn (.jsonl, .csv, .parquet): rows with prompt and answer, and optionally soft labels and "
            "split; or records, with --teacher."
        ),
    ],
    kind: Annotated[str, typer.Option(help="classifier, multilabel, tagger or generative.")],
    tier: Annotated[str, typer.Option(help="Name of the tier it is made for.")],
    out: Annotated[Path, typer.Option(help="Folder to write the checkpoint to; an earlier one there is replaced.")],
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Of records: the model whose answers are learned, as a rule the reference tier. Of pairs: a YAML file "
            "of tiers, the last of which is asked for the answers that are missing, within --budget."
        ),
    ] = None,
    task: Annotated[str | None, typer.Option(help="Learn rows of this task alone.")] = None,
    replay: Annotated[
        list[Path] | None, typer.Option(help="What was learned earlier, mixed in against forgetting; a file of pairs.")
    ] = None,
    parent: Annotated[
        Path | None, typer.Option(help="Checkpoint it follows: labels keep their places, and lineage names it.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Refuse queries that this bundle, or current release, calibrates with.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="US dollars that the teacher's answers may cost together; first come.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Pay a live teacher without asking.")] = False,
    source: Annotated[
        str | None,
        typer.Option(
            help="What it starts from: minilm, a folder or hub id of an encoder; generative: smollm2, a .gguf file or "
            "repo:file.gguf.",
            show_default="minilm or smollm2",
        ),
    ] = None,
    finetune: Annotated[
        int, typer.Option(help="Top layers of the encoder to train beside the head; 0 = frozen.", min=0)
    ] = 0,
    template: Annotated[
        str | None, typer.Option(help="What of every prompt is the text, as in 'Name the mood of: {text}'.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Tokens kept of a text, head and tail.", show_default="128; generative 256")
    ] = None,
    balance: Annotated[
        float, typer.Option(help="Weigh examples by how rare their label is: 0 = not, 1 = labels the same in all.")
    ] = 0.0,
    export: Annotated[
        str, typer.Option(help="Of a generative student: adapter (needs the base when served) or merged.")
    ] = "adapter",
    seed: Annotated[int, typer.Option(help="Fixes everything random.", min=0, max=2**32 - 1)] = 0,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write what was done as JSON to this file; - for stdout."),
    ] = None,
) -> None:
    """Distil a cheap tier from a teacher's answers: an encoder for labels and tags, a small language model for text."""
    from importlib.util import find_spec

    from routenlp_integrations.cli.teaching import journal_of, learn_from

    asked = teacher is not None and teacher.endswith(_TIERS)
    inputs = [*pairs, *(replay or ()), parent, bundle, source, teacher if asked else None]
    check_target(json_file, "--json", taken=[*inputs, out, journal_of(out)])
    check_folder(out, "--out", inputs)
    if asked and journal_of(out).parent.is_dir():
        check_target(journal_of(out), "the journal of --out,", taken=inputs)
    if any(find_spec(name) is None for name in _PACKAGES):
        raise MissingExtraError("train", "distil a student")
    from routenlp_integrations.cli.teacher import live_teacher
    from router_core.bundle import Bundle
    from router_core.checkpoint import CHECKPOINT, Checkpoint
    from router_core.folder import check_output
    from router_core.release import bundle_folder, is_name

    quiet()
    from exporters.students import KINDS, distil, read_pairs, within_budget

    if budget is not None and not (math.isfinite(budget) and budget >= 0):
        raise InputError(f"--budget is {budget}; it must be a number of US dollars, not negative")
    if not is_name(tier):
        raise InputError(f"--tier {tier!r} cannot name a folder of a release; use letters and digits")
    if kind not in KINDS:
        raise InputError(f"--kind is {kind!r}; use one of {', '.join(KINDS)}")
    check_output(out, CHECKPOINT)
    options = _options(kind, export, finetune, balance, source=source, prompt_template=template, max_tokens=max_tokens)
    live = live_teacher(Path(teacher)) if teacher is not None and asked else None
    found = read_pairs(pairs, kind, teacher=None if live else teacher, task=task, asked=live is not None)
    earlier = read_pairs(replay, kind, task=task).pairs if replay else ()
    before = None if parent is None else Checkpoint.load(parent)
    calib = found.calib
    if bundle is not None:
        import numpy as np

        calib = np.union1d(calib, Bundle.load(bundle_folder(bundle)).keys.calib)
    screen = console(quiet=str(json_file) == STDOUT)
    taught: dict[str, Any] = {}
    if live is not None:
        learned, taught = learn_from(live, found.pairs, out, budget, screen, calib=calib, yes=yes)
        found = replace(found, teacher=live.name)
    else:
        learned = list(found.pairs) if budget is None else within_budget(found.pairs, budget)
    with progress_bar(silent=screen.quiet) as progress:
        made = distil(
            kind, learned, options, tier=tier, replay=earlier, parent=before, calib=calib, seed=seed,
            lineage={"teacher": found.teacher} if found.teacher else {}, progress=progress,
        )  # fmt: skip
        saved = made.save(out)
    told: dict[str, Any] = {
        "out": str(out), "id": saved.fingerprint, "kind": kind, "tier": tier, "pairs": len(learned),
        "replay": len(earlier), "set_aside": dict(found.set_aside), "lineage": dict(saved.lineage),
        "metrics": dict(saved.metrics), **taught,
    }  # fmt: skip
    _show(screen, told, found)
    if json_file is not None:
        write_json(json_file, told)


def quiet() -> None:
    """Silence what the libraries below say of themselves."""
    # The libraries below announce themselves on stderr, which belongs to our own line and bar.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for category in (DeprecationWarning, FutureWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category)


def _options(
    kind: str, export: str, finetune: int, balance: float, **shared: Any
) -> EncoderOptions | GenerativeOptions:
    from exporters.students import EncoderOptions, GenerativeOptions

    given = {name: value for name, value in shared.items() if value is not None}
    if kind == "generative":
        if finetune or balance:
            raise InputError("--finetune and --balance are of encoder students; a generative one learns by LoRA")
        return GenerativeOptions(export=export, **given)
    if export != "adapter":
        raise InputError("--export is of generative students")
    return EncoderOptions(finetune=finetune, balance=balance, **given)


def _show(screen: Console, told: dict[str, Any], found: PairFile) -> None:
    metrics, lineage = told["metrics"], told["lineage"]
    screen.print(f"{told['tier']}: a {told['kind']} student, {metrics['bytes'] / 1e6:.1f} MB", style="bold")
    by = ", ".join(f"{count} {source}" for source, count in lineage["pairs"].items() if count)
    screen.print(f"learned from {metrics['pairs']} pairs ({by}) in {metrics['seconds']:.0f} s")
    if found.teacher:
        screen.print(f"teacher {found.teacher}, whose answers cost {lineage['spend_usd']:.4g} USD")
    for reason, count in told["set_aside"].items():
        screen.print(f"{count} set aside: {reason}", style="dim")
    held = "out of fold" if metrics.get("held_out") == "folds" else "on TUNE"
    right, sure, error = (metrics[f"tune_{name}"] for name in ("right", "mean_confidence", "calibration_error"))
    screen.print(f"right {held}: {right:.3f} of {metrics['tune']}; it says {sure:.3f} (calibration error {error:.3f})")
    if "agreement" in metrics:
        screen.print(f"int8 answers as float32 on {metrics['agreement']:.3f}")
    screen.print(f"checkpoint {told['id'][:12]} written to {told['out']}")
