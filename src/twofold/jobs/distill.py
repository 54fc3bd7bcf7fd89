"""Distilling a model's attention into signs, from its name to a file."""

from __future__ import annotations

from pathlib import Path

import torch

from twofold.models.find import find_checkpoint
from twofold.techniques.attention.had import Had
from twofold.techniques.attention.had_distill import Distilled, Lessons, Progress, distil
from twofold.techniques.attention.had_file import save_codes
from twofold.techniques.attention.had_layout import TopN
from twofold.workloads.text import prose

HELD_OUT = 2
"""Windows that judge and are not learned from, behind the others."""


def distill_model(
    name: str,
    out: Path,
    lessons: Lessons,
    top: TopN,
    *,
    windows: int,
    window: int,
    text: Path | None = None,
    progress: Progress | None = None,
) -> Distilled:
    """Distil the model called `name` on `windows` stretches of `window` tokens and write what its heads
    learned to `out`. text: what to learn from; None: the second half of the built-in prose, since quality
    is measured on its beginning. ValueError where the text is too short or has no tokenizer to read it."""
    checkpoint = find_checkpoint(name)
    Had(top.n, top.context).check(checkpoint.spec)
    if checkpoint.tokenizer is None:
        raise ValueError(f"{name} has no tokenizer, and heads are distilled on text")
    if not out.parent.is_dir():
        raise ValueError(f"there is no folder {str(out.parent)!r} to write {out.name!r} to")
    found = checkpoint.tokenizer.encode(_text(text), special=False)
    needed = (windows + HELD_OUT) * window
    if len(found) < needed:
        raise ValueError(
            f"the text has {len(found)} tokens; {windows} windows of {window} and {HELD_OUT} that judge need "
            f"{needed}: give a longer one, or fewer windows"
        )
    ids = torch.tensor(found[:needed]).view(-1, window)
    result = distil(checkpoint, ids[:windows], ids[windows:], top, lessons, progress)
    notes = {"model": checkpoint.spec.name, "n": str(top.n), "context": str(top.context)}
    save_codes(out, result.codes, notes)
    return result


def _text(path: Path | None) -> str:
    if path is None:
        whole = prose()
        return whole[len(whole) // 2 :]
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"text {str(path)!r} cannot be read: {error}") from None
