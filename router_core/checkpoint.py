"""The checkpoint: one hashed folder that holds a student, a cheap tier made by the distillation trainer.

::

    manifest.json     schema, kind, tier, id, part hashes, lineage, metrics, versions, seal
    student.json      format, kind, labels, max_tokens, vocabulary_sha256, prompt_template, calibration, settings
    model.onnx        kinds classifier, multilabel, tagger: the graph
    tokenizer.json    the same kinds: its tokenizer

``student.json`` is a part, since the id is the hash of the parts: whatever bears on an answer changes the id. The
tier's name, the lineage, the metrics and the versions do not. Kinds and what their parts must be are listed in
`router_core.student`. Written and verified by `router_core.folder`, as bundles are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Self

from router_core.arrays import dump_json, load_json
from router_core.errors import BundleError, InputError
from router_core.folder import MANIFEST, FolderKind, check_output, parts_id, read_folder, write_folder
from router_core.own_confidence import Calibration
from router_core.prompt_template import PLACEHOLDER, PromptTemplate

__all__ = ["AGAIN", "CHECKPOINT", "SPEC", "Checkpoint", "StudentSpec"]

SPEC: Final = "student.json"
AGAIN: Final = "distil it again"
CHECKPOINT: Final = FolderKind("checkpoint", "written", AGAIN, "`routenlp distill`")
_FORMAT: Final = 1


@dataclass(frozen=True)
class StudentSpec:
    """What ``student.json`` says: everything but the weights that bears on an answer.

    Attributes
    ----------
    kind
        ``"classifier"``, ``"multilabel"``, ``"tagger"``, ``"generative"``.
    labels
        In the order of the graph's outputs; empty for a generative student.
    max_tokens
        Tokens kept of a text, special tokens included.
    vocabulary_sha256
        `TextTokens.digest` of the tokenizer the graph was made for.
    prompt_template
        See `PromptTemplate`.
    calibration
        From outputs to ``own_confidence``.
    settings
        What one kind needs beside this: ``{"threshold": 0.5}`` of a multilabel student.
    """

    kind: str
    labels: tuple[str, ...]
    max_tokens: int
    vocabulary_sha256: str
    prompt_template: str = PLACEHOLDER
    calibration: Calibration = field(default_factory=Calibration)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("a label is listed twice")
        PromptTemplate(self.prompt_template)

    def to_bytes(self) -> bytes:
        """The part ``student.json``."""
        return dump_json({
            "format": _FORMAT, "kind": self.kind, "labels": self.labels, "max_tokens": self.max_tokens,
            "vocabulary_sha256": self.vocabulary_sha256, "prompt_template": self.prompt_template,
            "calibration": self.calibration.to_json(), "settings": dict(self.settings),
        })  # fmt: skip

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read the part ``student.json``.

        Raises
        ------
        BundleError
            If it is malformed.
        """
        data = load_json(SPEC, content)
        try:
            if data["format"] != _FORMAT:
                raise ValueError(f"format {data['format']!r} is not known; upgrade routenlp")
            return cls(
                kind=str(data["kind"]),
                labels=tuple(_text(label) for label in data["labels"]),
                max_tokens=int(data["max_tokens"]),
                vocabulary_sha256=_text(data["vocabulary_sha256"]),
                prompt_template=_text(data["prompt_template"]),
                calibration=Calibration.from_json(data["calibration"]),
                settings=dict(data["settings"]),
            )
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise BundleError(f"The part {SPEC} is malformed ({error}); {AGAIN}.") from error


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A student at rest.

    Attributes
    ----------
    tier
        Name of the tier it was made for.
    spec
        What bears on its answers beside the weights.
    weights
        The other parts by name.
    lineage
        Where it comes from, all optional: ``ledger`` (range), ``clusters``, ``teacher``, ``parent`` (id of a
        checkpoint), ``spend_usd``, ``seed``. Any JSON values.
    metrics
        What was measured of it. Any JSON values.
    versions
        Versions of the packages that made it.
    folder
        Where it was read from, for kinds whose engine opens a file; None in memory.
    """

    tier: str
    spec: StudentSpec
    weights: Mapping[str, bytes] = field(repr=False)
    lineage: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None

    def parts(self) -> dict[str, bytes]:
        """All parts."""
        return {**self.weights, SPEC: self.spec.to_bytes()}

    @property
    def fingerprint(self) -> str:
        """Hash of all parts, the id of the checkpoint; hexadecimal SHA-256."""
        return parts_id(self.parts())

    def save(self, path: str | Path) -> Checkpoint:
        """Write the checkpoint beside the target, sync it, rename it into place, and read it back.

        Raises
        ------
        InputError
            When the target exists and is not a checkpoint, or cannot be written.
        """
        target = check_output(path, CHECKPOINT)
        if (target / MANIFEST).is_file() and "tier" not in load_json(MANIFEST, (target / MANIFEST).read_bytes()):
            msg = f"{path} exists and is not a checkpoint; choose another folder or remove it"
            raise InputError(msg)
        manifest = {
            "id": self.fingerprint,
            "kind": self.spec.kind,
            "tier": self.tier,
            "lineage": dict(self.lineage),
            "metrics": dict(self.metrics),
            "versions": dict(self.versions) or _versions(),
        }
        write_folder(target, manifest, self.parts())
        return Checkpoint.load(target)

    @classmethod
    def load(cls, path: str | Path) -> Checkpoint:
        """Read and verify a checkpoint.

        Raises
        ------
        BundleError
            When the folder is no checkpoint, a file is changed, missing or extra, or the schema is newer.
        """
        root = Path(path)
        manifest, parts = read_folder(root, CHECKPOINT)
        if "tier" not in manifest or SPEC not in parts:
            msg = f"{root} is not a checkpoint: it has no {SPEC}; make one with {CHECKPOINT.how}"
            raise BundleError(msg)
        try:
            spec = StudentSpec.from_bytes(parts[SPEC])
            if parts_id(parts) != manifest["id"] or spec.kind != manifest["kind"]:
                msg = f"checkpoint {root}: id or kind in {MANIFEST} is not that of its parts; {AGAIN}"
                raise BundleError(msg)
            weights = {name: content for name, content in parts.items() if name != SPEC}
            return cls(
                str(manifest["tier"]), spec, weights, manifest["lineage"], manifest["metrics"], manifest["versions"],
                root.resolve(),
            )  # fmt: skip
        except KeyError as error:
            msg = f"checkpoint {root}: {MANIFEST} does not say {error}; {AGAIN}"
            raise BundleError(msg) from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _versions() -> dict[str, str]:
    return {package: metadata.version(package) for package in ("routenlp", "numpy", "onnxruntime", "tokenizers")}
