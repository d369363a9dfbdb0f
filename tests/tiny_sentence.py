"""Sentence encoders of a few thousand random weights, as folders.

    python tests/tiny_sentence.py       writes tests/fixtures/tiny_sentence and tiny_tokens anew; needs routenlp[train]

The committed folders let the tests of the serving side run without torch.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tiny_encoder import MAX_TOKENS, write_folder

SENTENCE = Path(__file__).resolve().parent / "fixtures" / "tiny_sentence"
TOKENS = Path(__file__).resolve().parent / "fixtures" / "tiny_tokens"


def main() -> None:
    """Write the fixtures."""
    from exporters.transformer.sentence import export_sentence_encoder, export_token_vectors

    with tempfile.TemporaryDirectory() as folder:
        source = str(write_folder(Path(folder)))
        export_sentence_encoder(SENTENCE, source, max_tokens=MAX_TOKENS, name="tiny")
        export_token_vectors(TOKENS, source, size=8, max_tokens=MAX_TOKENS, name="tiny")


if __name__ == "__main__":
    main()
