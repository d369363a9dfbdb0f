"""The encoder in int8: weights with a scale per channel, activations with one scale per tensor, found as they come.

Three things would cost most of the accuracy, and are set apart first (`prepare`):

- A single channel ten times as large as the rest takes three of eight bits from all others; sentence encoders have such
  channels before both feed-forward products. These few are multiplied in float32 beside the int8 product (LLM.int8(),
  Dettmers et al., 2022).
- Attention is one fused operator; there part of the range moves from its input to its weights (SmoothQuant, Xiao et
  al., 2023).
- Tokens have vectors of unlike length, so the token table gets a scale per row; the small tables become float16.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_core.onnx_encoder import open_session
from router_core.text_tokens import TextTokens

__all__ = ["prepare", "probe_tokens", "quantise", "quantise_plainly"]

Float = NDArray[np.float64]

_OUTLIER = 8.0
"""Times the median channel that the largest one must exceed for a product to be split."""

_CHANNELS = 8
"""Channels set apart at most; more cost time and gain little."""

_SHARE = 0.6
"""Share of the range, in logarithms, that moves from the input of attention to its weights."""

_LEVELS = 127
_FLOAT = 1
"""ONNX's number of float32."""

_PROBES, _LENGTH = 32, 62


def probe_tokens(tokens: TextTokens, vocabulary: int) -> list[NDArray[np.int64]]:
    """Token ids drawn from the whole vocabulary, between the special ones: the graph then depends on no record."""
    rng = np.random.default_rng(0)
    edge = tokens.ids("")
    length = min(_LENGTH, tokens.max_tokens - 2)
    return [np.concatenate((edge[:1], rng.integers(0, vocabulary, length), edge[-1:])) for _ in range(_PROBES)]


def quantise(graph: bytes, probes: list[NDArray[np.int64]]) -> bytes:
    """Quantise an encoder, with what would cost most of the accuracy set apart.

    Parameters
    ----------
    graph
        ONNX bytes of an encoder with its pooling, in float32 (`body.export_body`).
    probes
        Token ids of texts on which ranges are measured (`probe_tokens`).
    """
    prepared, exact = prepare(graph, probes)
    return quantise_plainly(prepared, exact, ("MatMul", "Attention"))


