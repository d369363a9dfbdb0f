"""Arrays and JSON as bytes: deterministic, without pickled objects."""

import hashlib
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from router_core.errors import BundleError

__all__ = ["dump_arrays", "dump_json", "load_arrays", "load_json", "sha256"]

_EPOCH = (1980, 1, 1, 0, 0, 0)
_DAMAGE = (ValueError, KeyError, OSError, EOFError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile)
"""What reading a damaged archive may raise."""


def sha256(content: bytes) -> str:
    """Hexadecimal SHA-256 of the content."""
    return hashlib.sha256(content).hexdigest()


def dump_json(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def load_json(name: str, content: bytes) -> Any:
    """Parse a JSON part.

    Raises
    ------
    BundleError
        When the part is not JSON.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        msg = f"bundle part {name} is not valid JSON ({error}); fit the bundle again"
        raise BundleError(msg) from error


def dump_arrays(arrays: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """Write arrays as npz bytes that depend on nothing but the arrays.

    Raises
    ------
    ValueError
        When an array would need pickling.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(arrays[name], order="C"), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3  # the same bytes on every platform
            archive.writestr(info, member.getvalue())
    return buffer.getvalue()


def load_arrays(name: str, content: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """Read npz bytes.

    Raises
    ------
    BundleError
        When the part is no npz archive or holds objects.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except _DAMAGE as error:
        msg = f"bundle part {name} is not a readable array archive ({error}); fit the bundle again"
        raise BundleError(msg) from error
