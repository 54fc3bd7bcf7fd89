"""TriForce: a small model with a streaming cache drafts for the model itself over a retrieved part of its
cache, which drafts for the model over all of it. For long texts, where the cache outweighs the weights.

Source: "TriForce: Lossless Acceleration of Long Sequence Generation with Hierarchical Speculative Decoding",
arXiv:2404.11912; parameters and defaults as in the authors' repository, Infini-AI-Lab/TriForce
(test/on_chip.py): the small model guesses one token at a time, the middle one says whether it agrees and adds
one of its own, until gamma guesses are there. Differs: chunks are chosen in a pass of the middle model, each
layer by its own query, rather than in a pass over the whole cache; query heads that share a KV head choose
together; the best chunks are kept longest; the small model's window moves by blocks, and begins with what is
in the window alone; any number of requests at once, and under sampling a guess counts where it is what the
model itself drew. The tree variant is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from twofold.engine.draft_kit import DraftKit, layers_of
from twofold.engine.draft_model import DraftModel, Feed
from twofold.engine.model_drafter import ModelDrafter, Spread, Turn
from twofold.engine.request import Request
from twofold.engine.totals import EngineTotals
from twofold.models.spec import ModelSpec
from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.decoding.triforce_models import RetrievalModel, WindowModel


class TriForceDrafter(ModelDrafter):
    """Two draft models, one checking the other. counters also: retrievals (times chunks were chosen),
    retrieved entries, inner_drafted and inner_accepted: guesses of the small model, and those of them that
    the middle one shares."""

    def __init__(self, technique: TriForce) -> None:
        super().__init__(technique.gamma)
        self.technique = technique
        self.counters |= dict.fromkeys(("retrievals", "retrieved", "inner_drafted", "inner_accepted"), 0)
        self._inner_rate = 0.0
        self._inner_spread = Spread()

    def make_models(self, kit: DraftKit) -> list[DraftModel]:
        """The small model and the retrieving one."""
        t = self.technique
        recent = t.draft_cache_budget - t.start_size - t.gamma
        self.small = WindowModel(kit.draft_model(t.draft), t.start_size, recent, t.gamma)
        self.middle = RetrievalModel(kit, t.budget, t.chunk_size, t.rebuild, t.gamma)
        return [self.small, self.middle]

    def draft(self, turns: Sequence[Turn], limit: int) -> None:
        """`turns`' guesses: all that are wanted, by as many rounds as that takes."""
        small, middle = self.small, self.middle
        windows = small.settle(turns)
        due = [turn for turn in turns if middle.is_due(turn.request)]
        middle.refresh([turn for turn in turns if turn not in due])
        if due:
            before = middle.retrieved
            chosen = middle.build(due)
            self.counters["retrievals"] += len(due)
            self.counters["retrieved"] += middle.retrieved - before
            for i, turn in enumerate(due):
                turn.add(chosen[i]) if chosen else turn.count(1)
        while going := [turn for turn in turns if turn.open]:
            # The middle model adds a token of its own to a guess that it shares.
            guessing = [turn for turn in going if turn.wanted - turn.made >= 2]
            feeds = [_pending(turn, windows[turn.request.id].computed) for turn in guessing]
            parts = [
                Feed(t.request, windows[t.request.id], n, 1) for t, n in zip(guessing, feeds, strict=True)
            ]
            guesses = small.run(small.catch_up(parts, limit)) if parts else []
            for i, turn in enumerate(guessing):
                turn.add(guesses[i]) if guesses else turn.count(1)
            self._check(going, {id(turn) for turn in guessing})

    def _check(self, turns: Sequence[Turn], guessing: set[int]) -> None:
        """Let the middle model go on with `turns`, of which those in `guessing` end with a guess to check."""
        middle, feeds = self.middle, []
        for turn in turns:
            sequence = middle.sequences[turn.request.id]
            asked = 2 if id(turn) in guessing else 1
            feeds.append(Feed(turn.request, sequence, _pending(turn, sequence.computed), asked))
        chosen = middle.run(feeds)
        for i, turn in enumerate(turns):
            if id(turn) not in guessing:
                turn.add(chosen[i]) if chosen else turn.count(1)
                continue
            self.counters["inner_drafted"] += 1
            if chosen:
                shared = turn.request.draft_ids[-1] == chosen[i][0]
            else:
                shared = bool(self._inner_spread.take(turn.request.id, self._inner_rate, 1))
            self.counters["inner_accepted"] += shared
            if not shared:
                middle.sequences[turn.request.id].advance(-1)
                if chosen:
                    turn.drop_last()
            if chosen:
                turn.add(chosen[i][shared : shared + 1])
            else:
                turn.count(int(shared))

    def forget(self, request: Request) -> None:
        """`request` has ended."""
        super().forget(request)
        self._inner_spread.forget(request.id)

    def modelled(self, behaviour: Mapping[str, float]) -> ModelDrafter:
        """Itself, with both acceptance rates as given."""
        self._inner_rate = behaviour["inner_acceptance_rate"]
        if not 0.0 <= self._inner_rate <= 1.0:
            raise ValueError(f"inner_acceptance_rate must lie in 0 … 1, not {self._inner_rate}")
        return super().modelled(behaviour)

    def measured(self, totals: EngineTotals) -> dict[str, float]:
        """Both acceptance rates."""
        drafted = self.counters["inner_drafted"]
        inner = {"inner_acceptance_rate": self.counters["inner_accepted"] / drafted} if drafted else {}
        return super().measured(totals) | inner


