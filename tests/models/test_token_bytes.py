"""The bytes of tokens join to the text, for both kinds of vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.models.tiny import tiny_gguf
from tokenizers import Tokenizer, decoders, models

from twofold.models.loading import load_checkpoint
from twofold.models.token_bytes import TokenBytes
from twofold.models.tokenizer import TextTokenizer


@pytest.mark.parametrize("text", ["in the 12", "é€😀\n\t\x00\x7f", "a\u00a0b"])
def test_bytes_of_a_byte_level_vocabulary_join_to_the_text(tmp_path: Path, text: str) -> None:
    tokenizer = load_checkpoint(tiny_gguf(tmp_path / "m.gguf"), weights=False).tokenizer
    assert isinstance(tokenizer, TextTokenizer)
    ids = tokenizer.encode(text, special=False)
    assert b"".join(tokenizer.token_bytes[i] for i in ids) == text.encode()


def test_every_byte_has_a_token(tmp_path: Path) -> None:
    tokenizer = load_checkpoint(tiny_gguf(tmp_path / "m.gguf"), weights=False).tokenizer
    assert isinstance(tokenizer, TextTokenizer)
    single = {tokenizer.token_bytes[i] for i in range(tokenizer.vocab_size)}
    assert {bytes([b]) for b in range(256)} <= single
    assert b"<|im_end|>" in single
    assert tokenizer.token_bytes[tokenizer.vocab_size + 5] == b""


def test_sentencepiece_marks_spaces_and_bytes() -> None:
    vocab = {"<unk>": 0, "▁the": 1, "<0xE2>": 2, "é": 3}
    backend = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    table = TokenBytes(backend)
    assert [table[i] for i in (1, 2, 3)] == [b" the", b"\xe2", "é".encode()]
