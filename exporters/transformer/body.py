"""The encoder with its pooling: token ids in, pooled features out; as a fused ONNX graph."""

from __future__ import annotations

import hashlib
import io
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exporters.transformer.source import Source

__all__ = ["Body", "body_digest", "export_body", "export_fused", "export_torchscript"]

OPSET = 17
_FAR = 1e4


class Body(nn.Module):
    """Means over the tokens of some layers, and optionally maxima.

    Parameters
    ----------
    model
        A `transformers` encoder.
    layers
        Which hidden states are pooled, counted as transformers does: 0 = embeddings, 1 = first layer, ...
    pooling
        ``("mean",)`` or ``("mean", "max")``; all means stand before all maxima.
    """

    def __init__(self, model: Any, layers: tuple[int, ...], pooling: tuple[str, ...] = ("mean",)) -> None:
        super().__init__()
        self.pooling = pooling
        self.model = model
        self.layers = layers

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return pooled features ``[b, len(pooling) * len(layers) * width]``."""
        states = self.model(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True).hidden_states
        weight = attention_mask.unsqueeze(-1).to(states[0].dtype)
        total = weight.sum(1)
        found = [(states[layer] * weight).sum(1) / total for layer in self.layers]
        if "max" in self.pooling:
            found += [(states[layer] + (weight - 1.0) * _FAR).amax(1) for layer in self.layers]
        return torch.cat(found, dim=-1)


def body_digest(model: Any) -> str:
    """SHA-256 of the weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def export_body(source: Source, layers: tuple[int, ...], pooling: tuple[str, ...] = ("mean",)) -> bytes:
    """Export the encoder with its pooling, fused for ONNX Runtime, in float32.

    TorchScript export: ONNX Runtime's optimizer finds the attention only in that graph, not in the dynamo exporter's;
    optimum exports the encoder without our pooling, so it has no place here. The embeddings stay apart: fused, their
    tables could not be stored in int8 row by row.
    """
    body = Body(source.model, layers, pooling).eval()
    return export_fused(source, body, ("input_ids", "attention_mask"), {0: "b"})


def export_fused(source: Source, body: nn.Module, inputs: tuple[str, ...], features: dict[int, str]) -> bytes:
    """Export a module over the encoder as a fused float32 graph with the output ``features``.

    Parameters
    ----------
    source
        The encoder in it.
    body
        Takes int64 ``[b, t]`` tensors, one for each of `inputs`.
    inputs
        Their names.
    features
        Axes of the output that vary.
    """
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    ones = torch.ones(2, 8, dtype=torch.int64)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw, fused = Path(folder) / "raw.onnx", Path(folder) / "fused.onnx"
        export_torchscript(
            body, tuple(ones.clone() for _ in inputs), raw, {name: {0: "b", 1: "t"} for name in inputs},
            {"features": features},
        )  # fmt: skip
        options = FusionOptions("bert")
        options.enable_embed_layer_norm = False
        found = optimizer.optimize_model(
            str(raw), model_type="bert", num_heads=source.heads, hidden_size=source.width, opt_level=0,
            optimization_options=options,
        )  # fmt: skip
        found.save_model_to_file(str(fused))
        return fused.read_bytes()


def export_torchscript(
    module: nn.Module,
    example: tuple[Tensor, ...],
    target: Path | io.BytesIO,
    inputs: dict[str, dict[int, str]],
    outputs: dict[str, dict[int, str]],
) -> None:
    """Write a module as ONNX; axes that vary are named."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, example, str(target) if isinstance(target, Path) else target, input_names=[*inputs],
            output_names=[*outputs], dynamo=False, opset_version=OPSET, dynamic_axes={**inputs, **outputs},
        )  # fmt: skip
