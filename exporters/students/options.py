"""Options of the distillation trainer; the defaults were chosen by cross-validation on train rows."""

from __future__ import annotations

from dataclasses import dataclass, field

from exporters.transformer.source import PACKAGED
from router_core.errors import InputError
from router_core.prompt_template import PLACEHOLDER, PromptTemplate

__all__ = ["ENCODER_KINDS", "EncoderOptions", "GenerativeOptions", "HeadOptions"]

ENCODER_KINDS = ("classifier", "multilabel", "tagger")
"""Kinds of students that are an encoder with a head."""


@dataclass(frozen=True)
class HeadOptions:
    """Training of the head on features.

    Attributes
    ----------
    epochs, patience
        Passes at most, and passes without a lower loss on TUNE before it stops.
    batch, learning_rate, weight_decay
        Of AdamW.
    scale
        Length that features are normalised to.
    label_smoothing
        Share of every hard label that is spread over all labels.
    """

    epochs: int = 300
    patience: int = 8
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    scale: float = 8.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.patience < 1 or self.batch < 1 or self.learning_rate <= 0 or self.scale <= 0:
            raise InputError("epochs, patience and batch must be at least 1, learning_rate and scale above 0.")
        if self.weight_decay < 0 or not 0 <= self.label_smoothing < 1:
            raise InputError("weight_decay must not be negative, label_smoothing must be in [0, 1).")


@dataclass(frozen=True)
class EncoderOptions:
    """How an encoder student is made.

    Attributes
    ----------
    source
        The packaged MiniLM, a folder, or a hub id (`exporters.transformer.source.load_source`).
    layers
        Layers of the encoder that are kept (0 = first); None keeps all. Fewer make a smaller checkpoint.
    distil
        Passes over the texts in which an encoder with fewer layers learns to give the features of the whole one.
    tagged_layers
        Hidden states a tagger's head reads, counted from the last.
    max_tokens
        Tokens kept of a text: head and tail.
    prompt_template
        What of a prompt is the text (`router_core.prompt_template`).
    finetune
        Top layers to train beside the head; 0 = frozen encoder.
    finetune_epochs, finetune_rate, finetune_batch
        Passes at most, largest learning rate of the layers, and batch, where `finetune` is above 0.
    head
        Training of the head on frozen features.
    temperature, soft_weight
        Of soft labels: loss = (1 - w) CE(hard) + w T^2 KL(soft^(1/T) || p^(1/T)) (Hinton et al. 2015, eq. 1).
    balance
        Examples weigh n(label)^-balance: 0 = as they come, 1 = every label the same.
    replay_ratio
        Earlier pairs per new pair that are mixed in, at most; None = all of them.
    folds
        Frozen features and no split given: heads of this many folds stand in for TUNE, out of fold, and the student's
        own head learns from all pairs. 0 sets a fifth of the texts aside as TUNE.
    threshold
        Probability at which a multilabel student gives a label.
    quantised
        Serve int8; False serves float32.
    min_agreement
        Least share of TUNE texts (words, for a tagger) on which int8 and float32 must give the same; below, refused.
    """

    source: str = PACKAGED
    layers: tuple[int, ...] | None = None
    distil: int = 0
    tagged_layers: tuple[int, ...] = (-1, -2, -3)
    max_tokens: int = 128
    prompt_template: str = PLACEHOLDER
    finetune: int = 0
    finetune_epochs: int = 4
    finetune_rate: float = 3e-4
    finetune_batch: int = 32
    head: HeadOptions = field(default_factory=HeadOptions)
    temperature: float = 2.0
    soft_weight: float = 0.5
    balance: float = 0.0
    replay_ratio: float | None = None
    folds: int = 5
    threshold: float = 0.5
    quantised: bool = True
    min_agreement: float = 0.9

    def __post_init__(self) -> None:
        """Refuse options that make no student."""
        if self.max_tokens < 8 or self.finetune < 0 or self.distil < 0 or self.finetune_epochs < 1:
            raise InputError(
                "max_tokens must be at least 8, finetune and distil at least 0, finetune_epochs at least 1."
            )
        if self.finetune_batch < 1 or self.finetune_rate <= 0 or not self.tagged_layers:
            raise InputError("finetune_batch must be at least 1, finetune_rate above 0, tagged_layers not empty.")
        if not 0 <= self.soft_weight <= 1 or self.temperature <= 0 or not 0 <= self.balance <= 1:
            raise InputError("soft_weight and balance must be in [0, 1], temperature above 0.")
        if self.folds < 0 or self.folds == 1:
            raise InputError("folds must be 0, or 2 and more.")
        if not 0 < self.threshold < 1 or not 0 <= self.min_agreement <= 1:
            raise InputError("threshold must be between 0 and 1, min_agreement in [0, 1].")
        _check_shared(self.replay_ratio, self.prompt_template)


@dataclass(frozen=True)
class GenerativeOptions:
    """How a generative student is made.

    Attributes
    ----------
    source
        ``"smollm2"``, the packaged SmolLM2-135M-Instruct; or a GGUF file of a llama-like model, or ``repo:file.gguf``
        on the hub.
    export
        ``"adapter"``: a few megabytes over the base, which must be there when it is served; ``"merged"``: one file
        that holds all.
    rank, alpha, top_layers
        LoRA (Hu et al. 2021) in all seven projections of the top layers.
    epochs, batch, learning_rate
        Passes at most, and AdamW with one cycle.
    max_tokens
        Tokens kept of a prompt, counted as four bytes each: head and tail.
    train_tokens
        Longest sequence in training, prompt and answer; the head of a longer prompt is cut.
    max_new_tokens
        Longest answer.
    system
        System message before every prompt; ``""`` for none.
    prompt_template
        What of a prompt is the text.
    metric, right_from
        An answer counts as right, for its confidence, when this metric against the teacher's reaches this.
    calibrated
        TUNE prompts that are answered to calibrate the confidence, at most.
    replay_ratio
        Earlier pairs per new pair that are mixed in, at most; None = all of them.
    """

    source: str = "smollm2"
    export: str = "adapter"
    rank: int = 16
    alpha: float = 32.0
    top_layers: int = 10
    epochs: int = 2
    batch: int = 8
    learning_rate: float = 1e-3
    max_tokens: int = 256
    train_tokens: int = 192
    max_new_tokens: int = 64
    system: str = ""
    prompt_template: str = PLACEHOLDER
    metric: str = "rouge_l"
    right_from: float = 0.5
    calibrated: int = 200
    replay_ratio: float | None = 1.0

    def __post_init__(self) -> None:
        """Refuse options that make no student."""
        counts = (self.rank, self.top_layers, self.epochs, self.batch, self.max_new_tokens, self.calibrated)
        if min(counts) < 1 or self.max_tokens < 16 or self.train_tokens < 32:
            raise InputError(
                "rank, top_layers, epochs, batch, max_new_tokens and calibrated must be at least 1, max_tokens at "
                "least 16, train_tokens at least 32."
            )
        if self.alpha <= 0 or self.learning_rate <= 0 or not 0 < self.right_from <= 1:
            raise InputError("alpha and learning_rate must be above 0, right_from in (0, 1].")
        if self.export not in ("adapter", "merged"):
            raise InputError(f"export is {self.export!r}; use adapter or merged.")
        _check_shared(self.replay_ratio, self.prompt_template)


def _check_shared(ratio: float | None, template: str) -> None:
    if ratio is not None and ratio < 0:
        raise InputError("replay_ratio must not be negative.")
    try:
        PromptTemplate(template)
    except ValueError as error:
        raise InputError(f"{error}.") from None
