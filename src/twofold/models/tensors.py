"""Tensors as a checkpoint stores them: packed bytes in a known format, widened only on demand.

Canonical weight names, the same for every family and file format ([out, in] for matrices):
  embed, positions, norm, norm_bias, lm_head
  layers.{i}.attn_norm[_bias]  layers.{i}.{q,k,v,o}[_bias]  layers.{i}.{q,k}_norm  layers.{i}.post_attn_norm
  layers.{i}.mlp_norm[_bias]   layers.{i}.{gate,up,down}[_bias]  layers.{i}.post_mlp_norm
  layers.{i}.router  layers.{i}.experts.{gate,up,down} ([experts, out, in])  layers.{i}.shared.{gate,up,down}
  layers.{i}.shared_gate
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from twofold.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a checkpoint.

    format: name in `ops.formats`; shape: logical shape, last dimension contiguous; data: the stored bytes as
    a flat uint8 tensor (a view of the mapped file where possible); widen: packed bytes and shape to float32.
    """

    name: str
    format: str
    shape: tuple[int, ...]
    data: torch.Tensor
    widen: Callable[[torch.Tensor, tuple[int, ...]], torch.Tensor]

    def float(self) -> torch.Tensor:
        """The tensor in float32, shape `shape`."""
        return self.widen(self.data, self.shape)

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        return self.data.numel()


class Tokenizer(Protocol):
    """What the engine and the commands need of a tokenizer."""

    eos_ids: frozenset[int]
    bos_id: int | None

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of `text`; with `special`, the model's own leading tokens are added and control tokens
        are parsed."""

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        """Text of `ids`."""

    def chat(self, messages: list[dict[str, str]], *, generate: bool = True) -> str:
        """The chat template applied to `messages` ({"role", "content"}); ValueError where the model has
        none."""

    def chat_ids(self, messages: list[dict[str, str]], *, generate: bool = True) -> list[int]:
        """Token ids of `chat`, in which messages are plain text whatever they contain."""

    def to_json(self) -> str:
        """The tokenizer in the format of the library `tokenizers`."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A spec with its tensors by canonical name and its tokenizer.

    tokenizer: None where the files carry none that can be used; tokenizer_problem then says why.
    """

    spec: ModelSpec
    tensors: Mapping[str, StoredTensor]
    tokenizer: Tokenizer | None
    path: str
    tokenizer_problem: str = ""

    def text_tokenizer(self) -> Tokenizer:
        """The tokenizer; ValueError that says why where there is none, and that token ids still work."""
        if self.tokenizer is None:
            raise ValueError(
                f"{self.tokenizer_problem or 'there is no tokenizer'}; only token ids can be given and read"
            )
        return self.tokenizer

    def __iter__(self) -> Iterator[StoredTensor]:
        return iter(self.tensors.values())
