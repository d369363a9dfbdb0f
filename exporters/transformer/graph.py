"""The head of the served graph: pooled features and a label row in, calibrated outputs and the hidden vector out."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from exporters.transformer.body import export_torchscript
from exporters.transformer.heads import Heads, expected_gap, split_scores
from exporters.transformer.labels import LabelTable
from exporters.transformer.stacking import Stack

__all__ = ["Projection", "RouterHead", "export_head", "merge"]

_SURE = 1e-6
_CONSTANT = 1e-4
"""Spread below which a feature is rounding noise."""


@dataclass(frozen=True)
class Projection:
    """Principal components of the pooled features, from texts alone.

    Attributes
    ----------
    center, matrix
        float32 ``[F]`` and ``[F, d]``: ``z = (features - center) @ matrix``, largest component first, scaled to mean
        square 1 over all components together: small components stay small.
    """

    center: NDArray[np.float32]
    matrix: NDArray[np.float32]

    @classmethod
    def of(cls, features: NDArray[np.float32], size: int, columns: slice = slice(None)) -> Projection:
        """Find the components of some columns of the features; those that hardly vary count for nothing."""
        center = np.zeros(features.shape[1])
        center[columns] = features[:, columns].mean(axis=0, dtype=np.float64)
        scale = features[:, columns].std(axis=0, dtype=np.float64)
        scale = np.where(scale < _CONSTANT, np.inf, scale)
        z = (features[:, columns] - center[columns]) / scale
        _, vectors = np.linalg.eigh(z.T @ z)
        vectors = vectors[:, ::-1][:, : min(size, z.shape[1])]
        vectors = vectors * np.where(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])] < 0, -1.0, 1.0)
        spread = max(float((z @ vectors).std()), 1e-9)
        matrix = np.zeros((features.shape[1], vectors.shape[1]))
        matrix[columns] = vectors / scale[:, None] / spread
        return cls(center.astype(np.float32), matrix.astype(np.float32))

    def apply(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project features ``[n, F]`` to ``[n, d]``."""
        return np.asarray((features - self.center) @ self.matrix, dtype=np.float32)


class RouterHead(nn.Module):
    """Projection, ensemble and stack as one module.

    Parameters
    ----------
    heads
        The trained ensemble.
    table
        Its labels.
    stack
        Calibration per label row.
    enter, hidden
        Projections to the heads' input and to the hidden vector.
    """

    def __init__(self, heads: Heads, table: LabelTable, stack: Stack, enter: Projection, hidden: Projection) -> None:
        super().__init__()
        self.heads = heads
        self.tiers = heads.sizes.tiers
        constants = {
            "task": torch.from_numpy(table.task), "subtask": torch.from_numpy(table.subtask),
            "enter_center": torch.from_numpy(enter.center), "enter_matrix": torch.from_numpy(enter.matrix),
            "hidden_center": torch.from_numpy(hidden.center), "hidden_matrix": torch.from_numpy(hidden.matrix),
        }  # fmt: skip
        for name in ("pass_weight", "pass_offset", "gap_weight", "gap_offset", "difficulty_weight",
                     "difficulty_offset"):  # fmt: skip
            constants[name] = torch.from_numpy(getattr(stack, name)).float()
        for name, value in constants.items():
            self.register_buffer(name, value)

    def forward(self, features: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the outputs `router_core.onnx_encoder.OUTPUTS` of features ``[b, F]`` and label rows ``[b]``."""
        buffers = dict(self.named_buffers())
        z = torch.matmul(features - buffers["enter_center"], buffers["enter_matrix"])
        raw = self.heads(z, buffers["task"][label], buffers["subtask"][label]).mean(0)
        scores = split_scores(raw, self.tiers)
        first, preference, gap = scores.tier, scores.preference, expected_gap(scores)
        odds = torch.cat([
            first[:, : j + 1].logsumexp(-1, keepdim=True) - first[:, j + 1 :].logsumexp(-1, keepdim=True)
            for j in range(self.tiers - 1)
        ], dim=-1)  # fmt: skip
        columns = torch.stack([scores.passes, -gap, odds, preference[:, :-1] - preference[:, -1:]], dim=-1)
        logit = (columns * buffers["pass_weight"][label]).sum(-1) + buffers["pass_offset"][label]
        chance = logit.sigmoid().clamp(_SURE, 1.0 - _SURE)
        columns = torch.stack([gap, 1.0 - logit.sigmoid()], dim=-1)
        expected = ((columns * buffers["gap_weight"][label]).sum(-1) + buffers["gap_offset"][label]).clamp(-1.0, 1.0)
        hard = scores.difficulty * buffers["difficulty_weight"][label] + buffers["difficulty_offset"][label]
        hidden = torch.matmul(features - buffers["hidden_center"], buffers["hidden_matrix"])
        return chance, expected, hard.sigmoid(), hidden


def export_head(head: RouterHead, features: int) -> bytes:
    """Export the head alone as ONNX, in float32: it is small, and its numbers decide."""
    buffer = io.BytesIO()
    names = ("pass_probability", "gap", "difficulty", "hidden")
    export_torchscript(
        head.eval(), (torch.zeros(2, features), torch.zeros(2, dtype=torch.int64)), buffer,
        {"features": {0: "b"}, "label": {0: "b"}}, {name: {0: "b"} for name in names},
    )  # fmt: skip
    return buffer.getvalue()


def merge(body: bytes, head: bytes) -> bytes:
    """Join encoder and head into the one graph that is served."""
    import onnx
    from onnx import compose

    first, second = onnx.load_from_string(body), onnx.load_from_string(head)
    second = compose.add_prefix(second, "head_", rename_inputs=False, rename_outputs=False)
    first.ir_version = second.ir_version = max(first.ir_version, second.ir_version)
    joined = compose.merge_models(first, second, io_map=[("features", "features")])
    joined.producer_name, joined.producer_version, joined.doc_string = "routenlp", "", ""
    del joined.metadata_props[:]
    for node in joined.graph.node:
        # Stack traces of the exporter name folders of the machine it ran on.
        node.doc_string = ""
        del node.metadata_props[:]
    return joined.SerializeToString(deterministic=True)
