"""The router and the students that the next query takes, of a ROOT always the current release's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from router_core.errors import BundleError
from router_core.lapse import Validity
from router_core.release import Release
from router_core.route import Answer
from router_core.router import Router
from router_core.served import ServedRoot, Source
from router_core.student_set import StudentSet

__all__ = ["RouterSource", "StudentSource", "ask_student"]


class RouterSource(Source[Router]):
    """The router for the next query: always the current release's. Made by `Router.watch`.

    A query takes `get` once. Looking costs at most one read of a file a second; another release is loaded by a thread
    and never waited for. One that cannot be loaded, or whose tiers have other names, is warned about once and not
    served: the release before it stays.

    Parameters
    ----------
    root, threads, validity
        As for `Router.load`; `root` must be a ROOT.

    Raises
    ------
    InputError
        When it is none.
    BundleError
        When it has no current release, or that cannot be loaded.
    """

    def __init__(self, root: str | Path, *, threads: int | None = None, validity: Validity | None = None) -> None:
        self._given = threads, validity
        self.key = ("router", threads, validity)
        super().__init__(ServedRoot.of(root))

    def load(self, release: Release, before: Router | None) -> Router:
        """Load the router of a release; see `Source.load`."""
        threads, validity = self._given
        router = Router.load(release.bundle, threads=threads, validity=validity)
        if before is not None:
            names, old = router.portfolio.names, before.portfolio.names
            if set(names) != set(old) or names[-1] != old[-1]:
                msg = f"release {release.id} has the tiers {', '.join(names)}, running models {', '.join(old)}; restart"
                raise BundleError(msg)
        return router

    def get(self) -> Router:
        """Return the router."""
        return self.held()

    def __getstate__(self) -> dict[str, Any]:
        path = None if self.root is None else self.root.root
        return {"path": path, "given": self._given, "router": self.get()}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self._given = state["given"]
        self.key = ("router", *self._given)
        self.rejoin(state["path"] or Path(), state["router"])


class StudentSource(Source[StudentSet]):
    """The students to answer the next query with; of a watched ROOT always the current release's.

    A query takes `get` once, so it has one release from start to end. A release that cannot be loaded is warned about
    and not served: the students before it stay.

    Parameters
    ----------
    path, tier, threads
        As for `StudentSet.load`.
    watch
        Look at most once a second whether another release became current; it is loaded by a thread.

    Raises
    ------
    InputError
        When there is nothing to watch: the folder is no ROOT.
    BundleError
        When there is no such student, or it is damaged, newer than this version, or another tier's.
    """

    def __init__(self, path: str | Path, tier: str | None = None, *, watch: bool = False, threads: int = 1) -> None:
        self._path, self._tier, self._threads = Path(path).resolve(), tier, threads
        self.key = ("students", tier, threads)
        if watch:
            super().__init__(ServedRoot.of(path))
        else:
            super().__init__(None, StudentSet.load(path, tier, threads))

    def load(self, release: Release, before: StudentSet | None) -> StudentSet:
        """Load the students of a release; see `Source.load`."""
        del before
        return StudentSet.load(release.folder, self._tier, self._threads)

    def get(self, fingerprint: str | None = None) -> StudentSet:
        """Return the students.

        Parameters
        ----------
        fingerprint
            What the router of this query names for the tier. The release before is asked too, so that a query that
            began under it ends under it; if neither has these students, the current ones are returned.
        """
        return self.held(fingerprint)

    def __getstate__(self) -> dict[str, Any]:
        told = {"path": self._path, "tier": self._tier, "threads": self._threads}
        return {**told, "watch": self.root is not None, "students": self.get()}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self._path, self._tier, self._threads = state["path"], state["tier"], state["threads"]
        self.key = ("students", self._tier, self._threads)
        if state["watch"]:
            self.rejoin(self._path, state["students"])
        else:
            self.root, self._still = None, state["students"]


def ask_student(router: Router, tier: str, source: StudentSource, prompt: str, task: str | None) -> tuple[Answer, str]:
    """Answer with the students that a router was certified with, and their name.

    Parameters
    ----------
    router
        The router of the query.
    tier
        Name of the tier.
    source
        Its students.
    prompt
        The query.
    task
        As for `Router.start`.

    Raises
    ------
    InputError
        When the tier has one student per task and none for this one.
    """
    students = source.get(router.portfolio.tiers[router.portfolio.index(tier)].model)
    found = students.answer(prompt, router.scopes.named(task))
    return Answer(found.text, found.prompt_tokens, found.completion_tokens, signals=found.signals), students.name
