"""Writing GGUF in pure Python: a LoRA adapter alone, or merged into its base."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LoraPair", "adapter_bytes", "gguf_name", "merged_bytes", "to_rotary"]

Floats = NDArray[np.float32]

_NAMES = {
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
    "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
}  # fmt: skip
_HELD = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")
_MOSTLY_Q8_0 = 7


@dataclass(frozen=True, eq=False)
class LoraPair:
    """The update ``scale * b @ a`` of one weight ``[out, in]``, its rows in transformers' order.

    Attributes
    ----------
    a, b
        float32 ``[rank, in]`` and ``[out, rank]``.
    """

    a: Floats
    b: Floats


def gguf_name(module: str) -> str:
    """Name in GGUF of a projection, ``model.layers.3.self_attn.q_proj`` -> ``blk.3.attn_q.weight``."""
    layer, projection = re.search(r"layers\.(\d+)\.\w+\.(\w+)$", module).groups()  # type: ignore[union-attr]
    return f"blk.{layer}.{_NAMES[projection]}.weight"


def to_rotary(rows: Floats, heads: int) -> Floats:
    """Reorder the output rows of q or k: llama.cpp turns neighbouring pairs, transformers halves of a head."""
    size, width = rows.shape
    return np.ascontiguousarray(rows.reshape(heads, 2, size // heads // 2, width).swapaxes(1, 2).reshape(size, width))


def adapter_bytes(pairs: Mapping[str, LoraPair], alpha: float, heads: Mapping[str, int]) -> bytes:
    """Write an adapter, float32.

    Parameters
    ----------
    pairs
        By name in GGUF.
    alpha
        Of LoRA; llama.cpp divides it by the rank.
    heads
        Heads of ``attn_q`` and ``attn_k``.
    """
    import gguf

    def fill(writer: Any) -> None:
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        for name, pair in sorted(pairs.items()):
            writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(pair.a))
            writer.add_tensor(f"{name}.lora_b", _ordered(name, pair.b, heads))

    return _written(gguf, fill)


def merged_bytes(base: Path, pairs: Mapping[str, LoraPair], scale: float, heads: Mapping[str, int]) -> bytes:
    """Write the base with the updates merged in: updated weights as Q8_0, all others as they are in the base.

    Parameters
    ----------
    base
        GGUF file of the base.
    pairs, heads
        As for `adapter_bytes`.
    scale
        alpha over rank.
    """
    import gguf

    reader = gguf.GGUFReader(base)

    def fill(writer: Any) -> None:
        for key, entry in reader.fields.items():
            if not key.startswith(_HELD):
                inner = {"sub_type": entry.types[-1]} if entry.types[0] == gguf.GGUFValueType.ARRAY else {}
                writer.add_key_value(key, entry.contents(), entry.types[0], **inner)
        writer.add_file_type(_MOSTLY_Q8_0)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        for tensor in reader.tensors:
            pair = pairs.get(tensor.name)
            if pair is None:
                writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
                continue
            weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            weight = (weight + scale * _ordered(tensor.name, pair.b, heads) @ pair.a).astype(np.float32)
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(tensor.name, gguf.quants.quantize(weight, kind), raw_dtype=kind)

    return _written(gguf, fill)


def _ordered(name: str, b: Floats, heads: Mapping[str, int]) -> Floats:
    count = heads.get(name.split(".")[2])
    return np.ascontiguousarray(b) if count is None else to_rotary(b, count)


def _written(gguf: Any, fill: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        fill(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()
