"""Speculative decoding with a second, smaller model: it guesses the next gamma tokens one by one, and one
pass of the model itself verifies them.

Sources: "Fast Inference from Transformers via Speculative Decoding", arXiv:2211.17192 (gamma, α), and
"Accelerating Large Language Model Decoding with Speculative Sampling", arXiv:2302.01318. Differs: under
sampling, both models draw with the same random numbers, and a guess counts where it is what the model
itself drew; the sources accept and redraw by the ratio of probabilities. Both leave the model's distribution
as it is; here even the drawn tokens stay those of a run without drafts. Where no smaller model is at hand, a
part of the model itself drafts, as in arXiv:2309.08168, but without its search for the layers to skip: those
in the middle are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from twofold.engine.draft_kit import DraftKit, layers_of
from twofold.engine.draft_model import DraftModel, Feed
from twofold.engine.model_drafter import ModelDrafter, Turn
from twofold.models.spec import ModelSpec
from twofold.techniques.base import Info, Technique


class TwoModelDrafter(ModelDrafter):
    """Drafts with the model named `draft`: one pass for the first guesses of all requests, one more for each
    further guess."""

    def __init__(self, draft: str, gamma: int) -> None:
        super().__init__(gamma)
        self.draft_name = draft

    def make_models(self, kit: DraftKit) -> list[DraftModel]:
        """The one that drafts."""
        return [kit.draft_model(self.draft_name)]

    def draft(self, turns: Sequence[Turn], limit: int) -> None:
        """`turns`' guesses, all of them where the cache has room."""
        (model,) = self.models
        going, feeds = [], []
        for turn in turns:
            sequence = model.begin(turn.request)
            pending = turn.request.num_tokens - sequence.computed
            if model.reserve(sequence, sequence.slots + pending + turn.wanted - 1):
                going.append(turn)
                feeds.append(Feed(turn.request, sequence, pending, 1))
        feeds = model.catch_up(feeds, limit)
        while going:
            chosen = model.run(feeds)
            for i, turn in enumerate(going):
                turn.add(chosen[i]) if chosen else turn.count(1)
            still = [(t, f) for t, f in zip(going, feeds, strict=True) if t.open]
            going, feeds = [t for t, _ in still], [f._replace(num=1) for _, f in still]


@dataclass(frozen=True)
class TwoModelSpeculation(Technique):
    """Speculation with a draft model.

    draft: a model of the same tokenizer by name or path, or `self` or `self:N`: two thirds or N of the
    model's own layers; gamma: guesses per verification.
    """

    draft: str = "self"
    gamma: int = 4

    info: ClassVar[Info] = Info(
        name="two-model-speculation",
        title="Fast Inference from Transformers via Speculative Decoding",
        source="arXiv:2211.17192",
        summary="a smaller model guesses the next tokens, one pass of the model verifies them",
        seams=("decoding",),
        lossless=True,
        needs=("draft-model",),
        provides=("drafts",),
        excludes=("drafts",),
        reasons={"drafts": "one step verifies the guesses of one drafter: name one technique that drafts"},
        behaviour={
            "acceptance_rate": (
                0.75,
                "arXiv:2211.17192, table 2: T5-XXL drafted by T5-small, translation, temperature 0",
            ),
        },
    )

    def __post_init__(self) -> None:
        if isinstance(self.gamma, bool) or not isinstance(self.gamma, int) or self.gamma < 1:
            raise ValueError(
                f"technique two-model-speculation: gamma is {self.gamma!r}; it must be a whole number "
                "from 1 up"
            )
        if not isinstance(self.draft, str) or not self.draft:
            raise ValueError(
                f"technique two-model-speculation: draft is {self.draft!r}; give a model's name or path, or "
                "self for a part of the model itself"
            )

    def check(self, spec: ModelSpec) -> None:
        """ValueError where the model has no such part."""
        layers_of(self.draft, spec.num_layers)

    def drafter(self) -> TwoModelDrafter:
        """A drafter of its own for every engine."""
        return TwoModelDrafter(self.draft, self.gamma)
