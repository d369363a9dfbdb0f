"""Ids and group keys remembered by their hash, and the refusal of splits that share one.

A bundle keeps which rows it was trained, tuned and certified on without keeping their text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router_core.errors import InputError

__all__ = ["KeyLedger", "check_disjoint", "hash_each", "hash_keys", "ids_sha256"]


def ids_sha256(ids: Iterable[str]) -> str:
    """SHA-256 of a set of ids, the same for any order."""
    canonical = json.dumps(sorted(set(ids)), ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def hash_keys(keys: Iterable[str]) -> NDArray[np.uint64]:
    """Sorted distinct 64-bit hashes (head of SHA-256) of the ids or group keys of a split."""
    return np.unique(hash_each(keys))


def hash_each(keys: Iterable[str]) -> NDArray[np.uint64]:
    """The hashes of `hash_keys`, one a key, in their order."""
    heads = [hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8] for key in keys]
    return np.frombuffer(b"".join(heads), dtype=">u8").astype(np.uint64)


def check_disjoint(**splits: NDArray[np.uint64]) -> None:
    """Refuse splits that share an id or a group.

    Parameters
    ----------
    **splits
        Name of each split and the `hash_keys` of its ids and group keys.

    Raises
    ------
    InputError
        Names the first two splits that share keys, and how many.
    """
    names = list(splits)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            shared = np.intersect1d(splits[first], splits[second]).size
            if shared:
                raise InputError(
                    f"{first} and {second} share {shared} ids or groups; a certificate needs calib items "
                    f"that nothing was fitted on, so drop them from {first} or give other records."
                )


@dataclass(frozen=True, eq=False)
class KeyLedger:
    """64-bit hashes of the keys a bundle has used, so that calib is never used twice unnoticed.

    Attributes
    ----------
    train, tune, calib
        uint64, sorted; all keys by which queries are known (`router_core.splits.query_keys`).
    uses
        int64, how many times each calib key has been used to certify, in the order of `calib`.
    """

    train: NDArray[np.uint64]
    tune: NDArray[np.uint64]
    calib: NDArray[np.uint64]
    uses: NDArray[np.int64]

    def used(self, keys: NDArray[np.uint64]) -> int:
        """How many times any of these calib keys has been used before."""
        if not len(self.calib):
            return 0
        hits = self.uses[np.isin(self.calib, keys)]
        return int(hits.max(initial=0))

    def with_calib(self, keys: NDArray[np.uint64]) -> KeyLedger:
        """The ledger after these calib keys have been used once more."""
        every = np.union1d(self.calib, keys)
        uses = np.zeros(len(every), np.int64)
        uses[np.searchsorted(every, self.calib)] += self.uses
        uses[np.searchsorted(every, np.unique(keys))] += 1
        return KeyLedger(self.train, self.tune, every, uses)

    def merged(self, other: KeyLedger) -> KeyLedger:
        """The ledger with the calib keys of another one; a key in both keeps the larger count."""
        every = np.union1d(self.calib, other.calib)
        uses = np.zeros(len(every), np.int64)
        for ledger in (self, other):
            at = np.searchsorted(every, ledger.calib)
            uses[at] = np.maximum(uses[at], ledger.uses)
        return KeyLedger(self.train, self.tune, every, uses)