def quantise_plainly(graph: bytes, exact: Sequence[str] = (), operators: Sequence[str] | None = None) -> bytes:
    """Quantise any fused graph: weights to int8 with a scale per channel, activations as they come.

    Without ``DefaultTensorType`` the quantiser refuses fused operators, whose output types it cannot infer.

    Parameters
    ----------
    graph
        ONNX bytes, in float32.
    exact
        Names of nodes that stay float32.
    operators
        Operators that become int8; None for all that can.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(graph)
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)  # it asks for a preparation that fused graphs do not pass
        try:
            quantize_dynamic(
                source, target, weight_type=QuantType.QInt8, per_channel=True, reduce_range=False,
                op_types_to_quantize=operators and list(operators), nodes_to_exclude=list(exact),
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )  # fmt: skip
        finally:
            logging.disable(before)
        return target.read_bytes()


def prepare(graph: bytes, probes: list[NDArray[np.int64]]) -> tuple[bytes, list[str]]:
    """Rewrite an encoder so that int8 suits it; see `quantise` for the parameters.

    Returns
    -------
    tuple
        The graph, which differs from the given one by the rounding of the tables only, and the names of products
        that must stay float32.
    """
    import onnx

    model = onnx.load_from_string(graph)
    rewriting = _Rewriting(model)
    ranges = _ranges(model, sorted({node.input[0] for node in model.graph.node if rewriting.is_product(node)}), probes)
    for node in model.graph.node:
        if node.op_type == "Gather" and rewriting.is_table(node.input[0]):
            rewriting.table(node)
        elif not rewriting.is_product(node):
            rewriting.nodes.append(node)
        elif node.op_type == "Attention":
            rewriting.smooth(node, ranges[node.input[0]])
        elif (largest := ranges[node.input[0]]).max() > _OUTLIER * np.median(largest):
            rewriting.split(node, largest)
        else:
            rewriting.nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(rewriting.nodes)
    return model.SerializeToString(deterministic=True), rewriting.exact


class _Rewriting:
    """The nodes of the new graph so far."""

    def __init__(self, model: Any) -> None:
        self.graph = model.graph
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.nodes: list[Any] = []
        self.exact: list[str] = []

    def is_product(self, node: Any) -> bool:
        """Whether a node multiplies activations with weights."""
        return node.op_type in ("MatMul", "Attention") and node.input[1] in self.weights

    def is_table(self, name: str) -> bool:
        """Whether a tensor is a table of embeddings."""
        return name in self.weights and len(self.weights[name].dims) == 2

    def smooth(self, node: Any, largest: Float) -> None:
        """Move range from the input of a product to its weights."""
        strongest = np.maximum(np.abs(self._weight(node)).max(axis=1), 1e-9)
        scale = largest**_SHARE / strongest ** (1.0 - _SHARE)
        self._rescale(node, 1.0 / scale, scale)
        self.nodes.append(node)

    def split(self, node: Any, largest: Float) -> None:
        """Multiply the largest channels in float32 beside the product of the rest."""
        weight = self._weight(node)
        apart = np.sort(np.argsort(-largest, kind="stable")[:_CHANNELS])
        name, source, output = f"{node.name}_apart", node.input[0], node.output[0]
        rest = np.ones(len(weight))
        rest[apart] = 0.0
        self._rescale(node, rest, rest)
        node.output[0] = f"{name}_rest"
        self.nodes.append(node)
        which = self._constant(f"{name}_channels", apart.astype(np.int64))
        few = self._constant(f"{name}_weight", weight[apart].astype(np.float32))
        self._add("Gather", [source, which], f"{name}_input", axis=-1)
        self._add("MatMul", [f"{name}_input", few], name)
        self._add("Add", [f"{name}_rest", name], output)
        self.exact.append(name)

    def table(self, node: Any) -> None:
        """Store the token table in int8 with a scale per row, another one in float16."""
        from onnx import numpy_helper

        tensor = self.weights[node.input[0]]
        rows = numpy_helper.to_array(tensor).astype(np.float64)
        if node.input[1] != "input_ids":
            tensor.CopyFrom(numpy_helper.from_array(rows.astype(np.float16), tensor.name))
            output, node.output[0] = node.output[0], f"{node.name}_half"
            self.nodes.append(node)
            self._add("Cast", [node.output[0]], output, to=_FLOAT)
            return
        scale = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-9) / _LEVELS
        tensor.CopyFrom(numpy_helper.from_array(np.round(rows / scale).astype(np.int8), tensor.name))
        name, output = f"{node.name}_rows", node.output[0]
        step = self._constant(f"{name}_step", scale.astype(np.float32))
        node.output[0] = f"{name}_int8"
        self.nodes.append(node)
        self._add("Cast", [node.output[0]], f"{name}_float", to=_FLOAT)
        self._add("Gather", [step, "input_ids"], f"{name}_steps")
        self._add("Mul", [f"{name}_float", f"{name}_steps"], output)

    def _weight(self, node: Any) -> Float:
        from onnx import numpy_helper

        return np.asarray(numpy_helper.to_array(self.weights[node.input[1]]), dtype=np.float64)

    def _rescale(self, node: Any, factor: Float, other: Float) -> None:
        """Multiply the input of a product, and the rows of its weights, by channel."""
        from onnx import numpy_helper

        name, weight = f"{node.name}_even", self._weight(node) * other[:, None]
        self.weights[node.input[1]].CopyFrom(numpy_helper.from_array(weight.astype(np.float32), node.input[1]))
        self._add("Mul", [node.input[0], self._constant(f"{name}_factor", factor.astype(np.float32))], name)
        node.input[0] = name

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def _add(self, kind: str, inputs: list[str], output: str, **attributes: int) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))


def _ranges(model: Any, names: list[str], probes: list[NDArray[np.int64]]) -> dict[str, Float]:
    """Largest magnitude of every channel of some tensors, over all tokens of all probes."""
    import onnx
    from onnx import helper

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    session = open_session(watched.SerializeToString())
    found: dict[str, Float] = {}
    for ids in probes:
        batch = ids[None, :]
        values = session.run(names, {"input_ids": batch, "attention_mask": np.ones_like(batch)})
        for name, value in zip(names, values, strict=True):
            largest = np.abs(value).max(axis=(0, 1)).astype(np.float64)
            found[name] = np.maximum(found.get(name, 1e-6), largest)
    return found
