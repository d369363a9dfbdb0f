"""The fence between calibration and everything that learns: no calib item is ever clustered or trained on.

A certificate counts bad answers on items that nothing was fitted on (P11 of the method). What reads production logs
or records therefore names the keys it must not touch, and is refused when it was handed one of them.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from router_core.groups import hash_key
from router_core.keys import check_disjoint, hash_keys

__all__ = ["NO_KEYS", "item_keys", "refuse_calib"]

Keys = NDArray[np.uint64]

NO_KEYS: Keys = np.zeros(0, dtype=np.uint64)
"""Nothing is calibrated yet."""


def item_keys(query_id: str, group: str, text: str) -> tuple[str, ...]:
    """All keys an item may be known by: its id, its group, and what splits go by where there is no group."""
    return tuple(key for key in (query_id, group, hash_key(text)) if key)


def refuse_calib(what: str, keys: Iterable[str], calib: Keys) -> None:
    """Refuse items that a bundle calibrates with.

    Parameters
    ----------
    what
        What the items are meant for, for the message: ``"clusters"``, ``"training pairs"``.
    keys
        `item_keys` of all of them.
    calib
        `router_core.keys.hash_keys` of the calibration items, as in ``bundle.keys.calib``.

    Raises
    ------
    InputError
        When they share one.
    """
    check_disjoint(**{what: hash_keys(keys), "calib": np.asarray(calib, dtype=np.uint64)})
