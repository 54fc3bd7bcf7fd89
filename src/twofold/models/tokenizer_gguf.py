"""Tokenizers from GGUF metadata: byte-level BPE ("gpt2") and SentencePiece BPE ("llama").

How text is cut before merging ("pre") and what each kind of token means follow llama.cpp
(src/llama-vocab.cpp); the patterns are those of the models' own tokenizer.json files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from twofold.errors import nearest
from twofold.models.tokenizer import TextTokenizer

_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # tokenizer.ggml.token_type
_SPACE = "▁"

_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_LLAMA3 = _WORDS + r"|\p{N}{1,3}" + _TAIL
_QWEN2 = _WORDS + r"|\p{N}" + _TAIL
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SLASH_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LEAD = r"[^\r\n\p{L}\p{N}]?"
_TEKKEN = rf"{_LEAD}{_UPPER}*{_LOWER}+|{_LEAD}{_UPPER}+{_LOWER}*|\p{{N}}{_SLASH_TAIL}"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O = rf"{_LEAD}{_UPPER}*{_LOWER}+{_ENDING}|{_LEAD}{_UPPER}+{_LOWER}*{_ENDING}|\p{{N}}{{1,3}}{_SLASH_TAIL}"


@dataclass(frozen=True, slots=True)
class _Cut:
    """How a byte-level tokenizer cuts text before merging.

    pattern: regular expression of the pieces (None = GPT-2's); digits: every digit is a piece; whole: a piece
    that is a token is taken without merging; nfc: text is composed first; bos: a leading token unless the
    file says otherwise.
    """

    pattern: str | None = None
    digits: bool = False
    whole: bool = False
    nfc: bool = False
    bos: bool = False


_GPT2 = _Cut()
_CUTS: dict[str, _Cut] = {
    "default": _GPT2,
    "gpt-2": _GPT2,
    "smollm": _Cut(digits=True),
    "starcoder": _Cut(digits=True),
    "refact": _Cut(digits=True),
    "command-r": _Cut(digits=True),
    "llama-bpe": _Cut(_LLAMA3, whole=True, bos=True),
    "llama3": _Cut(_LLAMA3, whole=True, bos=True),
    "llama-v3": _Cut(_LLAMA3, whole=True, bos=True),
    "qwen2": _Cut(_QWEN2, nfc=True),
    "deepseek-r1-qwen": _Cut(_QWEN2, nfc=True),
    "tekken": _Cut(_TEKKEN, whole=True, bos=True),
    "gpt-4o": _Cut(_GPT4O),
}

# Control tokens that end a turn or a text in one family or another, beside those that the file names.
_ENDS = {
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>", "<end_of_turn>",
    "<eos>", "</s>",
}  # fmt: skip


def gguf_tokenizer(metadata: Mapping[str, Any]) -> TextTokenizer | None:
    """The tokenizer in the metadata of a GGUF file, None where there is none.

    Raises ValueError for a kind of tokenizer that is not supported, and for metadata that does not fit
    together.
    """
    model = metadata.get("tokenizer.ggml.model")
    if model is None or model == "none":
        return None
    if model not in ("gpt2", "llama"):
        raise ValueError(f"tokenizer model {model!r} is not supported; allowed: gpt2, llama")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise ValueError("tokenizer.ggml.tokens is missing")
    kinds = metadata.get("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    if len(kinds) != len(tokens):
        raise ValueError(f"{len(tokens)} tokens but {len(kinds)} token types")
    if model == "gpt2":
        backend, add_bos = _byte_level(metadata, tokens, kinds)
    else:
        backend, add_bos = _sentencepiece(metadata, tokens, kinds)
    bos, eos = (_special(metadata, f"tokenizer.ggml.{name}_token_id", len(tokens)) for name in ("bos", "eos"))
    _surround(backend, metadata, tokens, bos, eos, add_bos)
    ends = {
        _special(metadata, f"tokenizer.ggml.{name}_token_id", len(tokens)) for name in ("eos", "eot", "eom")
    }
    ends |= {i for i, token in enumerate(tokens) if kinds[i] == _CONTROL and token in _ENDS}
    return TextTokenizer(
        backend,
        eos_ids={end for end in ends if end is not None},
        bos_id=bos,
        chat_template=metadata.get("tokenizer.chat_template"),
        special={
            name: tokens[number]
            for name, number in (("bos_token", bos), ("eos_token", eos))
            if number is not None
        },
    )


def _special(metadata: Mapping[str, Any], key: str, count: int) -> int | None:
    number = metadata.get(key)
    if number is not None and not 0 <= number < count:
        raise ValueError(f"{key} is {number}, there are {count} tokens")
    return number


def _vocabulary(tokens: list[str]) -> dict[str, int]:
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        twice = next(token for number, token in enumerate(tokens) if vocabulary[token] != number)
        raise ValueError(f"the token {twice!r} appears twice")
    return vocabulary


def _add_tokens(backend: Backend, tokens: list[str], kinds: list[int], *, in_normalized: bool) -> None:
    """Control tokens are matched in the raw text, user-defined ones too or (`in_normalized`) after
    normalisation.
    """
    backend.add_special_tokens(
        [
            AddedToken(t, normalized=False, special=True)
            for t, k in zip(tokens, kinds, strict=True)
            if k == _CONTROL
        ]
    )
    backend.add_tokens(
        [
            AddedToken(t, normalized=in_normalized)
            for t, k in zip(tokens, kinds, strict=True)
            if k == _USER_DEFINED
        ]
    )


def _byte_level(metadata: Mapping[str, Any], tokens: list[str], kinds: list[int]) -> tuple[Backend, bool]:
    pre = metadata.get("tokenizer.ggml.pre", "default")
    if pre not in _CUTS:
        raise ValueError(f"pre-tokenizer {pre!r} is not supported; {nearest(str(pre), _CUTS)}")
    merges = metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, list):
        raise ValueError("tokenizer.ggml.merges is missing")
    cut = _CUTS[pre]
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("tokenizer.ggml.merges holds an entry that is not a pair")
    try:
        backend = Backend(models.BPE(_vocabulary(tokens), pairs, ignore_merges=cut.whole))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"tokens and merges do not fit together ({error})") from None
    if cut.nfc:
        backend.normalizer = normalizers.NFC()
    stages: list[Any] = []
    if cut.digits:
        stages.append(pre_tokenizers.Digits(individual_digits=True))
    if cut.pattern is not None:
        stages.append(pre_tokenizers.Split(Regex(cut.pattern), behavior="isolated"))
    stages.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut.pattern is None))
    backend.pre_tokenizer = pre_tokenizers.Sequence(stages)
    backend.decoder = decoders.ByteLevel()
    _add_tokens(backend, tokens, kinds, in_normalized=False)
    return backend, cut.bos


def _sentencepiece(metadata: Mapping[str, Any], tokens: list[str], kinds: list[int]) -> tuple[Backend, bool]:
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise ValueError("tokenizer.ggml.scores is missing or does not fit the tokens")
    # Runs of spaces that the user defined are written as they are, all other tokens with SentencePiece's
    # mark.
    tokens = [t.replace(" ", _SPACE) if k == _USER_DEFINED else t for t, k in zip(tokens, kinds, strict=True)]
    vocabulary = _vocabulary(tokens)
    unknown = _special(metadata, "tokenizer.ggml.unknown_token_id", len(tokens))
    backend = Backend(
        models.BPE(
            vocabulary,
            _merges(tokens, kinds, scores),
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    mark = normalizers.Replace(" ", _SPACE)
    decoding: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    if prefix:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), mark])
        decoding.append(decoders.Strip(" ", 1, 0))
    else:
        backend.normalizer = mark
    backend.decoder = decoders.Sequence(decoding)
    # With a prefix, normalising would prepend it to the user-defined tokens themselves.
    _add_tokens(backend, tokens, kinds, in_normalized=not prefix)
    return backend, True


def _merges(tokens: list[str], kinds: list[int], scores: list[float]) -> list[tuple[str, str]]:
    """The merges that a SentencePiece vocabulary implies: the pair whose joined piece scores highest goes
    first.
    """
    pieces = {token: i for i, token in enumerate(tokens) if kinds[i] == _NORMAL}
    found: list[tuple[float, int, int, str, str]] = []
    for piece, number in pieces.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in pieces and right in pieces:
                found.append((-scores[number], pieces[left], pieces[right], left, right))
    found.sort()
    return [(left, right) for _, _, _, left, right in found]


def _surround(
    backend: Backend,
    metadata: Mapping[str, Any],
    tokens: list[str],
    bos: int | None,
    eos: int | None,
    add_bos: bool,
) -> None:
    """Make `backend` add the leading and closing tokens that the model was trained with."""
    first = bos if metadata.get("tokenizer.ggml.add_bos_token", add_bos) else None
    last = eos if metadata.get("tokenizer.ggml.add_eos_token", False) else None
    if first is None and last is None:
        return
    parts = ["first"] * (first is not None) + ["$A"] + ["last"] * (last is not None)
    special = [(name, number) for name, number in (("first", first), ("last", last)) if number is not None]
    backend.post_processor = processors.TemplateProcessing(
        single=" ".join(parts), special_tokens=[(name, number) for name, number in special]
    )
