"""The bytes that each token stands for. Decoding a token alone cannot tell: it may be half of a character."""

from __future__ import annotations

import re

from tokenizers import Tokenizer as Backend

_SPACE = "▁"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_of() -> dict[str, int]:
    """Byte-level vocabularies write a printable byte of Latin-1 as itself, and the n-th other one as the
    character 256 + n."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


class TokenBytes:
    """Bytes of a token by its id, looked up once each."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._added = {i: token.content for i, token in backend.get_added_tokens_decoder().items()}
        decoder = b"" if backend.decoder is None else backend.decoder.__getstate__()
        self._byte_of = _byte_of() if b'"ByteLevel"' in decoder else None
        self._known: dict[int, bytes] = {}

    def __getitem__(self, id: int) -> bytes:
        """Bytes of token `id`; none for an id that has no token."""
        found = self._known.get(id)
        if found is None:
            found = self._known[id] = self._look_up(id)
        return found

    def _look_up(self, id: int) -> bytes:
        if (added := self._added.get(id)) is not None:
            return added.encode()
        piece = self._backend.id_to_token(id)
        if piece is None:
            return b""
        if self._byte_of is not None:
            known = [self._byte_of.get(c) for c in piece]
            return piece.encode() if None in known else bytes(b for b in known if b is not None)
        if byte := _BYTE.fullmatch(piece):
            return bytes.fromhex(byte[1])
        return piece.replace(_SPACE, " ").encode()
