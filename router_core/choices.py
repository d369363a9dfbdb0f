"""Which of several described choices fits a query: probabilities from a few labelled queries, and calibrated sets.

`ChoiceJudge` adds to a `router_core.choice_model.ChoiceModel` what calibration showed of it, and is saved as one hashed
folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from router_core.arrays import dump_arrays, dump_json, load_arrays, load_json
from router_core.choice_model import Choice, ChoiceModel, TextVectors, distinct, softmax, unit
from router_core.encoder import Encoder, load_encoder, serving_threads
from router_core.errors import BundleError, InputError
from router_core.folder import FolderKind, check_output, parts_id, read_folder, write_folder
from router_core.label_sets import LabelSets, TakenClaim
from router_core.sentence_encoder import (
    SENTENCE,
    SavedEncoder,
    SentenceEncoder,
    TextEncoder,
    TokenVectors,
    is_sentence_folder,
    load_sentence_encoder,
    sentence_encoder_from_parts,
)
from router_core.text_features import BUCKETS
from router_core.text_space import Vocabulary

__all__ = [
    "Choice",
    "ChoiceJudge",
    "ChoiceModel",
    "Counts",
    "TextVectors",
    "distinct",
    "find_encoder",
    "softmax",
    "unit",
]

_HEADER: Final = "choices.json"
_ARRAYS: Final = "choices.npz"
_FORMAT: Final = 1
_AGAIN: Final = "fit it again"
_KIND: Final = FolderKind("selector", "fitted", _AGAIN, "`ConformalSelector.fit(...).save(...)`")


class Counts(NamedTuple):
    """Labelled queries by what became of them."""

    train: int
    calib: int
    repeats: int
    straddlers: int


def find_encoder(encoder: str | Path | TextEncoder | None, threads: int | None = None) -> TextEncoder | None:
    """Resolve what a user gives as encoder.

    Parameters
    ----------
    encoder
        ``"static"`` or None: words and characters alone. A folder: of a sentence encoder or token vectors
        (`router_core.sentence_encoder`), or a bundle, whose hidden vectors are used. Else any object with `embed`.
    threads
        As for `Router.load`.

    Raises
    ------
    InputError
        If it is none of these.
    BundleError
        If the folder is damaged.
    """
    if encoder is None or encoder == "static":
        return None
    if isinstance(encoder, str | Path):
        if not Path(encoder).is_dir():
            raise InputError(f"encoder = {str(encoder)!r} is neither 'static' nor a folder with an encoder.")
        if is_sentence_folder(encoder):
            return load_sentence_encoder(encoder, serving_threads(threads))
        from router_core.bundle import Bundle

        found: TextEncoder = Bundle.load(encoder, threads).scorer.encoder
        return found
    if not isinstance(encoder, TextEncoder):
        raise InputError(f"encoder = {encoder!r} has no method embed(text).")
    return encoder


@dataclass(frozen=True, eq=False)
class ChoiceJudge:
    """A fitted model with what calibration showed of it.

    Attributes
    ----------
    choices
        In fitted order; every index of this class is a position in it.
    model
        Gives probabilities.
    sets
        Gives calibrated sets.
    taken
        The certified rule for taking the most probable choice.
    counts
        Labelled queries by what became of them.
    """

    choices: tuple[Choice, ...]
    model: ChoiceModel
    sets: LabelSets
    taken: TakenClaim
    counts: Counts

    @property
    def encoder_kind(self) -> str:
        """What the texts are read with, in a word or two."""
        encoder = self.model.encoder
        if encoder is None:
            return "hashed words"
        if isinstance(encoder, SentenceEncoder | TokenVectors):
            return f"{encoder.header.name}, {'token vectors' if encoder.header.kind == 'tokens' else 'ONNX'}"
        return f"encoder of a bundle, {encoder.kind}" if isinstance(encoder, Encoder) else type(encoder).__name__

    @property
    def statement(self) -> tuple[str, ...]:
        """What is promised, of what, and what voids it; one sentence a line."""
        sets, taken, counts = self.sets, self.taken, self.counts
        kind = "for the queries of each choice" if sets.per_label else "marginal over calibration draws and queries"
        lines = [
            f"{len(self.choices)} choices, read by {self.encoder_kind}; {counts.train} labelled queries "
            f"to fit, {counts.calib} to calibrate ({counts.repeats} repeats set aside, {counts.straddlers} taken out).",
            f"Sets: P(right choice in the set) >= {1.0 - sets.alpha:g}, {kind} (split conformal, n = {sets.n}).",
            f"Taken when the set holds one choice: P(taken and wrong) <= {sets.alpha:g}, in expectation.",
        ]
        if sets.too_few:
            names = [self.choices[i].name or self.choices[i].description for i in sets.too_few]
            lines.append(f"Too few calibration queries to leave anything out: {', '.join(map(repr, names))}.")
        if taken.threshold is None:
            lines.append(f"Taken by certificate: nothing was shown at alpha = {taken.alpha:g}; every query asks.")
        else:
            lines.append(
                f"Taken by certificate (probability >= {taken.threshold:.3g}): P(taken and wrong) <= {taken.alpha:g} "
                f"with confidence {1.0 - taken.delta:g} ({taken.wrong} wrong among {taken.taken} taken of {taken.n})."
            )
        lines.append(
            "Void for queries unlike the calibration queries, for choices added, removed or given another meaning, "
            "and for the choice taken after asking or for want of anyone to ask."
        )
        return tuple(lines)

    def parts(self) -> dict[str, bytes]:
        """Return the parts of the folder.

        Raises
        ------
        InputError
            When the encoder is an object that gives no parts.
        """
        model, encoder = self.model, self.model.encoder
        if encoder is not None and not isinstance(encoder, SavedEncoder):
            raise InputError(
                f"The encoder {type(encoder).__name__} cannot be saved; fit with a folder as encoder "
                "(router_core.sentence_encoder) to save the selector."
            )
        header = {
            "format": _FORMAT, "choices": [list(one) for one in self.choices], "alpha": self.sets.alpha,
            "likeness": list(model.likeness), "counts": list(self.counts), "encoder": encoder is not None,
            "taken": [self.taken.alpha, self.taken.delta, self.taken.n, self.taken.taken, self.taken.wrong,
                      self.taken.threshold],
        }  # fmt: skip
        arrays: dict[str, NDArray[Any]] = {
            "buckets": model.vocabulary.buckets, "weights": model.vocabulary.weights, "words": model.words,
            "dense": model.dense, "offset": model.offset, **self.sets.to_arrays(),
        }  # fmt: skip
        own = {_HEADER: dump_json(header), _ARRAYS: dump_arrays(arrays)}
        return own if encoder is None else {**encoder.parts(), **own}

    def save(self, path: str | Path) -> Path:
        """Write the folder: beside the target, synced, then renamed into place.

        Raises
        ------
        InputError
            When the target exists and is no such folder, or the encoder cannot be saved.
        """
        parts = self.parts()
        target = check_output(path, _KIND)
        write_folder(target, {"kind": _KIND.name, "id": parts_id(parts)}, parts)
        return target

    @classmethod
    def load(cls, path: str | Path, threads: int | None = None) -> Self:
        """Read and verify a folder; `threads` is as for `Router.load`.

        Raises
        ------
        BundleError
            When it is no selector, a file is changed, missing or extra, or it is of a newer schema or format.
        """
        _, parts = read_folder(Path(path), _KIND)
        for name in (_HEADER, _ARRAYS):
            if name not in parts:
                raise BundleError(f"{path} is no selector: it has no {name}; {_AGAIN}.")
        header, arrays = load_json(_HEADER, parts[_HEADER]), load_arrays(_ARRAYS, parts[_ARRAYS])
        try:
            if header["format"] != _FORMAT:
                raise ValueError(f"format {header['format']!r} is not known; upgrade routenlp")
            encoder = _read_encoder(parts, serving_threads(threads)) if header["encoder"] else None
            return cls._from(header, arrays, encoder)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            if isinstance(error, BundleError):
                raise
            raise BundleError(f"The selector {path} is malformed ({error}); {_AGAIN}.") from error

    @classmethod
    def _from(cls, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], encoder: TextEncoder | None) -> Self:
        choices = tuple(Choice(str(name), str(text)) for name, text in header["choices"])
        buckets, m = arrays["buckets"].astype(np.int32), len(choices)
        if len(buckets) and (buckets[0] < 0 or buckets[-1] >= 2 * BUCKETS or (np.diff(buckets) <= 0).any()):
            raise ValueError("buckets do not rise within their range")
        words, dense, offset = arrays["words"], arrays["dense"].astype(np.float64), arrays["offset"]
        wide = 0 if encoder is None else len(encoder.embed(""))
        if words.shape != (len(buckets), m) or dense.shape != (wide, m) or offset.shape != (m,):
            raise ValueError("the arrays do not fit together")
        words_like, dense_like = map(float, header["likeness"])
        model = ChoiceModel(
            Vocabulary(buckets, arrays["weights"].astype(np.float32)), words.astype(np.float32), dense,
            offset.astype(np.float64), (words_like, dense_like), encoder,
        )  # fmt: skip
        alpha, delta, n, taken, wrong, threshold = header["taken"]
        claim = TakenClaim(
            float(alpha), float(delta), int(n), int(taken), int(wrong), None if threshold is None else float(threshold)
        )
        sets = LabelSets.from_arrays(float(header["alpha"]), m, arrays)
        return cls(choices, model, sets, claim, Counts(*map(int, header["counts"])))


def _read_encoder(parts: Mapping[str, bytes], threads: int) -> TextEncoder:
    if SENTENCE in parts:
        return sentence_encoder_from_parts(parts, threads)
    found: Encoder = load_encoder(parts, threads)
    return found
