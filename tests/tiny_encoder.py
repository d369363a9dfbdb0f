"""A sentence encoder of a few thousand random weights, and the ONNX bundle parts made of it.

    python tests/tiny_encoder.py        writes tests/fixtures/tiny_onnx anew; needs routenlp[train]

The committed parts let the tests of the serving side run without torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from router_core.encoder import Examples

if TYPE_CHECKING:
    from exporters.transformer import TransformerOptions

FIXTURE = Path(__file__).resolve().parent / "fixtures" / "tiny_onnx"
TIERS = ("small", "medium", "large")
LABELS = (("sums", "short"), ("sums", "long"), ("letters", "short"), ("letters", "long"))
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = ("sum", "letter", "prove", "name", "item", "of", "the", "is", "right", "which", "?", ".", ",")
POSITIONS = 48
MAX_TOKENS = 32


def tokenizer_json() -> bytes:
    """A WordPiece tokenizer over letters, digits and a few words."""
    pieces = [*"abcdefghijklmnopqrstuvwxyz0123456789"]
    vocabulary = [*_SPECIAL, *_WORDS, *pieces, *(f"##{piece}" for piece in pieces)]
    special = [
        {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}
        for i, token in enumerate(_SPECIAL)
    ]  # fmt: skip
    content = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {token: i for i, token in enumerate(vocabulary)}},
    }  # fmt: skip
    return json.dumps(content).encode()


def write_folder(folder: Path, layers: int = 2) -> Path:
    """Write the encoder as a model folder: config.json, model.safetensors, tokenizer.json."""
    import torch
    from transformers import BertConfig, BertModel

    tokenizer = tokenizer_json()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(json.loads(tokenizer)["model"]["vocab"]), hidden_size=16, num_hidden_layers=layers,
        num_attention_heads=2, intermediate_size=32, max_position_embeddings=POSITIONS, type_vocab_size=2,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(tokenizer)
    return folder


def tiny_examples(n: int = 160, seed: int = 0) -> Examples:
    """Two tasks with two subtasks; three tiers whose quality depends on a word, the task and the subtask."""
    rng = np.random.default_rng(seed)
    text, task, subtask, quality = [], [], [], []
    for i in range(n):
        label = int(rng.integers(4))
        hard = bool(rng.integers(2))
        text.append(f"{'prove' if hard else 'name'} the {'sum' if label < 2 else 'letter'} item {i % 37}")
        task.append(LABELS[label][0])
        subtask.append(LABELS[label][1])
        chance = np.array([0.9 - 0.6 * hard - 0.1 * (label % 2), 0.95 - 0.3 * hard, 0.97])
        quality.append((rng.random(3) < chance).astype(float))
    grades = np.array(quality)
    return Examples(text, task, subtask, grades, np.tile([1.0, 2.0, 10.0], (n, 1)), 0.0, TIERS)


def tiny_options(**changes: object) -> TransformerOptions:
    """Options that train the tiny encoder's router in a second or two."""
    from exporters.transformer import TransformerOptions
    from exporters.transformer.fitting import HeadOptions

    heads = HeadOptions(width=8, epochs=12, batch=32, learning_rate=1e-2)
    found = {"layers": None, "max_tokens": MAX_TOKENS, "components": 8, "hidden": 6, "heads": heads, **changes}
    return TransformerOptions(**found)  # type: ignore[arg-type]


def fixture_parts() -> dict[str, bytes]:
    """The committed parts."""
    return {path.name: path.read_bytes() for path in sorted(FIXTURE.iterdir())}


def main() -> None:
    """Write the fixture."""
    import tempfile

    from exporters.transformer import TransformerTrainer

    with tempfile.TemporaryDirectory() as folder:
        trainer = TransformerTrainer(str(write_folder(Path(folder))), tiny_options(min_agreement=0.5))
        parts = trainer.train(tiny_examples(), seed=0).parts()
    header = json.loads(parts["encoder.json"])
    header["told"]["source"] = "tests/tiny_encoder.py"
    parts["encoder.json"] = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    FIXTURE.mkdir(parents=True, exist_ok=True)
    for name, content in parts.items():
        (FIXTURE / name).write_bytes(content)


if __name__ == "__main__":
    main()
