"""A process that dies at a chosen write to the disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest

__all__ = ["killed_at"]


class _Killed(BaseException):
    """A process that is no more: nothing catches it."""


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> bool:
    """Do something that dies at its n-th sync, rename or removal; whether it got that far."""
    count = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            nonlocal count
            if count == step:
                raise _Killed
            count += 1
            return real(*given, **named)

        return call

    with monkeypatch.context() as patch:
        for owner, name in ((os, "fsync"), (os, "replace"), (os, "rename"), (os, "unlink")):
            patch.setattr(owner, name, counted(getattr(os, name)))
        # A killed process does not tidy up either.
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        try:
            act()
        except _Killed:
            return True
    return False
