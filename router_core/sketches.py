"""Near-duplicates of what a bundle learned from, recognised without keeping its text.

Of every train and tune query a bundle keeps the 48 smallest hashes of its word 3-grams, those of the task's template
left out, as `router_core.groups` does (a bottom-k sketch: Cohen and Kaplan, PODC 2007). A text of at most 48 such
3-grams is compared exactly; of a longer one the Jaccard similarity is estimated from at least 48 of them, with a
standard deviation of at most .05 around .9. As with the keys, no text can be read from the hashes, but whoever guesses
three words in a row can look whether they were in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router_core.arrays import dump_arrays, load_arrays
from router_core.groups import is_template, normalise

__all__ = ["SKETCHES", "Sketches"]

SKETCHES = "learned.npz"
"""The part of a bundle."""

_SALT = "routenlp-sketch-v1"
_KEPT = 48
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
Hashes = NDArray[np.uint32]


@dataclass(frozen=True, eq=False)
class Sketches:
    """What is remembered of the texts a bundle learned from.

    Attributes
    ----------
    hashes, bounds
        uint32, the sketches one after the other, each ascending; int64 [n + 1], where each begins and the last ends.
    template
        By task, the hashes of the 3-grams that many of its learned texts share; uint32, ascending.
    """

    hashes: Hashes
    bounds: NDArray[np.int64]
    template: Mapping[str, Hashes]

    @classmethod
    def of(cls, prompts: Sequence[str], tasks: Sequence[str]) -> Sketches:
        """Sketch the texts that were learned from, each with its task."""
        grams, labels = _grams(prompts), np.asarray(tasks)
        template = {}
        for task in sorted(set(tasks)):
            mine = np.flatnonzero(labels == task)
            found, often = np.unique(np.concatenate([grams[i] for i in mine.tolist()]), return_counts=True)
            template[task] = found[is_template(often, len(mine))]
        kept = [_rare(one, template, task)[:_KEPT] for one, task in zip(grams, tasks, strict=True)]
        bounds = np.cumsum([0, *(len(one) for one in kept)], dtype=np.int64)
        return cls(np.concatenate([np.zeros(0, np.uint32), *kept]), bounds, template)

    def near(self, prompts: Sequence[str], tasks: Sequence[str]) -> NDArray[np.bool_]:
        """Whether each text's similarity to a text that was learned from is .9 or more, bool [n].

        A text without a 3-gram of its own is near nothing: only its key can tell.
        """
        owner = np.repeat(np.arange(len(self.bounds) - 1), np.diff(self.bounds))
        order = np.argsort(self.hashes, kind="stable")
        listed, owner = self.hashes[order], owner[order]
        found = np.zeros(len(prompts), bool)
        for i, (grams, task) in enumerate(zip(_grams(prompts), tasks, strict=True)):
            mine = _rare(grams, self.template, task)
            ends = zip(np.searchsorted(listed, mine), np.searchsorted(listed, mine, side="right"), strict=True)
            sharing = [owner[start:end] for start, end in ends if end > start]
            if not sharing:
                continue
            others, shared = np.unique(np.concatenate(sharing), return_counts=True)
            found[i] = any(
                self._alike(mine, other, count) for other, count in zip(others.tolist(), shared.tolist(), strict=True)
            )
        return found

    def _alike(self, mine: Hashes, other: int, shared: int) -> bool:
        theirs = self.hashes[self.bounds[other] : self.bounds[other + 1]]
        # Up to the largest hash that a full sketch kept, both sets are known whole.
        known = len(mine) if len(theirs) < _KEPT else int(np.searchsorted(mine, theirs[-1], side="right"))
        return 10 * shared >= 9 * (known + len(theirs) - shared)

    def part(self) -> bytes:
        """Content of the bundle part."""
        tasks = list(self.template)
        sizes = np.array([len(self.template[task]) for task in tasks], np.int64)
        told = {"tasks": np.array(tasks, dtype=np.str_), "template_sizes": sizes, "hashes": self.hashes}
        common = np.concatenate([np.zeros(0, np.uint32), *self.template.values()])
        return dump_arrays({**told, "template": common, "bounds": self.bounds})

    @classmethod
    def from_parts(cls, parts: Mapping[str, bytes]) -> Sketches | None:
        """Read the part of a bundle; None for a bundle that keeps no sketches.

        Raises
        ------
        BundleError
            When the part cannot be read.
        """
        if SKETCHES not in parts:
            return None
        told = load_arrays(SKETCHES, parts[SKETCHES])
        common = np.split(told["template"], np.cumsum(told["template_sizes"])[:-1])
        return cls(told["hashes"], told["bounds"], dict(zip(told["tasks"].tolist(), common, strict=True)))


def _grams(prompts: Sequence[str]) -> list[Hashes]:
    """Per text the distinct 32-bit hashes of its word 3-grams, ascending."""
    words: dict[str, int] = {}
    made = []
    for prompt in prompts:
        mine = np.array([_word(word, words) for word in normalise(prompt).split()], np.uint64)
        chain = _mixed(_mixed(_mixed(mine[:-2]) + mine[1:-1]) + mine[2:])
        made.append(np.unique((chain >> np.uint64(32)).astype(np.uint32)))
    return made


def _word(word: str, seen: dict[str, int]) -> int:
    if word not in seen:
        seen[word] = int.from_bytes(
            hashlib.sha256(f"{_SALT}|{word}".encode("utf-8", "surrogatepass")).digest()[:8], "big"
        )
    return seen[word]


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finaliser of SplitMix64 (Steele et al., 2014): every bit of the input bears on every bit of the output."""
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    return values ^ (values >> np.uint64(31))


def _rare(grams: Hashes, template: Mapping[str, Hashes], task: str) -> Hashes:
    return np.setdiff1d(grams, template[task], assume_unique=True) if task in template else grams
