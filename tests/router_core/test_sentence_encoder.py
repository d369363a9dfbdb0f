"""Sentence encoders as served: any text, the same bits everywhere, damage refused; no torch is needed here."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_encoder import MAX_TOKENS
from tiny_sentence import SENTENCE, TOKENS

from router_core.errors import BundleError, InputError
from router_core.sentence_encoder import (
    SavedEncoder,
    is_sentence_folder,
    load_sentence_encoder,
    save_sentence_encoder,
    sentence_encoder_from_parts,
)

FOLDERS = pytest.mark.parametrize("folder", [SENTENCE, TOKENS], ids=["onnx", "tokens"])
TEXTS = ("which letter is right?", "", "\ud800 lone", "π≈3", "a" * 50_000, "\x00", "🙂" * 400)


@FOLDERS
def test_every_text_has_one_vector(folder: Path) -> None:
    """Empty, long and odd texts give finite vectors, the same again, and the same from a pickle."""
    encoder = load_sentence_encoder(folder)
    twin = pickle.loads(pickle.dumps(encoder))  # noqa: S301 - our own
    for text in TEXTS:
        found = encoder.embed(text)
        assert found.shape == (encoder.size,)
        assert np.isfinite(found).all()
        assert np.array_equal(found, encoder.embed(text))
        assert np.array_equal(found, twin.embed(text))
    assert not np.array_equal(encoder.embed("prove the sum"), encoder.embed("name the letter"))
    assert isinstance(encoder, SavedEncoder)


@FOLDERS
def test_a_folder_comes_back(folder: Path, tmp_path: Path) -> None:
    """Saved again it is the same folder, byte for byte; something else in the way is refused."""
    encoder = load_sentence_encoder(folder)
    target = save_sentence_encoder(encoder, tmp_path / "made")
    assert is_sentence_folder(target)
    assert not is_sentence_folder(tmp_path)
    for part in folder.iterdir():
        assert (target / part.name).read_bytes() == part.read_bytes()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="exists"):
        save_sentence_encoder(encoder, tmp_path / "other")


@FOLDERS
def test_damage_is_refused(folder: Path, tmp_path: Path) -> None:
    """A changed byte, a missing part, a newer schema, another vocabulary: each one clear sentence."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    part = copy / "sentence_tokenizer.json"
    part.write_bytes(part.read_bytes() + b" ")
    with pytest.raises(BundleError, match="was changed"):
        load_sentence_encoder(copy)
    parts = load_sentence_encoder(folder).parts()
    header = json.loads(parts["sentence.json"])
    for change, message in (
        ({"format": 2}, "upgrade"),
        ({"vocabulary_sha256": "0"}, "vocabulary"),
        ({"kind": "cloud"}, "kind"),
    ):
        with pytest.raises(BundleError, match=message):
            sentence_encoder_from_parts(parts | {"sentence.json": json.dumps(header | change).encode()})
    for name in parts:
        with pytest.raises(BundleError, match="no part"):
            sentence_encoder_from_parts({key: value for key, value in parts.items() if key != name})
        with pytest.raises(BundleError):
            sentence_encoder_from_parts(parts | {name: parts[name][: len(parts[name]) // 2]})


def test_long_texts_keep_head_and_tail() -> None:
    """What stands beyond the tokens kept does not matter, what stands at either end does."""
    encoder = load_sentence_encoder(TOKENS)
    middle = "name " * (4 * MAX_TOKENS)
    whole = encoder.embed(f"prove {middle} sum")
    assert np.array_equal(whole, encoder.embed(f"prove {middle}{middle} sum"))
    assert not np.array_equal(whole, encoder.embed(f"prove {middle} letter"))
