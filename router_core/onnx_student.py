"""Students that are one ONNX graph over a tokenizer: the classifier and the multi-label classifier."""

from __future__ import annotations

import json
import math
from typing import ClassVar, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from router_core.checkpoint import AGAIN, Checkpoint
from router_core.errors import BundleError
from router_core.onnx_encoder import open_session
from router_core.own_confidence import log_sigmoid, log_softmax
from router_core.student import Student, StudentAnswer
from router_core.text_tokens import TextTokens

__all__ = ["GRAPH", "TOKENIZER", "Classifier", "MultiLabel", "OnnxStudent"]

GRAPH: Final = "model.onnx"
TOKENIZER: Final = "tokenizer.json"
_INPUTS: Final = frozenset({"input_ids", "attention_mask"})
_OUTPUTS: Final = ("logits",)

Ids = NDArray[np.int64]
Logits = NDArray[np.float64]


class OnnxStudent(Student):
    """Graph, tokenizer and labels, checked against each other when loaded.

    Parameters
    ----------
    checkpoint, threads
        As for `Student`.

    Raises
    ------
    BundleError
        When graph, tokenizer and labels do not fit together.
    """

    optional_inputs: ClassVar[frozenset[str]] = frozenset()
    """Inputs the graph may have beside the ids and the mask, int64 ``[b, t]``."""

    fewest_labels: ClassVar[int] = 2

    def __init__(self, checkpoint: Checkpoint, threads: int = 1) -> None:
        super().__init__(checkpoint, threads)
        spec = checkpoint.spec
        if found := sorted(set(checkpoint.weights) ^ {GRAPH, TOKENIZER}):
            self._refuse(f"a {spec.kind} has the parts {GRAPH} and {TOKENIZER}, no more and no less ({found[0]})")
        if len(spec.labels) < self.fewest_labels:
            self._refuse(f"a {spec.kind} needs {self.fewest_labels} labels, {len(spec.labels)} are listed")
        self.labels = spec.labels
        self.tokens = TextTokens(checkpoint.weights[TOKENIZER], spec.max_tokens, AGAIN)
        if self.tokens.digest() != spec.vocabulary_sha256:
            self._refuse(f"the vocabulary of {TOKENIZER} is not the one {GRAPH} was made for")
        self._session = open_session(checkpoint.weights[GRAPH], part=GRAPH, again=AGAIN)
        self._inputs = frozenset(node.name for node in self._session.get_inputs())
        outputs = tuple(node.name for node in self._session.get_outputs())
        if not _INPUTS <= self._inputs <= _INPUTS | self.optional_inputs or outputs != _OUTPUTS:
            self._refuse(
                f"{GRAPH} has the inputs {', '.join(sorted(self._inputs))} and the outputs {', '.join(outputs)}, where "
                f"{', '.join(sorted(_INPUTS))} and {', '.join(_OUTPUTS)} are needed"
            )
        self._probe()

    def run(self, ids: Ids, **more: Ids) -> Logits:
        """Run the graph on one text.

        Parameters
        ----------
        ids
            Token ids, ``[t]``.
        **more
            The optional inputs, ``[t]`` each; those the graph does not have are left out.

        Returns
        -------
        NDArray
            float64 logits of the one text, over the temperature.
        """
        feed = {"input_ids": ids[None, :], "attention_mask": np.ones_like(ids)[None, :]}
        feed |= {name: value[None, :] for name, value in more.items() if name in self._inputs}
        found = np.asarray(self._session.run(_OUTPUTS, feed)[0][0], dtype=np.float64)
        return found / self.checkpoint.spec.calibration.temperature

    def read(self, ids: Ids, text: str, log_probability: float) -> StudentAnswer:
        """Make the answer of a text, the calibration applied to the probability that it is right."""
        confidence = self.checkpoint.spec.calibration.confidence(math.exp(min(log_probability, 0.0)))
        return StudentAnswer(text, {"own_confidence": confidence}, len(ids), self.tokens.count(text))

    def _shape(self, tokens: int) -> tuple[int, ...]:
        """Shape of the logits of one text."""
        return (len(self.labels),)

    def _probe(self) -> None:
        """Run once, with the most tokens and the largest id, so that a graph that cannot serve is refused at load."""
        ids = self.tokens.ids("a " * self.tokens.max_tokens)
        ids[len(ids) // 2] = self.tokens.largest_id
        try:
            found = self.run(ids, **{name: np.zeros_like(ids) for name in self.optional_inputs})
        except Exception as error:  # onnxruntime has no public base class of its errors
            self._refuse(f"{GRAPH} does not run ({str(error).splitlines()[0]})", error)
        if found.shape != self._shape(len(ids)):
            self._refuse(
                f"{GRAPH} gives logits of shape {list(found.shape)} for a text of {len(ids)} tokens, where "
                f"{len(self.labels)} labels are listed"
            )
        if not np.isfinite(found).all():
            self._refuse(f"{GRAPH} gives logits that are not finite")

    def _refuse(self, why: str, error: Exception | None = None) -> NoReturn:
        raise BundleError(f"checkpoint of tier {self.tier!r}: {why}; {AGAIN}") from error


class Classifier(OnnxStudent):
    """Answers with one label; its raw probability of being right is the softmax's largest."""

    def _answer(self, text: str) -> StudentAnswer:
        ids = self.tokens.ids(text)
        log_p = log_softmax(self.run(ids))
        best = int(log_p.argmax())
        return self.read(ids, self.labels[best], float(log_p[best]))


class MultiLabel(OnnxStudent):
    """Answers with all labels that reach the threshold, as a sorted JSON list.

    Its raw probability of being right is that of every label's decision, taken as independent.
    """

    fewest_labels: ClassVar[int] = 1

    def __init__(self, checkpoint: Checkpoint, threads: int = 1) -> None:
        super().__init__(checkpoint, threads)
        given = checkpoint.spec.settings.get("threshold")
        threshold = float(given) if isinstance(given, int | float) else math.nan
        if not 0 < threshold < 1:
            self._refuse(f"the threshold of a multilabel student is between 0 and 1, not {given!r}")
        self._least = math.log(threshold) - math.log1p(-threshold)

    def _answer(self, text: str) -> StudentAnswer:
        ids = self.tokens.ids(text)
        logits = self.run(ids)
        chosen = logits >= self._least
        labels = sorted(label for label, one in zip(self.labels, chosen.tolist(), strict=True) if one)
        log_p = log_sigmoid(np.where(chosen, logits, -logits))
        return self.read(ids, json.dumps(labels, ensure_ascii=False), float(log_p.sum()))
