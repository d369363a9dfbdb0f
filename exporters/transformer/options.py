"""Options of the transformer router; the defaults were chosen by cross-validation on train rows."""

from __future__ import annotations

from dataclasses import dataclass, field

from exporters.transformer.fitting import HeadOptions
from exporters.transformer.losses import LossWeights
from router_core.errors import InputError

__all__ = ["TransformerOptions"]


@dataclass(frozen=True)
class TransformerOptions:
    """How the router is made.

    Attributes
    ----------
    layers
        Layers of the encoder that are kept (0 = first); None keeps all.
    pooled
        Hidden states that are pooled over the tokens, counted after `layers` are chosen; 1 = after the first layer.
    pooling
        How tokens are pooled: "mean", and "max" behind it.
    max_tokens
        Tokens kept of a text: head and tail. Twice or four times as many where train texts would not stay distinct.
    components, hidden
        Principal components the heads see, and those handed on as the hidden vector.
    heads, losses
        Training of the heads.
    stack_strength, prior_strength
        See `stacking.fit_stack`.
    finetune
        Top layers to train beside the heads; 0 = frozen encoder.
    distil
        Passes over the texts in which an encoder with fewer layers learns to give the features of the whole one.
    quantised
        Serve int8; False serves float32.
    min_agreement
        Least share of start tiers that int8 and float32 must agree on; below, the export is refused.
    max_difference
        Largest mean absolute difference of pass probabilities between int8 and float32.
    """

    layers: tuple[int, ...] | None = (0, 1, 2)
    pooled: tuple[int, ...] = (-1,)
    pooling: tuple[str, ...] = ("mean", "max")
    max_tokens: int = 128
    components: int = 64
    hidden: int = 48
    heads: HeadOptions = field(default_factory=HeadOptions)
    losses: LossWeights = field(default_factory=LossWeights)
    stack_strength: float = 10.0
    prior_strength: float = 20.0
    finetune: int = 0
    distil: int = 0
    quantised: bool = True
    min_agreement: float = 0.9
    max_difference: float = 0.03

    def __post_init__(self) -> None:
        """Refuse options that make no router."""
        if self.pooling not in {("mean",), ("mean", "max")}:
            raise InputError("pooling must be ('mean',) or ('mean', 'max').")
        if self.max_tokens < 8 or self.components < 1 or self.hidden < 1 or self.finetune < 0 or self.distil < 0:
            raise InputError(
                "max_tokens must be at least 8, components and hidden at least 1, finetune and distil at least 0."
            )
