"""LoRA on the top layers of a causal model: loss on the answer's tokens only, stopped early on TUNE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporters.students.causal import CausalBase
from exporters.students.gguf_files import LoraPair, gguf_name
from exporters.students.heads import Tick
from exporters.students.options import GenerativeOptions
from exporters.students.schedule import up_and_down
from exporters.transformer.features import buckets, padded
from router_core.errors import InputError

__all__ = ["Sequences", "Tuned", "train_lora"]

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sequences:
    """Prompts with answers as tokens.

    Attributes
    ----------
    ids
        Per pair prompt, answer and end, ``[t]``.
    answer
        Per pair the first place of its answer.
    weight
        Per pair.
    """

    ids: list[Ids]
    answer: list[int]
    weight: list[float]

    @classmethod
    def of(
        cls, base: CausalBase, texts: Sequence[str], answers: Sequence[str], weight: Sequence[float],
        options: GenerativeOptions,
    ) -> Sequences:  # fmt: skip
        """Tokenize as it will be served: the prompt by itself, then the answer."""
        found = cls([], [], list(weight))
        before, after = base.ids(base.prefix), base.ids(base.suffix)
        for text, answer in zip(texts, answers, strict=True):
            said = [*base.ids(answer)[: options.max_new_tokens - 1], base.end[1]]
            asked = base.ids(f"{base.prefix}{text}{base.suffix}")
            room = options.train_tokens - len(said)
            if len(asked) > room:
                inner = asked[len(before) : len(asked) - len(after)]
                asked = [*before, *inner[-max(room - len(before) - len(after), 1) :], *after]
            found.ids.append(np.array([*asked, *said], dtype=np.int64))
            found.answer.append(len(asked))
        return found


@dataclass(frozen=True, eq=False)
class Tuned:
    """What was learned.

    Attributes
    ----------
    pairs
        Updates by name in GGUF.
    tune_loss
        Mean loss a token on TUNE: before, and after every pass.
    best
        Passes after which it was lowest.
    """

    pairs: dict[str, LoraPair]
    tune_loss: tuple[float, ...]
    best: int


def train_lora(
    base: CausalBase, train: Sequences, tune: Sequences, options: GenerativeOptions, seed: int,
    progress: Tick | None = None,
) -> Tuned:  # fmt: skip
    """Train an adapter.

    Parameters
    ----------
    base
        The model; its module is wrapped, so load another for another training.
    train, tune
        TUNE stops the training and is never trained on.
    options
        How.
    seed
        Fixes order and initial weights.
    progress
        Called with batches done and batches at most.

    Raises
    ------
    InputError
        When the model has none of the projections.
    """
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    layers = int(base.model.config.num_hidden_layers)
    config = LoraConfig(
        r=options.rank, lora_alpha=options.alpha, lora_dropout=0.0, target_modules=list(_PROJECTIONS),
        layers_to_transform=list(range(max(0, layers - options.top_layers), layers)), task_type="CAUSAL_LM",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = get_peft_model(base.model, config)
        except ValueError as error:
            raise InputError(f"{base.path} has none of the projections that LoRA adapts ({error})") from error
        inner = model.base_model.model
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        total = options.epochs * -(-len(train.ids) // options.batch)
        optimizer = torch.optim.AdamW(learned, lr=options.learning_rate, weight_decay=0.0)
        schedule = up_and_down(optimizer, total)
        rng, done = np.random.default_rng(seed), 0
        losses = [_held_out(inner, tune, options.batch)]
        kept = {name: value.clone() for name, value in get_peft_model_state_dict(model).items()}
        for _ in range(options.epochs):
            model.train()
            for rows in buckets([len(one) for one in train.ids], options.batch, rng):
                each, weight = _losses(inner, train, rows)
                optimizer.zero_grad()
                ((each * weight).sum() / weight.sum()).backward()
                torch.nn.utils.clip_grad_norm_(learned, 1.0)
                optimizer.step()
                schedule.step()
                done += 1
                if progress is not None:
                    progress("training the adapter", done, total)
            losses.append(_held_out(inner, tune, options.batch))
            if losses[-1] > min(losses):
                break
            kept = {name: value.clone() for name, value in get_peft_model_state_dict(model).items()}
        set_peft_model_state_dict(model, kept)
    return Tuned(_pairs(kept), tuple(round(one, 4) for one in losses), int(np.argmin(losses)))


def _losses(model: torch.nn.Module, data: Sequences, rows: NDArray[np.intp]) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every answer token of some pairs, and its weight.

    The vocabulary is large, so the last layer is applied where an answer token is said and nowhere else.
    """
    at = rows.tolist()
    ids, mask = padded([data.ids[i] for i in at], 0)
    said = np.zeros(ids.shape, dtype=bool)
    for row, i in enumerate(at):
        said[row, data.answer[i] : len(data.ids[i])] = True
    states = model.model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).last_hidden_state
    logits = model.lm_head(states[:, :-1][torch.from_numpy(said[:, 1:])])
    each = torch.nn.functional.cross_entropy(logits, torch.from_numpy(ids[said]), reduction="none")
    weight = np.repeat(np.array([data.weight[i] for i in at]), said.sum(1))
    return each, torch.from_numpy(weight.astype(np.float32))


@torch.no_grad()
def _held_out(model: torch.nn.Module, data: Sequences, batch: int) -> float:
    model.eval()
    total, tokens = 0.0, 0
    for rows in buckets([len(one) for one in data.ids], batch):
        each, _ = _losses(model, data, rows)
        total, tokens = total + float(each.sum()), tokens + len(each)
    return total / max(1, tokens)


def _pairs(state: dict[str, Tensor]) -> dict[str, LoraPair]:
    found = {}
    for name, value in state.items():
        if name.endswith("lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            b = state[f"{module}.lora_B.weight"]
            found[gguf_name(module)] = LoraPair(value.detach().numpy().copy(), b.detach().numpy().copy())
    return found
