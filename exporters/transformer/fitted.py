"""A transformer router just fitted: predicts from remembered features, and becomes one ONNX file on request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.transformer.features import FeatureStore
from exporters.transformer.graph import merge
from router_core.encoder import Prediction
from router_core.errors import InputError
from router_core.onnx_encoder import OUTPUTS, OnnxEncoder, OnnxHeader, label_row, open_session, read_outputs

__all__ = ["FittedTransformer", "agreement"]

Float = NDArray[np.float64]

_LEVELS = np.arange(1, 10) / 10.0


class FittedTransformer:
    """An `Encoder` whose body and head are still apart, so that the trainings of one fit share features.

    Parameters
    ----------
    header
        Header of the bundle part.
    store
        Features by the graph that will serve.
    exact
        Features by the same encoder in float32; None where that is the one that serves.
    head
        ONNX bytes of the head.
    tokenizer
        Content of ``tokenizer.json``.
    probes
        Texts on which int8 is compared with float32.
    limits
        Least agreement of start tiers, largest mean difference of pass probabilities.
    """

    def __init__(
        self, header: OnnxHeader, store: FeatureStore, exact: FeatureStore | None, head: bytes, tokenizer: bytes,
        probes: Sequence[tuple[str, str, str]], limits: tuple[float, float],
    ) -> None:  # fmt: skip
        self.header = header
        self._store, self._exact, self._head, self._tokenizer = store, exact, head, tokenizer
        self._probes, self._limits = probes, limits
        self._rows = {label: row for row, label in enumerate(header.labels, start=1)}
        self._session = open_session(head)
        self._parts: dict[str, bytes] | None = None

    @property
    def kind(self) -> str:
        """``"onnx"``."""
        return "onnx"

    @property
    def tiers(self) -> tuple[str, ...]:
        """Names of the tiers in cascade order."""
        return self.header.tiers

    @property
    def hidden_size(self) -> int:
        """Length of the hidden vector."""
        return self.header.hidden_size

    def predict(self, text: str, task: str | None, subtask: str | None) -> Prediction:
        """Predict for one query; a task or subtask that is None or was never seen counts as masked."""
        return self._run(self._store.one(text), label_row(self._rows, task, subtask))

    def embed(self, text: str) -> Float:
        """Return the hidden vector of a text; no label bears on it."""
        return self._run(self._store.one(text), 0).hidden

    def parts(self) -> dict[str, bytes]:
        """Join body and head, check them, and return the parts of the bundle.

        Raises
        ------
        InputError
            If the quantised router is too far from the float32 one, or the joined graph from its two halves.
        """
        if self._parts is None:
            told = {**self.header.told, "agreement": self._agreement()}
            graph = merge(self._store.graph, self._head)
            served = OnnxEncoder(replace(self.header, told=told), graph, self._tokenizer)
            self._check(served)
            self._parts = served.parts()
        return dict(self._parts)

    def in_float32(self) -> FittedTransformer:
        """The same router, to the weight, with an encoder that was not quantised; itself where it never was."""
        if self._exact is None:
            return self
        other = copy(self)
        other._store, other._exact, other._parts = self._exact, None, None
        return other

    def _run(self, features: NDArray[np.float32], row: int) -> Prediction:
        feed = {"features": features, "label": np.array([row], dtype=np.int64)}
        return read_outputs(self._session.run(OUTPUTS, feed))

    def _agreement(self) -> Mapping[str, Any]:
        if self._exact is None:
            return {"queries": 0}
        rows = [label_row(self._rows, task, subtask) for _, task, subtask in self._probes]
        served = [self._run(self._store.one(one[0]), row) for one, row in zip(self._probes, rows, strict=True)]
        exact = [self._run(self._exact.one(one[0]), row) for one, row in zip(self._probes, rows, strict=True)]
        found = agreement(
            np.stack([one.pass_probability for one in served]), np.stack([one.pass_probability for one in exact])
        )
        least, most = self._limits
        if found["start_tier"] < least or found["mean_difference"] > most:
            raise InputError(
                f"The quantised router is too far from the float32 one: start tiers agree on {found['start_tier']:.3f} "
                f"of {len(rows)} texts (at least {least} is asked), pass probabilities differ by "
                f"{found['mean_difference']:.4f} on average (at most {most}); serve float32 (quantised=False)."
            )
        return found

    def _check(self, served: OnnxEncoder) -> None:
        """The joined graph must give the very bits of its halves, or what was certified is not what is served."""
        for text, task, subtask in self._probes[:64]:
            one, two = self.predict(text, task, subtask), served.predict(text, task, subtask)
            same = (
                np.array_equal(one.pass_probability, two.pass_probability)
                and np.array_equal(one.gap, two.gap)
                and np.array_equal(one.hidden, two.hidden)
                and one.difficulty == two.difficulty
            )
            if not same:
                raise InputError("The exported graph does not give the numbers it was fitted with; please report this.")


def agreement(served: Float, exact: Float) -> dict[str, float]:
    """Compare pass probabilities ``[n, K]`` of two routers.

    Returns
    -------
    dict
        ``queries``; ``mean_difference`` and ``correlation`` of the pass probabilities of cheap tiers; ``start_tier``:
        share of queries that start at the same tier, where a tier's start threshold is a decile of its own exact
        probabilities, averaged over the nine deciles (``start_tier_worst``: the worst of them).
    """
    cheap = exact[:, :-1]
    bars: list[list[float]] = np.quantile(cheap, _LEVELS, axis=0).tolist()
    same = []
    for bar in bars:
        first = [np.argmax(np.column_stack((one[:, :-1] >= bar, np.ones(len(one)))), axis=1) for one in (served, exact)]
        same.append(float((first[0] == first[1]).mean()))
    joined = np.stack([served[:, :-1].ravel(), cheap.ravel()])
    spread = joined.std(axis=1).min() > 0.0
    return {
        "queries": len(exact),
        "mean_difference": round(float(np.abs(joined[0] - joined[1]).mean()), 6),
        "correlation": round(float(np.asarray(np.corrcoef(joined))[0, 1]), 6) if spread else 1.0,
        "start_tier": round(float(np.mean(same)), 6),
        "start_tier_worst": round(min(same), 6),
    }
