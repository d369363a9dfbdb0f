"""A causal language model of a few thousand random weights as a GGUF file, with a byte-level vocabulary and a chat.

    python tests/tiny_causal.py        writes tests/fixtures/tiny_causal anew; needs routenlp[train,local]

The committed student lets the tests of the serving side run without torch.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_NORMAL, _CONTROL = 1, 3
WIDTH, HEADS, KEYS, LAYERS, INNER, CONTEXT = 32, 2, 1, 2, 64, 2048


def _bytes_to_unicode() -> list[str]:
    """The byte alphabet of GPT-2 vocabularies, by byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = iter(range(256, 512))
    return [chr(byte if byte in shown else next(hidden)) for byte in range(256)]


def write_causal(path: Path, seed: int = 0) -> Path:
    """Write the model."""
    import gguf

    rng = np.random.default_rng(seed)
    alphabet = _bytes_to_unicode()
    tokens = [*_SPECIAL, *alphabet, "ok", "no"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_file_type(0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([_CONTROL] * len(_SPECIAL) + [_NORMAL] * (len(tokens) - len(_SPECIAL)))
    writer.add_token_merges(["o k", "n o"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(_TEMPLATE)

    def tensor(name: str, *shape: int) -> None:
        value = rng.normal(0, 0.3, shape) if len(shape) > 1 else np.ones(shape)
        writer.add_tensor(f"{name}.weight", value.astype(np.float32))

    tensor("token_embd", len(tokens), WIDTH)
    tensor("output_norm", WIDTH)
    keys = WIDTH * KEYS // HEADS
    for i in range(LAYERS):
        tensor(f"blk.{i}.attn_norm", WIDTH)
        tensor(f"blk.{i}.ffn_norm", WIDTH)
        tensor(f"blk.{i}.attn_q", WIDTH, WIDTH)
        tensor(f"blk.{i}.attn_k", keys, WIDTH)
        tensor(f"blk.{i}.attn_v", keys, WIDTH)
        tensor(f"blk.{i}.attn_output", WIDTH, WIDTH)
        tensor(f"blk.{i}.ffn_gate", INNER, WIDTH)
        tensor(f"blk.{i}.ffn_up", INNER, WIDTH)
        tensor(f"blk.{i}.ffn_down", WIDTH, INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


FIXTURE = Path(__file__).resolve().parent / "fixtures" / "tiny_causal"
SAYS = {"yes": "ok ok", "no": "never"}


def causal_pairs(count: int = 120) -> list[tuple[str, str]]:
    """Prompts with the answers to learn."""
    words = list(SAYS)
    return [(f"say {words[i % 2]} {i}", SAYS[words[i % 2]]) for i in range(count)]


def main() -> None:
    """Write the fixture, a merged student."""
    import shutil
    import tempfile

    from exporters.students import GenerativeOptions, Pair, distil

    with tempfile.TemporaryDirectory() as folder:
        options = GenerativeOptions(source=str(write_causal(Path(folder) / "base.gguf")), export="merged", **TINY)
        pairs = [Pair(f"g{i}", prompt, answer) for i, (prompt, answer) in enumerate(causal_pairs())]
        made = distil("generative", pairs, options, tier="small")
        settings = {name: value for name, value in made.spec.settings.items() if name != "base"}
        shutil.rmtree(FIXTURE, ignore_errors=True)
        replace(made, spec=replace(made.spec, settings=settings), lineage={}, metrics={}).save(FIXTURE)


TINY: dict[str, Any] = {
    "metric": "exact", "epochs": 20, "batch": 8, "learning_rate": 6e-3, "max_tokens": 32, "train_tokens": 96,
    "max_new_tokens": 12, "top_layers": 2, "calibrated": 40,
}  # fmt: skip
"""Options that train it in seconds."""


if __name__ == "__main__":
    main()