def _pending(turn: Turn, computed: int) -> int:
    """Tokens of `turn`, guesses included, of which `computed` went through a model."""
    return turn.request.num_tokens + turn.made - computed


def _claim(key: str, figure: str, claimed: float, hardware: str, baseline: str, **rest: str) -> Claim:
    return Claim(
        key,
        f"generation speed {figure}",
        (claimed, claimed),
        "x",
        baseline=baseline,
        model="Llama2-7B-128K, drafted by Llama-68M",
        hardware=hardware,
        source="arXiv:2404.11912, abstract",
        **rest,
    )


@dataclass(frozen=True)
class TriForce(Technique):
    """Hierarchical speculation.

    draft: the small model, by name or path, or `self` or `self:N`: two thirds or N of the model's own layers;
    gamma: guesses per verification; budget: entries of the retrieval cache, in chunks of `chunk_size`;
    draft_cache_budget: tokens that the small model sees, `start_size` of them the first of the text; rebuild:
    tokens after which chunks are chosen anew.
    """

    draft: str = "self"
    gamma: int = 6
    budget: int = 4096
    chunk_size: int = 8
    draft_cache_budget: int = 256
    start_size: int = 16
    rebuild: int = 256

    info: ClassVar[Info] = Info(
        name="triforce",
        title="TriForce: Lossless Acceleration of Long Sequence Generation with Hierarchical Speculative "
        "Decoding",
        source="arXiv:2404.11912",
        summary="a small model drafts for the model over a part of its cache, which drafts for all of it",
        seams=("decoding",),
        lossless=True,
        needs=("draft-model",),
        provides=("drafts",),
        excludes=("drafts", "cache-storage", "retention"),
        reasons={
            "drafts": "one step verifies the guesses of one drafter: name one technique that drafts",
            "cache-storage": "the retrieval cache copies entries of the model's own cache one by one, which "
            "one that packs them together cannot give: draft with two-model-speculation or copyspec",
            "retention": "the retrieval cache chooses among all entries, of which the other technique drops "
            "some: draft with two-model-speculation or copyspec",
        },
        behaviour={
            "acceptance_rate": (
                0.97,
                "Infini-AI-Lab/TriForce, project page: more than 0.9 of drafted tokens are accepted, of 6 at "
                "a time, which is 0.97 each",
            ),
            "inner_acceptance_rate": (
                0.54,
                "arXiv:2305.09781, table 1 (second-hand): LLaMA-68M's first choice for LLaMA-7B, stochastic "
                "decoding",
            ),
        },
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        _claim(
            "on-chip",
            "with 120k tokens of text",
            2.31,
            "NVIDIA A100 80 GB",
            "the same model without drafts",
            setup="triforce:on_chip",
        ),
        _claim(
            "offloading",
            "with the cache on the host",
            7.78,
            "two NVIDIA RTX 4090",
            "the authors' own offloading system without drafts",
            setup="triforce:offloading",
        ),
        Claim(
            "offloading-seconds",
            "time to generate one token with the cache on the host",
            (0.108, 0.108),
            "s",
            "none",
            "Llama2-7B-128K, drafted by Llama-68M",
            "two NVIDIA RTX 4090",
            "arXiv:2404.11912, abstract",
            "triforce:offloading_seconds",
        ),
        _claim(
            "one-4090",
            "with the cache on the host, one GPU",
            4.86,
            "NVIDIA RTX 4090",
            "DeepSpeed-Zero-Inference",
            why_not="the baseline is DeepSpeed-Zero-Inference, whose time for a token is not published apart "
            "from this ratio and whose way of reading the cache from the host is not modelled",
        ),
    )

    def __post_init__(self) -> None:
        for name in ("gamma", "budget", "chunk_size", "draft_cache_budget", "start_size", "rebuild"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"technique triforce: {name} is {value!r}; it must be a whole number from 1 up"
                )
        if self.budget % self.chunk_size or self.budget < 2 * self.chunk_size:
            raise ValueError(
                f"technique triforce: budget={self.budget} must be two chunks or more of chunk_size="
                f"{self.chunk_size}"
            )
        if self.rebuild > self.budget:
            raise ValueError(
                f"technique triforce: rebuild={self.rebuild} is more than budget={self.budget}: newer tokens "
                "would have pushed every chunk out before others are chosen"
            )
        if self.draft_cache_budget <= self.start_size + self.gamma:
            raise ValueError(
                f"technique triforce: draft_cache_budget={self.draft_cache_budget} leaves no room for recent "
                f"tokens beside start_size={self.start_size} and gamma={self.gamma}"
            )

    def check(self, spec: ModelSpec) -> None:
        """ValueError where the model has no such part, or keys that no chunk describes."""
        layers_of(self.draft, spec.num_layers)
        if spec.latent is not None:
            raise ValueError(
                f"technique triforce: {spec.name} caches latent vectors, of which no chunks are retrieved: "
                "draft with two-model-speculation or copyspec"
            )

    def drafter(self) -> TriForceDrafter:
        """A drafter of its own for every engine."""
        return TriForceDrafter(self)
