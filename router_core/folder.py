"""A folder of hashed files, written whole or not at all and verified when read."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router_core.arrays import dump_json, load_json, sha256
from router_core.durable import rename_folder, sync_tree
from router_core.errors import BundleError, InputError

__all__ = ["BUNDLE", "MANIFEST", "SCHEMA", "FolderKind", "check_output", "parts_id", "read_folder", "write_folder"]

SCHEMA = 1
"""Schema this version writes; it reads this and one older."""

MANIFEST = "manifest.json"
_STALE_S = 24 * 3600.0
_ASIDE_S = 5.0
"""A bundle moved aside for longer than this was left by a killed writer; renaming takes microseconds."""


@dataclass(frozen=True, slots=True)
class FolderKind:
    """What a folder is called in errors.

    Attributes
    ----------
    name
        ``"bundle"``.
    made
        When its hashes were taken, completing "was changed after it was ...".
    again
        How to make it anew, completing "restore it or ...".
    how
        How to make the first one, completing "make one with ..."; ``{root}`` stands for the folder.
    """

    name: str
    made: str
    again: str
    how: str


BUNDLE = FolderKind("bundle", "certified", "fit the bundle again", "`routenlp fit ... --out {root}`")


def parts_id(parts: Mapping[str, bytes]) -> str:
    """SHA-256 of the canonical JSON of the part hashes."""
    return sha256(dump_json({name: sha256(content) for name, content in parts.items()}))


def check_output(path: str | Path, kind: FolderKind = BUNDLE) -> Path:
    """Resolve a folder to write, restore what a killed writer left beside it, and make sure it may be written.

    Raises
    ------
    InputError
        When it exists and is not a bundle, or cannot be written.
    """
    target = Path(path).resolve()
    _restore(target)
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not (target / MANIFEST).is_file())):
        msg = f"{path} exists and is not a {kind.name}; choose another --out or remove it"
        raise InputError(msg)
    if target.exists() and target.samefile(Path.cwd()):
        msg = f"{path} is the current folder, which cannot be replaced; name a folder inside it"
        raise InputError(msg)
    there = target.parent
    while not there.exists():
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "is not writable" if there.is_dir() else "is a file"
        msg = f"{path} cannot be written: {there} {why}; choose another --out"
        raise InputError(msg)
    return target


def read_folder(root: Path, kind: FolderKind = BUNDLE) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read and verify a folder: its manifest, and the content of every part.

    Raises
    ------
    BundleError
        When it is not of that kind, a file is changed, missing or extra, or the schema is newer.
    """
    _restore(root)
    manifest = _manifest(root, kind)
    listed: dict[str, str] = manifest["parts"]
    present = {item.name for item in root.iterdir()} - {MANIFEST}
    if missing := sorted(set(listed) - present):
        msg = f"{kind.name} {root}: {missing[0]} is missing; restore it or {kind.again}"
        raise BundleError(msg)
    if extra := sorted(present - set(listed)):
        msg = f"{kind.name} {root}: {extra[0]} does not belong to it; remove the file"
        raise BundleError(msg)
    parts: dict[str, bytes] = {}
    for name, digest in sorted(listed.items()):
        if not (root / name).is_file():
            msg = f"{kind.name} {root}: {name} is no regular file; restore it or {kind.again}"
            raise BundleError(msg)
        content = (root / name).read_bytes()
        if sha256(content) != digest:
            msg = f"{kind.name} {root}: {name} was changed after it was {kind.made}; restore it or {kind.again}"
            raise BundleError(msg)
        parts[name] = content
    return manifest, parts


def write_folder(target: Path, manifest: Mapping[str, Any], parts: Mapping[str, bytes]) -> None:
    """Write parts and manifest beside the target, sync them, and rename them into place."""
    told = {**manifest, "schema": SCHEMA, "parts": {name: sha256(content) for name, content in parts.items()}}
    told["seal"] = sha256(dump_json(told))
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.new.", dir=target.parent))
    try:
        for name, content in {**parts, MANIFEST: dump_json(told)}.items():
            (staging / name).write_bytes(content)
        staging.chmod(0o755)
        sync_tree(staging)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
            target.rename(old / target.name)
            rename_folder(staging, target)
            shutil.rmtree(old)
        else:
            rename_folder(staging, target)
    finally:
        if staging.exists():
            shutil.rmtree(staging)


def _manifest(root: Path, kind: FolderKind) -> dict[str, Any]:
    path = root / MANIFEST
    if not path.is_file():
        msg = f"{root} is not a {kind.name}: it has no {MANIFEST}; make one with {kind.how.format(root=root)}"
        raise BundleError(msg)
    manifest = load_json(MANIFEST, path.read_bytes())
    if not isinstance(manifest, dict) or not isinstance(manifest.get("schema"), int):
        msg = f"{path} is not a {kind.name} manifest; {kind.again}"
        raise BundleError(msg)
    if not SCHEMA - 1 <= manifest["schema"] <= SCHEMA:
        msg = f"{kind.name} {root} has schema {manifest['schema']}, this version reads up to {SCHEMA}; upgrade routenlp"
        raise BundleError(msg)
    seal = manifest.pop("seal", None)
    if seal != sha256(dump_json(manifest)) or not isinstance(manifest.get("parts"), dict):
        msg = f"{kind.name} {root}: {MANIFEST} was changed; restore it or {kind.again}"
        raise BundleError(msg)
    return manifest


def _restore(target: Path) -> None:
    """Put back the bundle that a writer killed between its two renames had moved aside."""
    if target.exists() or not target.parent.is_dir():
        return
    aside = [item / target.name for item in target.parent.glob(f".{target.name}.old.*")]
    found = [item for item in aside if (item / MANIFEST).is_file() and _age(item.parent) > _ASIDE_S]
    if len(found) == 1:
        found[0].rename(target)
        found[0].parent.rmdir()


def _sweep(target: Path) -> None:
    """Remove what writers killed more than a day ago left half-written."""
    for item in target.parent.glob(f".{target.name}.new.*"):
        if item.is_dir() and _age(item) > _STALE_S:
            shutil.rmtree(item, ignore_errors=True)
    for item in target.parent.glob(f".{target.name}.old.*"):
        if item.is_dir() and _age(item) > _STALE_S and not any(item.iterdir()):
            item.rmdir()


def _age(folder: Path) -> float:
    """Seconds since a folder changed."""
    return time.time() - folder.stat().st_mtime
