"""The bundle: one versioned, hashed folder that holds everything a router needs and what was shown of it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from router_core.arrays import dump_arrays, dump_json, load_arrays, load_json
from router_core.claim import Certificate
from router_core.encoder import load_encoder, serving_threads
from router_core.errors import BundleError
from router_core.folder import MANIFEST, check_output, parts_id, read_folder, write_folder
from router_core.keys import KeyLedger
from router_core.policy import Policy
from router_core.portfolio import Portfolio
from router_core.release import bundle_folder
from router_core.route_text import ROUTE_TEXT_VERSION
from router_core.scopes import Scopes
from router_core.scoring import Scorer
from router_core.show import bundle_html
from router_core.sketches import SKETCHES

__all__ = ["Bundle", "candidate_parts", "earlier_keys", "parts_id"]

_AFTER = frozenset({"certificates.json", "keys.npz", "report.json"})
"""Parts written after calib was read; all others are the candidate."""
_OPAQUE = ("baseline", "tuned", SKETCHES)


@dataclass(frozen=True, eq=False, repr=False)
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
        Fitted baselines, the scores on tune that paths were laid from, and sketches of the texts that were learned
        from (`router_core.sketches`), as parts, opaque to serving.
    keys
        Hashes of the keys used.
    report
        What a reader wants to know: drops, splits, choices, cost basis.
    measured
        What a clock said while the bundle was made; it stands in the manifest, outside the id, which must not depend on
        how busy the machine was.
    id
        Hash of all parts; empty until written or loaded.
    certified_at
        When it was first written, seconds since 1970; in the manifest, no part of the id. None for older bundles.
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
    measured: Mapping[str, Any] = field(default_factory=dict)
    certified_at: float | None = None

    def __repr__(self) -> str:
        return f"Bundle(id={self.id[:12]!r}, tiers={list(self.portfolio.names)}, tasks={list(self.scopes.subtasks)})"

    def _repr_html_(self) -> str:
        return bundle_html(self)

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
        target = check_output(path)
        parts = self.candidate_parts()
        parts["certificates.json"] = dump_json(
            {
                "candidate": parts_id(parts),
                "certificates": [c.to_json() for _, c in sorted(self.certificates.items())],
            }
        )
        keys = self.keys
        parts["keys.npz"] = dump_arrays(
            {"train": keys.train, "tune": keys.tune, "calib": keys.calib, "uses": keys.uses}
        )
        parts["report.json"] = dump_json(self.report)
        manifest = {
            "id": parts_id(parts),
            "versions": _versions(),
            "route_text": ROUTE_TEXT_VERSION,
            "certified_at": self.certified_at or round(time.time(), 3),
            "fingerprints": {tier.name: tier.model or tier.name for tier in self.portfolio.tiers},
            "measured": dict(self.measured),
        }
        write_folder(target, manifest, parts)
        return Bundle.load(target)

    @classmethod
    def load(cls, path: str | Path, threads: int | None = None) -> "Bundle":
        """Read and verify a bundle, or the one in the current release of a ROOT (`router_core.release`).

        `threads` is as for `Router.load`.

        Raises
        ------
        BundleError
            When the folder is no bundle, a file is changed, missing or extra, or the schema is newer.
        InputError
            When the number of threads is none.
        """
        root, threads = bundle_folder(path), serving_threads(threads)
        manifest, parts = read_folder(root)
        try:
            _check_whole(root, manifest, parts)
            return _parse(manifest, parts, threads)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            if isinstance(error, BundleError):
                raise
            msg = f"bundle {root}: its parts do not fit together ({type(error).__name__}); fit the bundle again"
            raise BundleError(msg) from error


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


def earlier_keys(out: str | Path) -> KeyLedger | None:
    """Keys of the bundle that a new one will replace, None when there is none; checks the output folder first.

    Raises
    ------
    InputError
        When the folder cannot be written or holds something else.
    BundleError
        When the bundle there is damaged: its use counts would be lost.
    """
    target = check_output(out)
    return Bundle.load(target).keys if (target / MANIFEST).is_file() else None


def _parse(manifest: Mapping[str, Any], parts: Mapping[str, bytes], threads: int) -> Bundle:
    portfolio = Portfolio.from_json(load_json("portfolio.json", parts["portfolio.json"]))
    candidate = load_json("candidate.json", parts["candidate.json"])
    subtasks = {task: tuple(names) for task, names in candidate["scopes"].items()}
    scopes = Scopes(subtasks, candidate["settings"].get("certify_by", "task"))
    shown = load_json("certificates.json", parts["certificates.json"])
    found = [Certificate.from_json(data) for data in shown["certificates"]]
    certificates = {(c.scope, c.policy): c for c in found}
    texts = load_json("policies.json", parts["policies.json"])
    arrays = load_arrays("policies.npz", parts["policies.npz"])
    policies: dict[tuple[str, str], Policy] = {}
    for prefix, text in texts.items():
        policy = Policy.load(prefix, text, arrays)
        key = policy.scope, policy.name
        policies[key] = policy.at(certificates[key].step)
    return Bundle(
        portfolio,
        scopes,
        Scorer.from_parts(load_encoder(parts, threads), parts),
        policies,
        certificates,
        candidate["settings"],
        {name: content for name, content in parts.items() if name.startswith(_OPAQUE)},
        KeyLedger(**load_arrays("keys.npz", parts["keys.npz"])),
        load_json("report.json", parts["report.json"]),
        manifest["id"],
        manifest.get("measured", {}),
        manifest.get("certified_at"),
    )


def _check_whole(root: Path, manifest: Mapping[str, Any], parts: Mapping[str, bytes]) -> None:
    """Hashes speak of each part; this speaks of the parts together."""
    certified = {name: part for name, part in parts.items() if name not in _AFTER}
    candidate = load_json("certificates.json", parts["certificates.json"])["candidate"]
    if manifest["route_text"] != ROUTE_TEXT_VERSION:
        what = f"was made for route text {manifest['route_text']}, this version routes by {ROUTE_TEXT_VERSION}"
    elif parts_id(parts) != manifest["id"]:
        what = "has an id that is not that of its parts"
    elif parts_id(certified) != candidate:
        what = "holds certificates of another candidate"
    else:
        return
    msg = f"bundle {root} {what}; fit it again"
    raise BundleError(msg)


def _versions() -> dict[str, str]:
    found = {}
    for package in ("routenlp", "numpy", "onnxruntime", "scikit-learn", "crepes"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
