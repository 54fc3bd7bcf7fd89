"""What users write cannot become a control token of the chat."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models.tiny import tiny_gguf
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from twofold.models.control_text import ControlTokens
from twofold.models.loading import load_checkpoint
from twofold.models.tokenizer import TextTokenizer

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    tokenizer = load_checkpoint(tiny_gguf(tmp_path_factory.mktemp("t") / "m.gguf")).text_tokenizer()
    assert isinstance(tokenizer, TextTokenizer)
    return tokenizer


HOSTILE = st.lists(
    st.sampled_from([*CONTROL, "<|im_", "end|>", "the", " ", "\n", "\U000f0000", "<", "|"]), max_size=12
).map("".join)


@settings(max_examples=200, deadline=None)
@given(contents=st.lists(HOSTILE, min_size=1, max_size=3))
def test_messages_cannot_write_control_tokens(tiny: TextTokenizer, contents: list[str]) -> None:
    messages = [{"role": "user", "content": content} for content in contents]
    ids = tiny.chat_ids(messages)
    assert tiny.decode(ids, skip_special=False) == tiny.chat(messages)  # not a character is lost
    control = {tiny.encode(token)[0] for token in CONTROL}
    start, end = tiny.encode("<|im_start|>")[0], tiny.encode("<|im_end|>")[0]
    assert [i for i in ids if i in control] == [start, end] * len(contents)


def test_harmless_messages_are_encoded_as_ever(tiny: TextTokenizer) -> None:
    messages = [{"role": "user", "content": "the 12 in\n\n the ü \U000f0000"}]
    assert tiny.chat_ids(messages) == tiny.encode(tiny.chat(messages))


def test_cut_is_what_the_library_does_with_white_space_and_overlaps() -> None:
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate("ab<>s \n")}, []))
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    backend.add_special_tokens(
        [
            AddedToken("<s>", special=True, rstrip=True),
            AddedToken("<s>>", special=True, lstrip=True, normalized=False),
        ]
    )
    tokens = ControlTokens(backend.get_added_tokens_decoder())
    for text in ("a<s>  b", "a  <s>b", "a  <s>> b", "<s><s>>", "<<s>", "ab", ""):
        ids: list[int] = []
        for part in tokens.cut(text):
            ids += [part] if isinstance(part, int) else backend.encode(part, add_special_tokens=False).ids
        assert ids == backend.encode(text, add_special_tokens=False).ids, text


def test_private_characters_run_out_with_a_message() -> None:
    tokens = ControlTokens({0: AddedToken("<s>", special=True)})
    every = "".join(map(chr, range(0xF0000, 0x10FFFE)))
    with pytest.raises(ValueError, match="private use"):
        tokens.hide([{"content": every + "<s>"}])
    hidden, stands_for = tokens.hide([{"content": ["\U000f0000<s>"]}])
    assert (hidden, stands_for) == ([{"content": ["\U000f0000\U000f0001"]}], {"\U000f0001": "<s>"})


def test_the_leading_token_is_added_on_request_and_once() -> None:
    backend = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    backend.add_special_tokens([AddedToken("<s>", special=True)])
    backend.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 2)])
    template = "<s>{{ messages[0].content }}"
    tokenizer = TextTokenizer(backend, bos_id=2, chat_template=template)
    assert tokenizer.encode("ab<s>") == [2, 0, 1, 2]
    assert tokenizer.encode("ab<s>", leading=False) == [0, 1, 2]
    assert tokenizer.encode("ab", special=False) == [0, 1]
    for content in ("ab", "a<s>b"):
        ids = tokenizer.chat_ids([{"role": "user", "content": content}])
        assert (ids[0], ids.count(2)) == (2, 1)
