"""The bundle: one versioned, hashed folder that holds everything a router needs and what was shown of it."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from router_core.arrays import dump_arrays, dump_json, load_arrays, load_json, sha256
from router_core.claim import Certificate
from router_core.encoder import load_encoder
from router_core.errors import BundleError, InputError
from router_core.keys import KeyLedger
from router_core.policy import Policy
from router_core.portfolio import Portfolio
from router_core.route_text import ROUTE_TEXT_VERSION
from router_core.scopes import Scopes
from router_core.scoring import Scorer

__all__ = ["SCHEMA", "Bundle", "check_output"]

SCHEMA = 1
"""Schema this version writes; it reads this and one older."""

MANIFEST = "manifest.json"
_OPAQUE = ("baseline", "tuned")


@dataclass(frozen=True, eq=False)
class Bundle:
    """Router, policies, certificates and history.

    Attributes
    ----------
    portfolio, scopes, scorer
        The frozen candidate.
    policies
        By (scope, policy name), each with its certified step in force.
    certificates
        By (scope, policy or baseline name).
    settings
        How it was made: risk, alpha, delta, tolerance, seed, how certificates are cut, and what each path's test fixed.
    baselines
        Fitted baselines, and the scores on tune that paths were laid from, as parts, opaque to serving.
    keys
        Hashes of the keys used.
    report
        What a reader wants to know: drops, splits, choices, cost basis.
    id
        Hash of all parts; empty until written or loaded.
    """

    portfolio: Portfolio
    scopes: Scopes
    scorer: Scorer
    policies: Mapping[tuple[str, str], Policy]
    certificates: Mapping[tuple[str, str], Certificate]
    settings: Mapping[str, Any]
    baselines: Mapping[str, bytes]
    keys: KeyLedger
    report: Mapping[str, Any]
    id: str = field(default="")

    def candidate_parts(self) -> dict[str, bytes]:
        """The parts frozen before calib is read."""
        return candidate_parts(self.portfolio, self.scopes, self.scorer, self.policies, self.settings, self.baselines)

    @property
    def candidate_id(self) -> str:
        """Hash of the parts frozen before calib is read."""
        return parts_id(self.candidate_parts())

    def save(self, path: str | Path) -> "Bundle":
        """Write the bundle: beside the target, synced, then renamed into place.

        Raises
        ------
        InputError
            When the target exists and is not a bundle.
        """
        target = Path(path)
        check_output(target)
        parts = self.candidate_parts()
        parts["certificates.json"] = dump_json(
            {
                "candidate": parts_id(parts),
                "certificates": [c.to_json() for _, c in sorted(self.certificates.items())],
                "steps": {"|".join(key): policy.step for key, policy in sorted(self.policies.items())},
            }
        )
        keys = self.keys
        parts["keys.npz"] = dump_arrays(
            {"train": keys.train, "tune": keys.tune, "calib": keys.calib, "uses": keys.uses}
        )
        parts["report.json"] = dump_json(self.report)
        manifest = {
            "schema": SCHEMA,
            "id": parts_id(parts),
            "parts": {name: sha256(content) for name, content in parts.items()},
            "versions": _versions(),
            "route_text": ROUTE_TEXT_VERSION,
            "fingerprints": {tier.name: tier.model or tier.name for tier in self.portfolio.tiers},
        }
        manifest["seal"] = sha256(dump_json(manifest))
        _write_folder(target, {**parts, MANIFEST: dump_json(manifest)})
        return Bundle.load(target)

    @classmethod
    def load(cls, path: str | Path) -> "Bundle":
        """Read and verify a bundle.

        Raises
        ------
        BundleError
            When the folder is no bundle, a file is changed, missing or extra, or the schema is newer.
        """
        root = Path(path)
        manifest = _manifest(root)
        parts = _verified_parts(root, manifest)
        portfolio = Portfolio.from_json(load_json("portfolio.json", parts["portfolio.json"]))
        candidate = load_json("candidate.json", parts["candidate.json"])
        subtasks = {task: tuple(names) for task, names in candidate["scopes"].items()}
        scopes = Scopes(subtasks, candidate["settings"].get("certify_by", "task"))
        shown = load_json("certificates.json", parts["certificates.json"])
        texts = load_json("policies.json", parts["policies.json"])
        arrays = load_arrays("policies.npz", parts["policies.npz"])
        policies: dict[tuple[str, str], Policy] = {}
        for prefix, text in texts.items():
            key = (text["scope"], text["name"])
            policies[key] = Policy.load(prefix, text, arrays).at(int(shown["steps"]["|".join(key)]))
        certificates = [Certificate.from_json(data) for data in shown["certificates"]]
        keys = load_arrays("keys.npz", parts["keys.npz"])
        return cls(
            portfolio,
            scopes,
            Scorer.from_parts(load_encoder(parts), parts),
            policies,
            {(c.scope, c.policy): c for c in certificates},
            candidate["settings"],
            {name: content for name, content in parts.items() if name.startswith(_OPAQUE)},
            KeyLedger(**keys),
            load_json("report.json", parts["report.json"]),
            manifest["id"],
        )


def candidate_parts(
    portfolio: Portfolio,
    scopes: Scopes,
    scorer: Scorer,
    policies: Mapping[tuple[str, str], Policy],
    settings: Mapping[str, Any],
    baselines: Mapping[str, bytes],
) -> dict[str, bytes]:
    """Everything that is frozen before calib is read, as bundle parts."""
    texts: dict[str, Any] = {}
    arrays: dict[str, NDArray[Any]] = {}
    for number, (_, policy) in enumerate(sorted(policies.items())):
        texts[f"p{number}"], part = policy.dump(f"p{number}")
        arrays |= part
    return {
        "candidate.json": dump_json({"scopes": dict(scopes.subtasks), "settings": dict(settings)}),
        "portfolio.json": dump_json(portfolio.to_json()),
        "policies.json": dump_json(texts),
        "policies.npz": dump_arrays(arrays),
        **scorer.parts(),
        **baselines,
    }


def parts_id(parts: Mapping[str, bytes]) -> str:
    """SHA-256 of the canonical JSON of the part hashes."""
    return sha256(dump_json({name: sha256(content) for name, content in parts.items()}))


def check_output(target: Path) -> None:
    """Refuse to overwrite anything that is not a bundle.

    Raises
    ------
    InputError
    """
    if not target.exists():
        return
    if not target.is_dir() or (any(target.iterdir()) and not (target / MANIFEST).is_file()):
        msg = f"{target} exists and is not a bundle; choose another --out or remove it"
        raise InputError(msg)


def _manifest(root: Path) -> dict[str, Any]:
    path = root / MANIFEST
    if not path.is_file():
        msg = f"{root} is not a bundle: it has no {MANIFEST}; make one with `routenlp fit ... --out {root}`"
        raise BundleError(msg)
    manifest = load_json(MANIFEST, path.read_bytes())
    if not isinstance(manifest, dict) or not isinstance(manifest.get("schema"), int):
        msg = f"{path} is not a bundle manifest; fit the bundle again"
        raise BundleError(msg)
    if not SCHEMA - 1 <= manifest["schema"] <= SCHEMA:
        msg = f"bundle {root} has schema {manifest['schema']}, this version reads up to {SCHEMA}; upgrade routenlp"
        raise BundleError(msg)
    seal = manifest.pop("seal", None)
    if seal != sha256(dump_json(manifest)):
        msg = f"bundle {root}: {MANIFEST} was changed; restore it or fit the bundle again"
        raise BundleError(msg)
    return manifest


def _verified_parts(root: Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    listed: dict[str, str] = manifest["parts"]
    present = {item.name for item in root.iterdir()} - {MANIFEST}
    if missing := sorted(set(listed) - present):
        msg = f"bundle {root}: {missing[0]} is missing; restore it or fit the bundle again"
        raise BundleError(msg)
    if extra := sorted(present - set(listed)):
        msg = f"bundle {root}: {extra[0]} does not belong to it; remove the file"
        raise BundleError(msg)
    parts: dict[str, bytes] = {}
    for name, digest in sorted(listed.items()):
        content = (root / name).read_bytes()
        if sha256(content) != digest:
            msg = f"bundle {root}: {name} was changed after it was certified; restore it or fit the bundle again"
            raise BundleError(msg)
        parts[name] = content
    return parts


def _write_folder(target: Path, files: Mapping[str, bytes]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for name, content in files.items():
            with (staging / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        staging.chmod(0o755)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
            target.rename(old / target.name)
            staging.rename(target)
            shutil.rmtree(old)
        else:
            staging.rename(target)
    finally:
        if staging.exists():
            shutil.rmtree(staging)


def _versions() -> dict[str, str]:
    found = {}
    for package in ("routenlp", "numpy", "onnxruntime", "scikit-learn", "crepes"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
