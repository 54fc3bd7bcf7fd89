"""What identifies the content of a block: the identity of the block before it (or the salt that a sequence
begins with), and its own tokens."""

from __future__ import annotations

from collections.abc import Hashable

Key = tuple[Hashable, tuple[int, ...]]
