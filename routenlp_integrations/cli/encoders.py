"""The transformer trainer behind ``routenlp fit --encoder minilm``; the one place that reaches for `exporters`."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from router_core.errors import MissingExtraError
from router_core.groups import normalise

if TYPE_CHECKING:
    from router_core.encoder import EncoderTrainer
    from router_core.fitting.tables import Progress
    from router_core.records import Records

__all__ = ["transformer_trainer"]

_PACKAGES = ("torch", "transformers", "onnx")


def transformer_trainer(
    source: str, finetune: bool, preferences: Path | None, records: Records, progress: Progress | None
) -> EncoderTrainer:
    """Make the trainer.

    Parameters
    ----------
    source
        ``"minilm"``, a folder, or a hub id.
    finetune
        Train the top layer of the encoder too.
    preferences
        File of preference records, or None.
    records
        Preferences about held-out prompts of these stay unused.
    progress
        Called as the work goes on.

    Raises
    ------
    MissingExtraError
        Where the packages of ``routenlp[train]`` are not installed.
    """
    from importlib.util import find_spec

    if any(find_spec(name) is None for name in _PACKAGES):
        raise MissingExtraError("train", f"fit with --encoder {source}")
    # The libraries below announce themselves on stderr, which belongs to our own line and bar.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    from exporters.transformer import TransformerOptions, TransformerTrainer, read_preferences

    return TransformerTrainer(
        source,
        TransformerOptions(finetune=int(finetune)),
        preferences=() if preferences is None else read_preferences(preferences),
        graded={normalise(prompt) for prompt in records.prompt},
        progress=progress,
    )
