"""A distilled checkpoint answering, without torch.

Kinds (`KINDS` says which class serves each; a new kind is a new entry):

``classifier``
    Parts ``model.onnx`` (int64 ``input_ids``, ``attention_mask`` ``[b, t]`` -> float32 ``logits [b, L]``) and
    ``tokenizer.json``. Answers with the text of the likeliest label.
``multilabel``
    The same parts. Answers with the sorted labels whose probability reaches ``settings["threshold"]``, a JSON list.
``tagger``
    The same parts; ``logits [b, t, L]``, and the graph may ask for ``word_shape`` (`router_core.tagger`). Labels are
    ``O``, ``B-X``, ``I-X``. Answers with the entities in order of the text, a JSON list of ``[text, X]``.
``generative``
    The part ``model.gguf`` or ``adapter.gguf`` (`router_core.generative_student`). Answers with free text and gives
    ``mean_logprob`` as a signal beside ``own_confidence``; needs ``routenlp[local]``.
"""

from __future__ import annotations

import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Self

from router_core.checkpoint import Checkpoint
from router_core.errors import BundleError, InputError
from router_core.prompt_template import PromptTemplate
from router_core.release import TASK_MARK, CurrentWatch, checkpoint_folder, is_root

__all__ = ["KINDS", "Student", "StudentAnswer", "StudentSource", "load_student", "make_student"]

KINDS: Final[dict[str, str]] = {
    "classifier": "router_core.onnx_student:Classifier",
    "multilabel": "router_core.onnx_student:MultiLabel",
    "tagger": "router_core.tagger:Tagger",
    "generative": "router_core.generative_student:GenerativeStudent",
}
"""Kind -> ``module:class`` that serves it, imported when it is first needed."""


@dataclass(frozen=True, slots=True)
class StudentAnswer:
    """One answer of a student.

    Attributes
    ----------
    text
        The answer.
    signals
        ``own_confidence`` in [0, 1], P(the answer is right) as calibrated by the trainer; ``template_matched``, 1.0
        when the prompt had the form the student was trained on, else 0.0.
    prompt_tokens, completion_tokens
        Tokens read and written, by the student's tokenizer.
    """

    text: str
    signals: Mapping[str, float]
    prompt_tokens: int
    completion_tokens: int


class Student(ABC):
    """Answers prompts from a checkpoint; safe across threads.

    Parameters
    ----------
    checkpoint
        What is served.
    threads
        Answers that `answer_many` works on at the same time. One answer takes one thread.

    Raises
    ------
    BundleError
        When the parts of the checkpoint do not fit together.
    """

    def __init__(self, checkpoint: Checkpoint, threads: int = 1) -> None:
        if threads < 1:
            msg = f"threads is {threads}; one or more are needed"
            raise InputError(msg)
        self.checkpoint, self.threads = checkpoint, threads
        self.fingerprint = checkpoint.fingerprint
        self._template = PromptTemplate(checkpoint.spec.prompt_template)

    @classmethod
    def load(cls, path: str | Path, tier: str | None = None, threads: int = 1) -> Student:
        """Load a student of any kind; see `load_student`."""
        return load_student(path, tier, threads)

    @property
    def tier(self) -> str:
        """Name of its tier."""
        return self.checkpoint.tier

    @property
    def name(self) -> str:
        """``routenlp-student/<tier>@<first 12 digits of the fingerprint>``, what an answer gives as ``model_name``."""
        return f"routenlp-student/{self.tier}@{self.fingerprint[:12]}"

    def answer(self, prompt: str) -> StudentAnswer:
        """Answer one prompt, written as in the records."""
        text, matched = self._template.cut(prompt)
        found = self._answer(text)
        return replace(found, signals={**found.signals, "template_matched": float(matched)})

    def answer_many(self, prompts: Sequence[str]) -> list[StudentAnswer]:
        """Answer prompts, the same to the last bit as one by one.

        Each is run on its own: in a batch, padding and the scales of int8 activations would bear on its neighbours'
        confidences, and what was certified would not be what is served. Equal prompts are answered once, the longest
        first, on `threads` threads.
        """
        order = sorted(dict.fromkeys(prompts), key=len, reverse=True)
        if self.threads == 1 or len(order) < 2:
            found = dict(zip(order, map(self.answer, order), strict=True))
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                found = dict(zip(order, pool.map(self.answer, order), strict=True))
        return [found[prompt] for prompt in prompts]

    @abstractmethod
    def _answer(self, text: str) -> StudentAnswer:
        """Answer what stood in the template's place."""

    def __reduce__(self) -> tuple[Any, ...]:
        return make_student, (self.checkpoint, self.threads)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


def make_student(checkpoint: Checkpoint, threads: int = 1) -> Student:
    """Make the student of a checkpoint.

    Raises
    ------
    BundleError
        When this version serves no such kind, or its parts do not fit together.
    """
    kind = checkpoint.spec.kind
    if kind not in KINDS:
        msg = (
            f"checkpoint of tier {checkpoint.tier!r} is of the kind {kind!r}, this version serves "
            f"{', '.join(sorted(KINDS))}; upgrade routenlp"
        )
        raise BundleError(msg)
    module, name = KINDS[kind].split(":")
    made: type[Student] = getattr(import_module(module), name)
    return made(checkpoint, threads)


def load_student(path: str | Path, tier: str | None = None, threads: int = 1, task: str | None = None) -> Student:
    """Load a student.

    Parameters
    ----------
    path
        Folder of a checkpoint, or a release ROOT.
    tier
        Which of a ROOT's tiers; must be the checkpoint's own where that is given.
    threads
        See `Student`.
    task
        Which of the tier's students, where it has one per task.

    Raises
    ------
    BundleError
        When there is none, it is damaged or newer than this reader, or it is another tier's.
    """
    folder = checkpoint_folder(path, tier, task)
    checkpoint = Checkpoint.load(folder)
    if tier is not None and tier not in (checkpoint.tier, checkpoint.tier.partition(TASK_MARK)[0]):
        msg = f"checkpoint {folder} is of tier {checkpoint.tier!r}, not {tier!r}"
        raise BundleError(msg)
    return make_student(checkpoint, threads)


class StudentSource:
    """The student to answer the next query with; of a watched ROOT always the current release's.

    A query takes `get` once, so it has one release from start to end. A release that cannot be loaded is warned about
    and not served: the student before it stays.

    Parameters
    ----------
    path, tier
        As for `load_student`.
    watch
        Look at most once a second whether another release became current.
    """

    def __init__(self, path: str | Path, tier: str | None = None, *, watch: bool = False) -> None:
        self._path, self._tier = Path(path).resolve(), tier
        if watch and not is_root(self._path):
            msg = f"{path} is not a release ROOT, so there is nothing to watch; give a ROOT or leave watch off"
            raise InputError(msg)
        self._start(CurrentWatch(self._path) if watch else None, load_student(path, tier))

    def _start(self, watch: CurrentWatch | None, student: Student) -> None:
        # The watch is made before the student is loaded, so that a promotion between the two is seen.
        self._watch, self._student = watch, student
        self._loading = threading.Lock()

    def get(self) -> Student:
        """Return the student."""
        if self._watch is not None and self._watch.changed():
            with self._loading:
                try:
                    self._student = load_student(self._path, self._tier)
                except BundleError as error:
                    warnings.warn(f"{self._student.name} stays: {error}", stacklevel=2)
        return self._student

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self._path, "tier": self._tier, "watch": self._watch is not None, "student": self._student}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self._path, self._tier = state["path"], state["tier"]
        self._start(CurrentWatch(self._path) if state["watch"] else None, state["student"])
