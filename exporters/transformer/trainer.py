"""`TransformerTrainer`: an encoder trainer for `router_core.fitting.fit_bundle`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from exporters.transformer.body import body_digest, export_body
from exporters.transformer.features import FeatureStore
from exporters.transformer.fitted import FittedTransformer
from exporters.transformer.fitting import FittedHeads, fit_heads
from exporters.transformer.graph import Projection, RouterHead, export_head
from exporters.transformer.int8 import probe_tokens, quantise
from exporters.transformer.labels import group_folds
from exporters.transformer.losses import WITH_RECORDS, LossWeights
from exporters.transformer.options import TransformerOptions
from exporters.transformer.preferences import Preference, check_preferences
from exporters.transformer.source import PACKAGED, Source, keep_layers, load_source
from exporters.transformer.stacking import SCORES, fit_stack
from exporters.transformer.targets import TrainingSet
from router_core.encoder import Examples
from router_core.errors import InputError
from router_core.onnx_encoder import OnnxHeader
from router_core.text_tokens import TextTokens

if TYPE_CHECKING:
    from router_core.fitting.tables import Progress

__all__ = ["TransformerTrainer"]

_PROBES = 300
_DISTINCT = 0.99


class TransformerTrainer:
    """Fits the transformer router; an `EncoderTrainer`.

    With a frozen encoder all trainings of one fit share pooled features, which are computed once.

    Parameters
    ----------
    source
        ``"minilm"`` (packaged), a folder, or a hub id.
    options
        How the router is made.
    preferences
        Preference records to learn from beside the graded pairs.
    graded
        Normalised prompts of all records, so that preferences about held-out ones stay unused.
    progress
        Called as the work goes on.
    name
        Name in reports and on the command line; the source when None.
    """

    def __init__(
        self,
        source: str = PACKAGED,
        options: TransformerOptions | None = None,
        *,
        preferences: Sequence[Preference] = (),
        graded: Collection[str] = (),
        progress: Progress | None = None,
        name: str | None = None,
    ) -> None:
        self.source_name, self._name = source, name or source
        self.options = options or TransformerOptions()
        self.preferences, self.graded, self.progress = tuple(preferences), frozenset(graded), progress
        self._source: Source | None = None
        self._stores: dict[str, tuple[FeatureStore, FeatureStore | None]] = {}

    @property
    def name(self) -> str:
        """``"minilm"``, the folder or hub id, or as it was named."""
        return self._name

    def train(self, examples: Examples, *, seed: int) -> FittedTransformer:
        """Fit on all examples; the same examples and seed give the same parts.

        Raises
        ------
        InputError
            If there are too few examples, a quality is missing, a preference names an unknown tier, or the encoder
            cannot be used.
        """
        least = 2 * self.options.heads.members
        if len(examples) < least:
            raise InputError(f"The transformer router needs at least {least} train queries, not {len(examples)}.")
        if not np.isfinite(examples.quality).all():
            raise InputError("The transformer router was given a query without quality; drop such queries first.")
        if self.preferences:
            check_preferences(self.preferences, examples.tiers, "the preference records")
        torch.set_num_threads(1)
        data = TrainingSet.of(examples, self.preferences, self.graded)
        source = self._encoder(data.texts)
        options = self.options
        fold = group_folds(data.texts, options.heads.members, seed)
        if options.finetune:
            from exporters.transformer.finetune import finetune

            source = finetune(source, data, self._layers(source), fold, options, seed, self._report("fine-tuning"))
        store, exact = self._store(source)
        features = store.of(data.texts, self._report("reading texts"))
        enter = Projection.of(features, options.components)
        # The first block is a mean over tokens, of the highest frozen layer where the top is fine-tuned.
        hidden = Projection.of(features, options.hidden, slice(0, source.width))
        given = data.preferences > 0 and not options.losses.preference
        weights = replace(options.losses, preference=WITH_RECORDS) if given else options.losses
        fitted = fit_heads(
            enter.apply(features), data.table, data.targets, fold, weights, options.heads, seed,
            self._report("fitting heads"),
        )  # fmt: skip
        head, used = self._head(examples, data, fitted, fold, (enter, hidden), weights)
        told = {
            "source": self.source_name,
            "layers": source.layers,
            "pooling": options.pooling,
            "finetuned": options.finetune,
            "quantised": options.quantised,
            "losses": asdict(weights),
            "preferences": data.preferences,
            "score_shares": used,
            "compared_on": "tune" if examples.held_out else "train",
            "epochs": fitted.epochs,
        }
        header = OnnxHeader(
            examples.tiers, data.table.labels, hidden.matrix.shape[1], options.max_tokens, source.positions,
            source.vocabulary, store.tokens.digest(), told,
        )  # fmt: skip
        limits = (options.min_agreement, options.max_difference)
        exported = export_head(head, features.shape[1])
        return FittedTransformer(header, store, exact, exported, source.tokenizer, _probes(examples), limits)

    def _head(
        self,
        examples: Examples,
        data: TrainingSet,
        fitted: FittedHeads,
        fold: NDArray[np.int64],
        projections: tuple[Projection, Projection],
        weights: LossWeights,
    ) -> tuple[RouterHead, dict[str, float]]:
        """Calibrate out of fold on the graded queries."""
        n = len(examples)
        # Fine-tuned layers have seen every fold but the first.
        rows = np.flatnonzero(fold[:n] == 0) if self.options.finetune else np.arange(n)
        table = replace(data.table, levels=tuple(level[rows] for level in data.table.levels))
        stack = fit_stack(
            [scores[rows] for scores in fitted.out_of_fold],
            table,
            examples.passes()[rows, :-1].astype(np.float64),
            examples.quality[rows, -1:] - examples.quality[rows, :-1],
            examples.difficulty()[rows],
            group_folds([examples.text[i] for i in rows.tolist()], 5, 0) if self.options.finetune else fold[:n],
            self.options.stack_strength,
            self.options.prior_strength,
            [name for name in SCORES if not getattr(weights, name)],
        )
        return RouterHead(fitted.heads, data.table, stack, *projections), stack.used

    def _encoder(self, texts: list[str]) -> Source:
        """The encoder before fine-tuning; loaded, cut and distilled once."""
        if self._source is None:
            options = self.options
            whole = load_source(self.source_name, options.max_tokens)
            self.options = options = replace(options, max_tokens=_enough(whole, texts, options.max_tokens))
            kept = None if options.layers is None else tuple(i for i in options.layers if i < whole.layers)
            if not kept or kept == tuple(range(whole.layers)):
                self._source = whole
            else:
                self._source = keep_layers(whole, kept)
                if options.distil:
                    from exporters.transformer.student import distil

                    self._source = distil(
                        whole, self._source, texts, options.max_tokens, options.distil, 0, self._report("distilling")
                    )
        return self._source

    def _layers(self, source: Source) -> tuple[int, ...]:
        """Hidden states that are pooled; with fine-tuning, the highest frozen one and the last."""
        if self.options.finetune:
            if self.options.finetune >= source.layers:
                raise InputError(f"{source.name} has {source.layers} layers; fine-tune fewer of them.")
            return (source.layers - self.options.finetune, source.layers)
        return tuple(layer if layer >= 0 else source.layers + 1 + layer for layer in self.options.pooled)

    def _store(self, source: Source) -> tuple[FeatureStore, FeatureStore | None]:
        """Feature stores of the graph that serves and, where that is int8, of the float32 one."""
        options, digest = self.options, body_digest(source.model)
        if digest not in self._stores:
            if self.progress is not None:
                self.progress("exporting the encoder", 0, 1)
            tokens = TextTokens(source.tokenizer, options.max_tokens)
            exact = export_body(source, self._layers(source), options.pooling)
            if options.quantised:
                small = quantise(exact, probe_tokens(tokens, source.vocabulary))
                self._stores[digest] = (FeatureStore(small, tokens), FeatureStore(exact, tokens))
            else:
                self._stores[digest] = (FeatureStore(exact, tokens), None)
        return self._stores[digest]

    def _report(self, what: str) -> Callable[[int, int], None] | None:
        progress = self.progress
        if progress is None:
            return None
        return lambda done, total: progress(what, done, total)


def _enough(source: Source, texts: list[str], least: int) -> int:
    """Tokens to keep so that texts stay distinct: long texts may differ only in their middle, behind a shared frame."""
    different = [*dict.fromkeys(texts)]
    for kept in (least, 2 * least, 4 * least):
        tokens = TextTokens(source.tokenizer, min(kept, source.positions))
        if len({tokens.ids(text).tobytes() for text in different}) >= _DISTINCT * len(different):
            break
    return tokens.max_tokens


def _probes(examples: Examples) -> list[tuple[str, str, str]]:
    """A fixed sample of the held-out queries, else of the train queries, by a hash of the text.

    Being fixed, the trainings of one fit share most of it.
    """
    queries = examples.held_out or tuple(zip(examples.text, examples.task, examples.subtask, strict=True))
    return sorted(queries, key=lambda one: hashlib.sha256(one[0].encode("utf-8", "replace")).digest())[:_PROBES]
