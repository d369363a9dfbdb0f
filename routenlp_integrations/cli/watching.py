"""What ``routenlp watch`` goes on watching: the bundle that serves now, and what its audits said so far."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from routenlp_integrations.cli.output import write_json

if TYPE_CHECKING:
    from router_core.bundle import Bundle
    from router_core.lapse import Lapse
    from router_core.monitor import Verdict, Watcher, WatchSettings

__all__ = ["Look", "Watching"]


@dataclass(frozen=True, eq=False)
class Look:
    """What one look found.

    Attributes
    ----------
    watcher, verdicts, lapses
        Of the bundle that serves.
    new
        Audits that were not known before.
    at
        When, seconds since 1970.
    written
        Lapses that this look wrote.
    lapse_file
        Where they are told.
    before
        Id of the bundle that was watched until now, None where it is the same.
    """

    watcher: Watcher
    verdicts: Sequence[Verdict]
    lapses: Sequence[Lapse]
    new: int
    at: float
    written: Sequence[Lapse]
    lapse_file: Path
    before: str | None

    @property
    def blind(self) -> bool:
        """Whether some certificate cannot be watched, so many of its audits failed."""
        return any(verdict.verdict == "blind" for verdict in self.verdicts)


class Watching:
    """Looks at a bundle, or at whatever release of a ROOT is current.

    Parameters
    ----------
    path
        Folder of a bundle, or a ROOT.
    settings
        How closely; its validity is replaced.
    validity
        Greatest age in days and most decisions; None for those that the bundle names.
    state
        File to go on from and to keep what was counted in; None for none.
    """

    def __init__(
        self, path: Path, settings: WatchSettings, validity: tuple[float | None, int | None], state: Path | None
    ) -> None:
        self._path, self._settings, self._validity, self._state = path, settings, validity, state
        self._served: tuple[Path, bytes] | None = None
        self._watcher: Watcher | None = None
        self._before: str | None = None

    def look(self, ledger: str, now: float, *, write: bool) -> Look:
        """Read which bundle serves and what is new of its audits, and keep both.

        Parameters
        ----------
        ledger
            URL of a ledger, or a .jsonl file.
        now
            Seconds since 1970.
        write
            Whether lapses are written.

        Raises
        ------
        InputError
            When audits or state cannot be read.
        BundleError
            When there is no bundle, or its lapse file is damaged.
        """
        from router_core.audit_files import open_audits
        from router_core.lapse import lapse_file, write_lapses

        folder, watcher = self._serving()
        new = watcher.read(open_audits(ledger, float(watcher.bundle.settings["tolerance"])))
        verdicts = watcher.verdicts(now)
        lapses = watcher.lapses(verdicts, now)
        written = write_lapses(folder, watcher.bundle.id, lapses) if write else ()
        if self._state is not None:
            write_json(self._state, watcher.to_json())
        before, self._before = self._before, None
        return Look(watcher, verdicts, lapses, new, now, written, lapse_file(folder), before)

    def _serving(self) -> tuple[Path, Watcher]:
        from router_core.bundle import Bundle
        from router_core.folder import MANIFEST
        from router_core.release import bundle_folder

        folder = bundle_folder(self._path).resolve()
        manifest = folder / MANIFEST
        # A folder may also be replaced in place; where there is no manifest, loading says what is wrong.
        served = folder, manifest.read_bytes() if manifest.is_file() else b""
        if self._watcher is None or served != self._served:
            loaded = Bundle.load(folder)
            if self._watcher is None:
                self._watcher = self._begin(loaded)
            elif loaded.id != self._watcher.bundle.id:
                self._before = self._before or self._watcher.bundle.id
                self._watcher = self._anew(loaded)
            self._served = served
        return folder, self._watcher

    def _anew(self, bundle: Bundle) -> Watcher:
        from router_core.monitor import Watcher

        return Watcher(bundle, self._settings_of(bundle))

    def _settings_of(self, bundle: Bundle) -> WatchSettings:
        from router_core.lapse import Validity

        (age, decisions), told = self._validity, bundle.settings
        age = told.get("max_age_days") if age is None else age
        decisions = told.get("max_decisions") if decisions is None else decisions
        return replace(self._settings, validity=Validity(age, decisions))

    def _begin(self, bundle: Bundle) -> Watcher:
        from router_core.errors import InputError
        from router_core.monitor import Watcher
        from router_core.release import is_root

        if self._state is None or not self._state.is_file():
            return self._anew(bundle)
        try:
            data = json.loads(self._state.read_bytes())
            if is_root(self._path) and isinstance(data, dict) and data.get("bundle") != bundle.id:
                self._before = str(data.get("bundle"))
                return self._anew(bundle)
            return Watcher.from_json(bundle, self._settings_of(bundle), data)
        except ValueError as error:
            why = str(error) if isinstance(error, InputError) else "The state is not JSON; begin a new one."
            raise InputError(f"--state {self._state}: {why}") from error
