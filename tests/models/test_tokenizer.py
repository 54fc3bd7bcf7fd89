"""Tokenizers: ids equal those of independently built ones, text survives the way there and back, and streams
whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models.tiny import byte_level_tokens, tiny_gguf, tiny_hf_dir
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, GPT2Tokenizer, LlamaTokenizer, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

from twofold.models.gguf import read_gguf
from twofold.models.loading import load_checkpoint
from twofold.models.tokenizer import Detokenizer, TextTokenizer
from twofold.models.tokenizer_gguf import gguf_tokenizer

TEXTS = [
    "",
    "Hello, world! Isn't it the 12th of the month?",
    "  two  spaces,\ttabs\n\n\nand   newlines \n ",
    "def f(x: int) -> str:\n    return f'{x*12345}'  # don't\r\n",
    "Ünïcödé 日本語 العربية हिन्दी 😀 👩‍👩‍👧‍👦 e\u0301",
    "1234567890 3.14159e-10 ½ ²",
    "null \x00 and bell \x07 and \ufffd",
    "<|im_start|>user\nthe<|im_end|> in",
    " " * 40 + "x" + "\n" * 40,
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return tokenizer_of(tiny_gguf(tmp_path_factory.mktemp("t") / "m.gguf"))


@pytest.fixture(scope="module")
def sentencepiece() -> TextTokenizer:
    tokenizer = gguf_tokenizer(sentencepiece_metadata())
    assert tokenizer is not None
    return tokenizer


def tokenizer_of(path: Path) -> TextTokenizer:
    tokenizer = load_checkpoint(path).text_tokenizer()
    assert isinstance(tokenizer, TextTokenizer)
    return tokenizer


def sentencepiece_metadata(**changes: Any) -> dict[str, Any]:
    """A SentencePiece vocabulary: <unk>, <s>, </s>, user-defined runs of spaces, all bytes, characters, some
    words.
    """
    words = ["▁t", "he", "▁the", "in", "▁in", "ing", "▁▁", "▁a", "an", "▁an", "▁and", "nd"]
    pieces = sorted({c for w in words for c in w} | set("abcdefghijklmnopqrstuvwxyzHW.,é"))
    normal = words + pieces
    special = ["<unk>", "<s>", "</s>", "<turn>"]
    spaces = ["  ", "   "] if "tokenizer.ggml.add_space_prefix" in changes else []
    normal = [p for p in normal if p.replace("▁", " ") not in spaces]
    tokens = [*special, *spaces, *(f"<0x{b:02X}>" for b in range(256)), *normal]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * (len(tokens) - len(normal))
        + [-float(i) for i in range(len(normal))],
        "tokenizer.ggml.token_type": [2, 3, 3, 3] + [4] * len(spaces) + [6] * 256 + [1] * len(normal),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        **changes,
    }


@pytest.mark.parametrize("pre", ["default", "gpt-2", "qwen2", "llama-bpe", "tekken", "gpt-4o"])
def test_byte_level_ids_equal_transformers(pre: str, tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "m.gguf", pre=pre)
    ours, theirs = tokenizer_of(path), AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    for text in TEXTS:
        if pre == "qwen2" and "e\u0301" in text:
            continue  # composed first in Qwen's own tokenizer, which the oracle leaves out
        assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids, text
        assert ours.decode(ours.encode(text), skip_special=False) == text


def test_digits_stand_alone_for_smollm(tiny: TextTokenizer, tmp_path: Path) -> None:
    tokens, _ = byte_level_tokens()
    assert tokens.index("12") not in tiny.encode("12 12")
    assert tokens.index("12") in tokenizer_of(tiny_gguf(tmp_path / "m.gguf", pre="gpt-2")).encode("12")


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=80))
def test_text_survives_and_control_tokens_are_text_on_request(tiny: TextTokenizer, text: str) -> None:
    assert tiny.decode(tiny.encode(text, special=False), skip_special=False) == text
    marked = f"<|im_start|>{text}<|im_end|>"
    ids = tiny.encode(marked)
    assert (ids[0], ids[-1]) == (tiny.bos_id, max(tiny.eos_ids))
    assert tiny.decode(tiny.encode(marked, special=False)) == marked
    assert not tiny.eos_ids & set(tiny.encode(marked, special=False))


def test_sentencepiece_merges_by_score_with_bytes_for_the_rest() -> None:
    tokenizer = gguf_tokenizer(sentencepiece_metadata())
    assert tokenizer is not None
    tokens = sentencepiece_metadata()["tokenizer.ggml.tokens"]

    def spelled(text: str) -> list[str]:
        return [tokens[i] for i in tokenizer.encode(text)]

    assert spelled("the and") == ["<s>", "▁the", "▁and"]
    # "he" scores above "in", and "▁t" above both.
    assert spelled("thein") == ["<s>", "▁the", "in"]
    assert spelled("é€") == ["<s>", "▁", "é", "<0xE2>", "<0x82>", "<0xAC>"]
    for text in ("the  and\n in 日本 😀", "", " leading", "Hello, World."):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("<s>the") == tokenizer.encode("the")  # the leading token is not doubled


def test_sentencepiece_equals_transformers() -> None:
    metadata = sentencepiece_metadata()
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    vocab = {token: i for i, token in enumerate(tokens)}
    theirs = LlamaTokenizer(
        vocab=vocab, merges=generate_merges(vocab, dict(zip(tokens, scores, strict=True)))
    )
    ours = gguf_tokenizer(metadata)
    assert ours is not None
    for text in ("the and in", "inging the  theanand", "Hello, World. é 日本 😀", "nothing\nelse"):
        assert ours.encode(text)[1:] == theirs(text, add_special_tokens=False).input_ids, text


def test_user_defined_runs_of_spaces_are_whole() -> None:
    metadata = sentencepiece_metadata(**{"tokenizer.ggml.add_space_prefix": False})
    tokenizer = gguf_tokenizer(metadata)
    assert tokenizer is not None
    tokens = metadata["tokenizer.ggml.tokens"]
    text = "a  in   the <turn>b"
    assert [tokens[i] for i in tokenizer.encode(text)] == [
        "<s>", "a", "  ", "in", "   ", "t", "he", "▁", "<turn>", "b",
    ]  # fmt: skip
    assert tokenizer.decode(tokenizer.encode(text)) == "a  in   the b"
    assert tokenizer.decode(tokenizer.encode(text)[1:], skip_special=False) == text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer.ggml.model": "t5"}, "tokenizer model 't5' is not supported"),
        ({"tokenizer.ggml.scores": [0.0]}, "scores"),
        ({"tokenizer.ggml.bos_token_id": 10**6}, "bos_token_id is 1000000"),
        ({"tokenizer.ggml.tokens": ["a", "a"], "tokenizer.ggml.token_type": [1, 1],
          "tokenizer.ggml.scores": [0, 0]}, "'a' appears twice"),
        ({"tokenizer.ggml.token_type": [1]}, "token types"),
        ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smolm"}, "did you mean 'smollm'"),
        ({"tokenizer.ggml.model": "gpt2"}, "merges is missing"),
        ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": ["x y"]}, "do not fit together"),
        ({"tokenizer.chat_template": "{% if %}"}, "does not compile"),
    ],
)  # fmt: skip
def test_metadata_that_does_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gguf_tokenizer(sentencepiece_metadata(**changes))


def test_without_a_tokenizer_ids_still_work(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_gguf(tmp_path / "m.gguf", tokenizer=False))
    assert checkpoint.tokenizer is None
    with pytest.raises(ValueError, match=r"m\.gguf carries no tokenizer; only token ids"):
        checkpoint.text_tokenizer()
    checkpoint = load_checkpoint(tiny_gguf(tmp_path / "m.gguf", pre="unheard-of"))
    assert checkpoint.tokenizer is None
    with pytest.raises(ValueError, match="pre-tokenizer 'unheard-of' is not supported"):
        checkpoint.text_tokenizer()
    with pytest.raises(ValueError, match=r"carries no tokenizer\.json"):
        load_checkpoint(tiny_hf_dir("llama", tmp_path)).text_tokenizer()


# --- Hugging Face directories ---


def write_hf_tokenizer(directory: Path) -> Tokenizer:
    tokens, merges = byte_level_tokens()
    vocab = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab, [tuple(m.split()) for m in merges]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in tokens[-3:]])
    backend.post_processor = processors.TemplateProcessing(
        "<|im_start|> $A", None, [("<|im_start|>", len(tokens) - 2)]
    )
    backend.enable_truncation(4)  # files of models carry such settings, which are not the engine's
    backend.enable_padding(length=9)
    backend.save(str(directory / "tokenizer.json"))
    config = {
        "bos_token": {"content": "<|im_start|>"},
        "eos_token": "<|im_end|>",
        "chat_template": "config {{ bos_token }}",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    backend.no_truncation()
    backend.no_padding()
    return backend


def test_tokenizer_of_a_hugging_face_directory(tmp_path: Path) -> None:
    directory = tiny_hf_dir("llama", tmp_path)
    oracle = PreTrainedTokenizerFast(tokenizer_object=write_hf_tokenizer(directory))
    tokenizer = load_checkpoint(directory).text_tokenizer()
    for text in TEXTS[:-2]:
        assert tokenizer.encode(text) == oracle(text).input_ids
        assert tokenizer.encode(text, special=False) == oracle(text, add_special_tokens=False).input_ids
    vocab_end = len(byte_level_tokens()[0])
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (
        vocab_end - 2,
        {2, vocab_end - 1},
    )  # generation_config's and its own
    assert tokenizer.chat([{"role": "user", "content": "x"}]) == "config <|im_start|>"
    (directory / "chat_template.jinja").write_text("file {{ messages[0].content }}")
    assert load_checkpoint(directory).text_tokenizer().chat([{"role": "user", "content": "x"}]) == "file x"
    (directory / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json: not a readable tokenizer"):
        load_checkpoint(directory).text_tokenizer()


# --- chat ---


def with_template(template: str | None) -> TextTokenizer:
    tokenizer = gguf_tokenizer(sentencepiece_metadata(**{"tokenizer.chat_template": template}))
    assert tokenizer is not None
    return tokenizer


def test_chat_templates() -> None:
    messages = [{"role": "system", "content": "<b>"}, {"role": "user", "content": "hi"}]
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}\n"
        "    {{ m | tojson }}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT{{ strftime_now('%%') }}{% endif %}"
    )
    chat = with_template(template).chat
    assert chat(messages) == '<s>    {"role": "user", "content": "hi"}ASSISTANT%'
    assert chat(messages, generate=False).endswith("}")
    with pytest.raises(ValueError, match="no chat template"):
        with_template(None).chat(messages)
    with pytest.raises(ValueError, match="refuses these messages: roles must alternate"):
        with_template("{{ raise_exception('roles must alternate') }}").chat(messages)
    with pytest.raises(ValueError, match="message 1 must have the strings"):
        chat([messages[0], {"role": "user"}])


@pytest.mark.parametrize(
    "attack", ["{{ ''.__class__.__mro__ }}", "{% set _ = messages.append(1) %}", "{{ messages.x.y }}"]
)
def test_templates_run_in_a_sandbox(attack: str) -> None:
    with pytest.raises(ValueError, match="refuses these messages"):
        with_template(attack).chat([{"role": "user", "content": "hi"}])


# --- streaming ---


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"]), max_size=60),
    sizes=st.lists(st.integers(1, 5), min_size=1),
    kind=st.sampled_from(["byte-level", "sentencepiece"]),
)
def test_pieces_join_to_the_text_and_no_character_is_split(
    tiny: TextTokenizer, sentencepiece: TextTokenizer, text: str, sizes: list[int], kind: str
) -> None:
    tokenizer = tiny if kind == "byte-level" else sentencepiece
    ids, stream, pieces = tokenizer.encode(text, special=False), Detokenizer(tokenizer), []
    while ids:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(stream.add(ids[:size]))
        ids = ids[size:]
    pieces.append(stream.flush())
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_undecodable_bytes_come_out_in_the_end(tiny: TextTokenizer) -> None:
    tokens, _ = byte_level_tokens()
    lone = tokens.index("Ģ")  # a continuation byte
    start = tiny.encode("é", special=False)[0]
    stream = Detokenizer(tiny)
    assert [stream.add([start]), stream.flush()] == ["", "\ufffd"]
    stream = Detokenizer(tiny)
    pieces = [stream.add([lone]) for _ in range(100)]
    assert "".join(pieces) + stream.flush() == "\ufffd" * 100
    assert max(map(len, pieces)) < 20  # nothing is held for long
    assert stream.add([]) == ""


@pytest.mark.model
def test_the_default_models_tokenizer(smollm2: Path) -> None:
    ours = load_checkpoint("smollm2-135m", weights=False).text_tokenizer()
    metadata = read_gguf(smollm2).metadata
    vocab = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    theirs = GPT2Tokenizer(vocab=vocab, merges=merges)
    theirs.add_special_tokens({"additional_special_tokens": list(vocab)[:17]})
    theirs.chat_template = metadata["tokenizer.chat_template"]
    # SmolLM2 splits digits, which GPT-2 does not.
    theirs.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    code = Path(__file__).read_text(encoding="utf-8")
    for text in [*TEXTS, code]:
        ids = ours.encode(text)
        assert ids == theirs(text, add_special_tokens=False).input_ids
        assert ours.decode(ids, skip_special=False) == text
    messages = [{"role": "user", "content": "What is 2 + 2?"}]
    assert ours.chat(messages) == theirs.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert ours.eos_ids >= {2}
