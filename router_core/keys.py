"""Ids and group keys remembered by their hash, and the refusal of splits that share one.

A bundle keeps which rows it was trained, tuned and certified on without keeping their text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from router_core.errors import InputError

__all__ = ["check_disjoint", "hash_keys", "ids_sha256"]


def ids_sha256(ids: Iterable[str]) -> str:
    """SHA-256 of a set of ids, the same for any order."""
    canonical = json.dumps(sorted(set(ids)), ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def hash_keys(keys: Iterable[str]) -> NDArray[np.uint64]:
    """Sorted distinct 64-bit hashes (head of SHA-256) of the ids or group keys of a split."""
    heads = {hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8] for key in keys}
    return np.sort(np.frombuffer(b"".join(heads), dtype=">u8").astype(np.uint64))


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
