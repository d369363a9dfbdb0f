"""Sentence encoders and token vectors as exported: served without torch, and close to the encoder they come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs routenlp[train]")

from tiny_encoder import MAX_TOKENS, write_folder
from tiny_sentence import SENTENCE, TOKENS

from exporters.transformer.sentence import export_sentence_encoder, export_token_vectors
from exporters.transformer.source import load_source
from router_core.errors import InputError
from router_core.sentence_encoder import TokenVectors, load_sentence_encoder
from router_core.text_tokens import TextTokens

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny encoder as a model folder."""
    return str(write_folder(tmp_path_factory.mktemp("tiny")))


def test_the_graph_is_the_encoders_mean(source: str, tmp_path: Path) -> None:
    """In float32 the folder gives the mean of the last layer; in int8 nearly that."""
    exact = load_sentence_encoder(export_sentence_encoder(tmp_path / "exact", source, max_tokens=32, quantised=False))
    small = load_sentence_encoder(export_sentence_encoder(tmp_path / "small", source, max_tokens=32))
    loaded = load_source(source, 32)
    for text in ("prove the sum", "which letter is right?", ""):
        ids = torch.from_numpy(TextTokens(loaded.tokenizer, 32).ids(text)[None, :])
        with torch.no_grad():
            wanted = loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.mean(1)[0]
        found = exact.embed(text)
        assert np.allclose(found, wanted.numpy(), atol=1e-4)
        near = small.embed(text)
        assert float(near @ found) > 0.95 * np.linalg.norm(near) * np.linalg.norm(found)


def test_token_vectors_weigh_words_and_not_frames(source: str, tmp_path: Path) -> None:
    """Special tokens count for nothing; a size beyond the encoder's width is refused."""
    encoder = load_sentence_encoder(export_token_vectors(tmp_path / "tokens", source, size=8, max_tokens=MAX_TOKENS))
    assert isinstance(encoder, TokenVectors)
    assert encoder.size == 8
    assert not encoder.embed("").any()
    assert encoder.embed("prove").any()
    with pytest.raises(InputError, match="size"):
        export_token_vectors(tmp_path / "wide", source, size=99)


def test_committed_folders_are_what_is_exported(source: str, tmp_path: Path) -> None:
    """The fixtures of the serving tests come from this code: same files, same sizes of vectors."""
    made = (
        export_sentence_encoder(tmp_path / "s", source, max_tokens=MAX_TOKENS, name="tiny"),
        export_token_vectors(tmp_path / "t", source, size=8, max_tokens=MAX_TOKENS, name="tiny"),
    )
    for fresh, kept in zip(made, (SENTENCE, TOKENS), strict=True):
        assert sorted(item.name for item in fresh.iterdir()) == sorted(item.name for item in kept.iterdir())
        one, two = load_sentence_encoder(fresh), load_sentence_encoder(kept)
        assert one.header == two.header
        assert np.allclose(one.embed("prove the sum"), two.embed("prove the sum"), atol=1e-3)
