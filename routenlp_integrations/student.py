"""A distilled checkpoint as a model of any framework: where its students are found, and what they refuse."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, PrivateAttr

from router_core.release import is_root
from router_core.sources import StudentSource

__all__ = ["FINGERPRINT", "StudentModel", "refuse"]

FINGERPRINT = "routenlp_fingerprint"
"""Argument of a call that says which students the query's router was certified with."""


class StudentModel(BaseModel):
    """The parts of a `StudentChatModel` or a `StudentLLM`, which document them."""

    root: str
    tier: str | None = None
    task: str | None = None
    watch: bool | None = None

    _source: StudentSource = PrivateAttr()

    def __init__(self, root: str | os.PathLike[str], **params: Any) -> None:
        super().__init__(**{**params, "root": os.fspath(root)})
        # Here and not in a validator, which would wrap a BundleError.
        watch = is_root(Path(self.root)) if self.watch is None else self.watch
        self._source = StudentSource(self.root, self.tier, watch=watch)

    @property
    def fingerprint(self) -> str:
        """Hash of the students that answer now, hexadecimal."""
        return self._source.get().fingerprint


def refuse(params: Mapping[str, Any], unable: tuple[str, ...]) -> None:
    """Refuse a call that asks for what no student can do.

    Raises
    ------
    NotImplementedError
        When one of the arguments in `unable` is given.
    """
    for name in unable:
        if params.get(name):
            msg = f"a student takes no {name}; ask another tier for it"
            raise NotImplementedError(msg)
